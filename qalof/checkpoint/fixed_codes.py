"""Fixed codes of weights in a checkpoint: one safetensors file, which exists only if any site has some.

Tensors ``PATH/WIDTH/codes`` (out, in) in the smallest integer type that holds the width's codes, ``PATH/WIDTH/scale``
and perhaps ``PATH/WIDTH/zero``, the grid in fp32.  PATH is that of the layer in the patched model; WIDTH is ``4``, or
``4g32`` in groups of 32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from qalof.errors import BadInputError
from qalof.layer_bits import GroupedWidth, LayerBits, WeightWidth, bits_of
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.quantization.quantizer import QParams, QuantizedTensor

CODES_FILE = "fixed_codes.safetensors"
_WIDTH = re.compile(r"[0-9]+(g[0-9]+)?")
_TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32)


def save_fixed_codes(model: nn.Module, folder: Path) -> None:
    """Write the fixed codes of all sites into ``folder``; write nothing where there are none."""
    tensors = {}
    for path, linear in _linears(model):
        for width, quantized in linear.fixed_codes.items():
            label = str(width if isinstance(width, GroupedWidth) else int(width))
            lowest, highest = linear.scheme.weight.at(width).code_range(bits_of(width))
            dtype = next(d for d in _TYPES if torch.iinfo(d).min <= lowest and highest <= torch.iinfo(d).max)
            parts = {"codes": quantized.codes.to(dtype), "scale": quantized.scale, "zero": quantized.zero_point}
            for name, tensor in parts.items():
                if tensor is not None:
                    tensors[f"{path}/{label}/{name}"] = tensor.detach().cpu().contiguous().clone()
    if tensors:
        save_file(tensors, folder / CODES_FILE)


def load_fixed_codes(model: nn.Module, folder: Path) -> None:
    """Give each site the fixed codes that :func:`save_fixed_codes` wrote, and release all others.

    Raises:
        BadInputError: Sites, shapes or widths of the codes are not those of this model, which then stays as before.
    """
    path = folder / CODES_FILE
    linears = dict(_linears(model))
    try:
        stored = load_file(path) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} must be a readable safetensors file: {error}; restore it") from None
    found: dict[str, dict[WeightWidth, QuantizedTensor]] = {name: {} for name in linears}
    for key in stored:
        site, _, rest = key.partition("/")
        text, _, part = rest.partition("/")
        if site not in linears or not _WIDTH.fullmatch(text) or part not in ("codes", "scale", "zero"):
            raise BadInputError(f"{path} must fit this model: it has no site for {key}")
        if part == "codes":
            width = LayerBits.parse(text).weight_width
            found[site][width] = _read(stored, f"{site}/{text}", linears[site], width, path)
    for name, linear in linears.items():
        linear.fix_codes(found[name])


def _read(
    stored: dict[str, torch.Tensor], prefix: str, linear: SwitchableLinear, width: WeightWidth, path: Path
) -> QuantizedTensor:
    codes, scale = stored[f"{prefix}/codes"], stored.get(f"{prefix}/scale")
    quantizer, bits = linear.scheme.weight.at(width), bits_of(width)
    quantizer.check_bits(bits)
    lowest, highest = quantizer.code_range(bits)
    own = quantizer.qparams(linear.weight, bits)
    zero_point = stored.get(f"{prefix}/zero")
    fits = scale is not None and scale.shape == own.scale.shape and (zero_point is None) == (own.zero_point is None)
    if not fits or codes.shape != linear.weight.shape or codes.min() < lowest or codes.max() > highest:
        raise BadInputError(f"{path} must fit this model: {prefix} has codes or a grid of another quantizer or shape")
    assert scale is not None
    wide = torch.int32 if highest > torch.iinfo(torch.int16).max else torch.int16
    return QuantizedTensor(codes.to(wide), QParams(scale, zero_point), bits)


def _linears(model: nn.Module) -> Iterator[tuple[str, SwitchableLinear]]:
    return ((path, module) for path, module in model.named_modules() if isinstance(module, SwitchableLinear))
