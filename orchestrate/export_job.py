"""The command ``export``: a checkpoint at one bitmap as a packed folder, as a GGUF file, or as GGUF with adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from orchestrate.summary import mib
from qalof import checkpoints
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.files import MANIFEST, sealed_folder
from qalof.layer_bits import PASS_THROUGH
from qalof.locks import held
from qalof.model.lora_linear import MergeOrder
from qalof.model.pretrained import load_tokenizer
from qalof.model.switchable import SwitchableModel, read_manifest


class ExportFormat(StrEnum):
    """``packed``: exact integers; ``gguf``: one file, adapters merged; ``gguf-lora``: a base and a file an adapter."""

    PACKED = "packed"
    GGUF = "gguf"
    GGUF_LORA = "gguf-lora"


def export_checkpoint(checkpoint: Path, bitmap: str, output: Path, form: str = ExportFormat.PACKED) -> dict[str, Any]:
    """Write ``checkpoint`` at ``bitmap`` to ``output``, with its base's tokenizer.

    Returns:
        The bitmap as it was read, the place, the bytes of the parts, and for GGUF how the file departs from the model.

    Raises:
        BadInputError: a format that does not exist, a checkpoint that cannot be loaded, a bitmap that is none of it or
            that the format does not have, or an output that holds something else.
    """
    if form not in set(ExportFormat):
        raise BadInputError(f"--format must be {', '.join(ExportFormat)}: got {form!r}")
    extra = read_manifest(checkpoint)["extra"]
    with held(output, "--output"):
        return _export(checkpoint, bitmap, output, form, extra)


def _export(checkpoint: Path, bitmap: str, output: Path, form: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    model = checkpoints.load(checkpoint)
    tokenizer = load_tokenizer(model.base.source)
    parsed = model.set_bitmap(bitmap)
    named = {"bitmap": str(parsed), "id": parsed.id, "summary": summary(parsed, model.sites)}
    result: dict[str, Any] = {"format": str(form), **named, "output": str(output)}
    if form == ExportFormat.PACKED:
        return result | save_packed(model, bitmap, output, tokenizer, extra).to_json()
    return result | _export_gguf(model, bitmap, output, tokenizer, merge=form == ExportFormat.GGUF)


def describe(result: Mapping[str, Any]) -> str:
    """The result in a few lines for a terminal."""
    # each on a line of its own, since a path of any length may be broken anywhere and a name may not
    title = f"{result['output']}\n  at {short_name(result['bitmap'])}"
    if result.get("summary"):
        title += f", {result['summary']}"
    if result["format"] != ExportFormat.PACKED:
        return "\n".join([title, *_describe_gguf(result)])
    lines = {
        "packed weights": result["weight_bytes"],
        "active adapters": result["adapter_bytes"],
        "unquantized": result["unquantized_bytes"],
        "learned steps and ranges": result["quantizer_bytes"],
        "all tensors": result["total_bytes"],
        "as predicted": result["predicted_total_bytes"],
        "names and shapes of tensors": result["header_bytes"],
    }
    return "\n".join([title, *(_size(name, count) for name, count in lines.items())])


def _export_gguf(
    model: SwitchableModel, bitmap: str, output: Path, tokenizer: PreTrainedTokenizerBase, *, merge: bool
) -> dict[str, Any]:
    from qalof.export.gguf_file import write_gguf, write_gguf_lora
    from qalof.export.gguf_tensors import departures

    if merge:
        if output.is_dir() or output.suffix != ".gguf":
            raise BadInputError(f"--output of format gguf must be a file NAME.gguf: got {output}")
        types = write_gguf(model, bitmap, output, tokenizer)
        files = [output]
    else:
        if output.exists() and not _is_ours(output):
            raise BadInputError(f"output {output} must be new, or an older gguf-lora folder: it is neither")
        with sealed_folder(output, {"format_version": 1, "kind": str(ExportFormat.GGUF_LORA)}) as beside:
            types = write_gguf_lora(model, bitmap, beside, tokenizer)
        files = sorted(output.glob("*.gguf"))
    found = departures(model, bitmap, merge=merge)
    parsed = model.set_bitmap(bitmap)
    return {
        "files": {file.name: file.stat().st_size for file in files},
        "types": dict(Counter(types.values())),
        "exact_weights": not found and (merge or model.settings.merge is MergeOrder.BRANCH),
        "largest_difference": max(found.values(), default=0.0),
        "differing_sites": sorted(found),
        "unquantized_inputs": _reads_unrounded(parsed),
    }


def _size(name: str, count: int) -> str:
    return f"  {name:<28} {count:>15,} bytes {mib(count):>14}"


def _is_ours(folder: Path) -> bool:
    return (folder / "base.gguf").is_file() and (folder / MANIFEST).is_file()


def _reads_unrounded(bitmap: Bitmap) -> bool:
    """Whether the model itself rounds no activation and no cache, as a plain reader of F32 tensors does not."""
    return all(bits.activation == bits.kv == PASS_THROUGH for bits in (bitmap[name] for name in bitmap))


def _describe_gguf(result: Mapping[str, Any]) -> list[str]:
    lines = [_size(name, count) for name, count in result["files"].items()]
    lines.append("  tensors: " + ", ".join(f"{count} {kind}" for kind, count in sorted(result["types"].items())))
    if result["exact_weights"]:
        lines.append("  the weights are those that the model computes with, bit for bit")
    elif result["differing_sites"]:
        lines.append(
            f"  weights of {len(result['differing_sites'])} sites differ from the model's by up to "
            f"{result['largest_difference']:.3g}; train with method gguf and merge_then_quantize to lose nothing"
        )
    else:
        lines.append("  the model merges its adapters in another way than a GGUF adapter is added; take format gguf")
    if not result["unquantized_inputs"]:
        lines.append("  widths of activations and cache are not in the file: the reader has its own")
    return lines
