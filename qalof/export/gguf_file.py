"""A model at one bitmap as a GGUF file, for llama.cpp and other readers.

Two forms: :func:`write_gguf` merges the active adapters into the weights before these are rounded, and
:func:`write_gguf_lora` leaves the weights alone and writes the adapters in GGUF's own format, alongside a base file. A
merged file does not compute what a model computes that adds its branches to rounded weights: train with ``merge:
merge_then_quantize`` to lose nothing, or write the second form.  :mod:`qalof.export.gguf_tensors` says which widths are
which types, :func:`~qalof.export.gguf_tensors.departures` what differs, and :mod:`qalof.export.packed` is exact
whatever the model.  An adapter in GGUF: ``adapter.lora.alpha`` over the rank scales it, its A is ``NAME.lora_a`` (rank,
in) and its B ``NAME.lora_b`` (out, rank), rows as in the base.

The bitmap goes into the header as ``qalof.bitmap``, which readers ignore.  Without ``output.weight`` a reader takes the
embedding.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.float_type import FloatType
from qalof.export.gguf_families import family_of
from qalof.export.gguf_tensors import EMBEDDING, READABLE, Tensors, gather, values_of
from qalof.export.gguf_tokenizer import add_tokenizer
from qalof.model.at_bitmap import active_branch, layers_of
from qalof.model.gguf_source import is_gguf
from qalof.model.layers.lora_linear import SwitchableLora
from qalof.model.switchable import SwitchableModel
from qalof.site import HeadMode, Site
from qalof.writing import check_file, disk_errors

BASE_FILE, ACTIVE = "base.gguf", "active"


def write_gguf(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    merge: bool = True,
    float_type: FloatType | str = FloatType.FLOAT32,
) -> dict[str, str]:
    """Write ``model`` at ``bitmap``; ``path`` appears complete or not at all.

    Args:
        model: a model of a known family, with its language-modeling head.
        bitmap: a bitmap of the weight widths 4, 5, 8, 16 and 32.
        path: the file; an older GGUF file is replaced.
        tokenizer: a byte-level BPE, which is written into the file.
        merge: whether the active adapters are merged into the weights; otherwise they are left out.
        float_type: the type of matrices without a width.

    Returns:
        The type of each tensor, by name.

    Raises:
        BadInputError: Family or width is another one, a row does not have whole blocks, the ``gguf`` package is
            missing, or ``path`` holds something else.
    """
    return write_tensors(model, bitmap, path, tokenizer, merge=merge, float_type=float_type).types


def write_tensors(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    merge: bool = True,
    float_type: FloatType | str = FloatType.FLOAT32,
) -> Tensors:
    """Write as :func:`write_gguf` does, and return what was written."""
    path = Path(path)
    tensors = gather(model, bitmap, merge=merge, float_type=float_type)
    with model.at(bitmap, eval=True) as parsed:
        described = json.dumps(parsed.to_json())
    with _writing(path, tensors.family.architecture) as writer:
        writer.add_string("qalof.bitmap", described)
        _describe(writer, model, tensors)
        add_tokenizer(writer, tokenizer, len(tensors.values[EMBEDDING]))
        kinds = _package().GGMLQuantizationType
        for name, kind in tensors.types.items():
            writer.add_tensor(name, tensors.stored(name).numpy(), raw_dtype=kinds[kind])
    return tensors


def write_gguf_lora(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    float_type: FloatType | str = FloatType.FLOAT32,
) -> Tensors:
    """Write ``base.gguf``, the weights at ``bitmap`` without adapters, and one file per adapter.

    ``lora-NAME.gguf`` is the adapter of that name; ``lora-active.gguf`` has at each site the one that ``bitmap`` runs.

    Returns:
        What was written as the base.

    Raises:
        BadInputError: The model has no adapters, or :func:`write_gguf` refuses it.
    """
    folder = Path(folder)
    names = sorted({name for _, lora in _branches(model) for name in lora.lora_A})
    if not names:
        raise BadInputError("a GGUF adapter is written of a model that has adapters: this one has none; take gguf")
    base = write_tensors(model, bitmap, folder / BASE_FILE, tokenizer, merge=False, float_type=float_type)
    with model.at(bitmap, eval=True):
        _write_adapter(model, folder / f"lora-{ACTIVE}.gguf", None)
        for name in names:
            _write_adapter(model, folder / f"lora-{name}.gguf", name)
    return base


def gguf_values(model: SwitchableModel, bitmap: Bitmap | str | int) -> dict[str, torch.Tensor]:
    """Return what the file of ``model`` at ``bitmap`` holds: values by GGUF's names, fp32, (out, in).

    Raises:
        BadInputError: See :func:`write_gguf`.
    """
    tensors = gather(model, bitmap)
    return {name: values_of(tensors.stored(name), kind) for name, kind in tensors.types.items()}


def read_gguf(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the values of a file's tensors by name, fp32, (out, in).

    Raises:
        BadInputError: The file is not GGUF, or a tensor has a type that this module does not write.
    """
    path = Path(path)
    values = {}
    for tensor in _tensors(path):
        kind = tensor.tensor_type.name
        if kind not in READABLE:
            raise BadInputError(f"{path} must hold {', '.join(READABLE)} only: {tensor.name} is {kind}")
        values[tensor.name] = values_of(torch.from_numpy(tensor.data.copy()), kind)
    return values


