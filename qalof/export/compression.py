"""The compression of a model at a bitmap, in four measures (docs/methods/cost.md).

=================  =================================================================================
``predicted``      what :mod:`qalof.cost` says: dense codes with scales, everything else in fp32
``packed``         the tensors of the packed file, scales as the model runs with them, active adapters too
``packed_zlib``    those, through zlib at level 9
``dequantized_zlib``  a plain fp32 checkpoint of the rounded weights, through zlib at level 9
=================  =================================================================================

S3 (docs/systems.md) prints one column, "Compression", whose steps between widths do not fit any linear count of bytes:
it looks like an entropy-coded file. It does not say which one, so all four are given, against the fp32 model with its
head tied to the embedding and with a head of its own. The adapters are not part of ``predicted`` and
``dequantized_zlib``.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from qalof.bitmap import Bitmap
from qalof.cost import FLOAT_BYTES
from qalof.export.packed import PACKED_FILE, REST_FILE, rest_names, save_packed, skeleton
from qalof.layer_bits import bits_of
from qalof.model.at_bitmap import active_tensor, effective_weight, layers_of
from qalof.model.pretrained import HeadKind
from qalof.model.settings import TIED
from qalof.model.switchable import SwitchableModel
from qalof.site import HeadMode

LEVEL = 9
MEASURES = ("predicted", "packed", "packed_zlib", "dequantized_zlib")


@dataclass(frozen=True)
class Compression:
    """Bytes of a model at one bitmap, by measure, and of its fp32 original with a tied and an untied head."""

    predicted: int
    packed: int
    packed_zlib: int
    dequantized_zlib: int
    original_tied: int
    original_untied: int

    def percent(self, measure: str, tied: bool = True) -> float:
        """Return a measure in percent of the original."""
        size: int = getattr(self, measure)
        return 100 * size / (self.original_tied if tied else self.original_untied)


def compression_of(model: SwitchableModel, bitmap: Bitmap | str | int) -> Compression:
    """Return all four measures; ``model`` stays at its own bitmap.

    Raises:
        BadInputError: See :func:`qalof.export.packed.save_packed`.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "packed"
        save_packed(model, bitmap, place)
        stored = [t for name in (PACKED_FILE, REST_FILE) for t in load_file(place / name).values()]
    with model.at(bitmap, eval=True) as parsed, torch.no_grad():
        dequantized = zlib_bytes(_dequantized(model, parsed))
    storage = model.storage(bitmap)
    tied, untied = _original(model)
    return Compression(
        predicted=storage.weight_bytes + storage.unquantized_bytes,
        packed=sum(t.numel() * t.element_size() for t in stored),
        packed_zlib=zlib_bytes(stored),
        dequantized_zlib=dequantized,
        original_tied=tied,
        original_untied=untied,
    )


def zlib_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the memory of all tensors, in order, as one zlib stream at level 9."""
    stream = zlib.compressobj(LEVEL)
    size = sum(len(stream.compress(_memory(tensor))) for tensor in tensors)
    return size + len(stream.flush())


def _memory(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _dequantized(model: SwitchableModel, bitmap: Bitmap) -> Iterator[torch.Tensor]:
    """Yield the tensors of a plain fp32 checkpoint in which the weights of sites are rounded."""
    for site in model.sites:
        width = bitmap[site.name].weight_width
        linear, _ = layers_of(model, site)
        weight = effective_weight(model, site)
        rounds = bits_of(width) < linear.scheme.weight.at(width).full_precision_bits
        if not rounds and site.is_head and model.settings.head_mode in TIED:
            continue  # the embedding itself
        yield linear.quantize_weight(weight, width) if rounds else weight
        if linear.bias is not None:
            yield linear.bias
    for name in rest_names(skeleton(model), model.sites, model.settings.head_mode):
        yield active_tensor(model.model, name)


def _original(model: SwitchableModel) -> tuple[int, int]:
    """Return the bytes of the fp32 model with a tied and with an untied head."""
    storage = model.storage(32)
    stored = storage.weight_bytes + storage.unquantized_bytes
    if model.base.head is not HeadKind.CAUSAL_LM:
        return stored, stored
    head = FLOAT_BYTES * model.model.get_input_embeddings().weight.numel()
    # this comes first, since untying also changes the transformers config
    if model.settings.head_mode is HeadMode.UNTIED:
        return stored - head, stored
    return (stored, stored + head) if model.model.config.tie_word_embeddings else (stored, stored)
