"""Writing a checkpoint at one bitmap as a packed folder, as GGUF with or without adapters, or as compressed-tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from orchestrate.config.base import BitmapSpec
from orchestrate.jobs.export.config import ExportFormat
from orchestrate.jobs.export.opening import Opened, open_for_export
from qalof.bitmap import Bitmap
from qalof.bitmap_names import summary
from qalof.checkpoint.manifest import read_manifest
from qalof.errors import BadInputError
from qalof.export.compressed_tensors import check_target as check_compressed
from qalof.export.compressed_tensors import save_compressed
from qalof.export.float_type import FloatType
from qalof.export.gguf_file import check_target as check_gguf
from qalof.export.packed import check_target as check_packed
from qalof.export.packed import save_packed
from qalof.files import MANIFEST, read_json, sealed_folder, tidy
from qalof.layer_bits import FULL_PRECISION
from qalof.locks import held
from qalof.model.at_bitmap import layers_of
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.pretrained import load_tokenizer
from qalof.writing import check_folder


def export_checkpoint(
    checkpoint: Path,
    bitmap: BitmapSpec,
    output: Path,
    form: str = ExportFormat.PACKED,
    embedding_bits: int | str | None = None,
    float_type: str = FloatType.FLOAT32,
) -> dict[str, Any]:
    """Write ``checkpoint`` at ``bitmap`` to ``output``, with its base's tokenizer.

    Args:
        checkpoint: the folder of a trained model.
        bitmap: any form of :meth:`Bitmap.parse`.
        output: a folder, or a file where the format is gguf.
        form: one of :class:`ExportFormat`.
        embedding_bits: the width of an input embedding that is no site of the model, and of a head that shares it or
            stands alone; ``none`` keeps both as they are; None takes 8.
        float_type: the type of tensors that have no width.

    Returns:
        The bitmap as it was read, the place, the bytes of the parts as found and as predicted, what became of the
        embedding, and for GGUF how the file departs from the model.

    Raises:
        BadInputError: a format, width or type does not exist, the checkpoint cannot be loaded, the bitmap does not fit
            it or the format, or the output holds something else.
    """
    kind = check_request(checkpoint, output, form, float_type)
    extra = read_json(checkpoint / MANIFEST, "manifest")["extra"]
    with held(output, "--output"):
        return write_export(open_for_export(checkpoint, bitmap, form, embedding_bits), output, form, kind, extra)


def check_request(checkpoint: Path, output: Path, form: str, float_type: str) -> FloatType:
    """Check what can be refused before a model is loaded, and return the type of what has no width.

    Raises:
        BadInputError: the format or type does not exist, nothing can be written at ``output``, or no checkpoint is
            there.
    """
    if form not in set(ExportFormat):
        raise BadInputError(f"--format must be {', '.join(ExportFormat)}: got {form!r}")
    kind = FloatType.parse(float_type)
    check_output(output, form)
    read_manifest(checkpoint)
    return kind


def check_output(output: Path, form: str) -> None:
    """Check that an export can be written at ``output``, before a model is loaded; everything stays as it was.

    Raises:
        BadInputError: something else is there, the name lacks .gguf, or the place cannot be written.
    """
    if form == ExportFormat.PACKED:
        check_packed(output)
    elif form == ExportFormat.GGUF:
        if output.suffix != ".gguf":
            raise BadInputError(f"--output of format gguf must be a file NAME.gguf: got {output}")
        check_gguf(output)
    elif form == ExportFormat.COMPRESSED:
        check_compressed(output)
    else:
        check_folder(output, "output")
        if output.exists() and not _is_ours(output):
            raise BadInputError(f"output {output} must be new, or an older gguf-lora folder: it is neither")


def write_export(opened: Opened, output: Path, form: str, kind: FloatType, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Write what was opened to ``output``, which no other process may use meanwhile.

    Args:
        opened: the model and its bitmap.
        output: as for :func:`export_checkpoint`.
        form: one of :class:`ExportFormat`.
        kind: the type of tensors that have no width.
        extra: JSON that a packed folder stores too, such as the task.

    Returns:
        What :func:`export_checkpoint` returns.

    Raises:
        BadInputError: the format cannot hold the model at this bitmap.
    """
    tidy(output)
    tokenizer = load_tokenizer(opened.model.base.source)
    asked = [site for site in opened.model.sites if site.name in opened.asked]
    named = {"bitmap": str(opened.asked), "id": opened.asked.id, "summary": summary(opened.asked, asked)}
    result: dict[str, Any] = {"format": str(form), **named, "output": str(output)}
    result |= {"float_type": str(kind), "embedding": _embedding(opened)}
    if form == ExportFormat.PACKED:
        result |= save_packed(opened.model, opened.bitmap, output, tokenizer, extra, kind).to_json()
    elif form == ExportFormat.COMPRESSED:
        found = save_compressed(opened.model, opened.bitmap, output, tokenizer, kind)
        result |= found.to_json() | _departures(found.differing)
    else:
        result |= _export_gguf(opened, output, tokenizer, kind, merge=form == ExportFormat.GGUF)
    files = [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]
    return result | {"file_bytes": sum(path.stat().st_size for path in files)}