def _tensors(path: Path) -> Sequence[Any]:
    try:
        found: Sequence[Any] = _package().GGUFReader(path).tensors
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BadInputError(f"{path} must be a GGUF file: {error}; write it again") from None
    return found


def tensor_bytes_in(path: str | Path) -> int:
    """Return the bytes of the tensors of a GGUF file, without the padding between them.

    Raises:
        BadInputError: The file is not GGUF.
    """
    return sum(int(tensor.n_bytes) for tensor in _tensors(Path(path)))


def check_target(path: str | Path) -> None:
    """Check that a file can be written at ``path``, without changing anything.

    Raises:
        BadInputError: The path is a folder or another kind of file, or it cannot be written.
    """
    path = Path(path)
    check_file(path, "output")
    if path.exists() and not is_gguf(path):
        raise BadInputError(f"output {path} must be new, or a GGUF file to replace: it is neither; name another")


@contextmanager
def _writing(path: Path, architecture: str) -> Iterator[Any]:
    gguf = _package()
    check_target(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        place = Path(beside) / path.name
        writer = gguf.GGUFWriter(place, architecture)
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        place.replace(path)


def _describe(writer: Any, model: SwitchableModel, tensors: Tensors) -> None:
    gguf, config = _package(), model.model.config
    weights: Counter[str] = Counter()
    for name, kind in tensors.types.items():
        if name.startswith("blk.") and tensors.values[name].dim() == 2:
            weights[kind] += tensors.values[name].numel()
    most = weights.most_common(1)[0][0]
    writer.add_name(Path(model.base.source).name)
    writer.add_block_count(config.num_hidden_layers)
    tensors.family.describe(writer, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if most == "F32" else f"MOSTLY_{most}"])


@torch.no_grad()
def _write_adapter(model: SwitchableModel, path: Path, name: str | None) -> None:
    """Write one adapter, or with None those that are active."""
    family, config = family_of(model.model.config), model.model.config
    tensors: dict[str, torch.Tensor] = {}
    alphas = {}
    for site, lora in _branches(model):
        if name is not None and name not in lora.lora_A:
            continue
        branch = active_branch(lora) if name is None else lora.factors(name)
        if branch is None:
            continue
        if site.is_head and model.settings.head_mode is HeadMode.TIED_BOTH:
            raise BadInputError(
                f"a GGUF adapter of {site.name} needs its own head: got head_mode tied_both; take tied_view or untied"
            )
        a, b, scaling = branch
        goal, short = family.tensor_of(site.name)
        alphas[goal] = scaling * len(a)
        tensors[f"{goal}.weight.lora_a"] = a
        tensors[f"{goal}.weight.lora_b"] = family.rows(short, b, config)
    with _writing(path, family.architecture) as writer:
        alpha = max(alphas.values(), default=1.0)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for key, tensor in tensors.items():
            goal = key.rpartition(".weight.")[0]
            # a file has one alpha: where adapters with different ones are active, B takes the difference
            exact = tensor if key.endswith("lora_a") or alphas[goal] == alpha else tensor * (alphas[goal] / alpha)
            writer.add_tensor(key, exact.detach().cpu().to(torch.float32).contiguous().numpy())


def _branches(model: SwitchableModel) -> list[tuple[Site, SwitchableLora]]:
    pairs = [(site, layers_of(model, site)[1]) for site in model.sites]
    return [(site, lora) for site, lora in pairs if lora is not None]


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise BadInputError("GGUF files need the package gguf: it is not installed; pip install gguf") from None
    return gguf