def _embedding(opened: Opened) -> dict[str, Any]:
    """Say which sites the export alone rounds, at which width, and by how much their largest weight moves."""
    added = [] if opened.embedding_bits is None else [site for site in opened.model.sites if not site.has_adapter]
    moved = 0.0
    for site in added:
        linear, _ = layers_of(opened.model, site)
        rounded = linear.quantize_weight(linear.weight.detach(), opened.bitmap[site.name].weight_width)
        moved = max(moved, float((rounded - linear.weight.detach()).abs().max()))
    return {
        "bits": opened.embedding_bits,
        "sites": [site.name for site in added],
        "largest_difference": moved,
    }


def _departures(found: Mapping[str, float]) -> dict[str, Any]:
    """Say at which sites the weights in the file are not those that the model computes with, and by how much."""
    largest = max(found.values(), default=0.0)
    return {"exact_weights": not found, "largest_difference": largest, "differing_sites": sorted(found)}


def _export_gguf(
    opened: Opened, output: Path, tokenizer: PreTrainedTokenizerBase, float_type: FloatType, *, merge: bool
) -> dict[str, Any]:
    from qalof.export.gguf_file import BASE_FILE, tensor_bytes_in, write_gguf_lora, write_tensors
    from qalof.export.gguf_tensors import departures

    model, bitmap = opened.model, opened.bitmap
    if merge:
        tensors = write_tensors(model, bitmap, output, tokenizer, float_type=float_type)
        files, whole = [output], output
    else:
        with sealed_folder(output, {"format_version": 1, "kind": str(ExportFormat.GGUF_LORA)}) as parts:
            tensors = write_gguf_lora(model, bitmap, parts, tokenizer, float_type)
        files, whole = sorted(output.glob("*.gguf")), output / BASE_FILE
    found = departures(model, bitmap, merge=merge, tensors=tensors)
    found = {name: difference for name, difference in found.items() if name in opened.asked}
    written = tensor_bytes_in(whole)
    return {
        "files": {file.name: file.stat().st_size for file in files},
        "tensor_bytes": written,
        "predicted_tensor_bytes": tensors.nbytes,
        "header_bytes": whole.stat().st_size - written,
        "types": dict(Counter(tensors.types.values())),
        **_departures(found),
        "exact_weights": not found and (merge or model.settings.merge is MergeOrder.BRANCH),
        "unquantized_inputs": _reads_unrounded(opened.asked),
    }


def _is_ours(folder: Path) -> bool:
    return (folder / "base.gguf").is_file() and (folder / MANIFEST).is_file()


def _reads_unrounded(bitmap: Bitmap) -> bool:
    """Return whether the model itself rounds no activation and no cache, like a plain reader of F32 tensors."""
    return all(bits.activation == bits.kv == FULL_PRECISION for bits in (bitmap[name] for name in bitmap))
