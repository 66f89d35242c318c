"""A model at one bitmap as a compressed-tensors folder of format ``pack-quantized``, which transformers and vLLM open.

Written as compressed-tensors 0.20 reads it (``compressors/pack_quantized``, ``quantization/lifecycle/apply.py``).  Each
site has ``weight_packed``, ``weight_scale`` and ``weight_shape`` in place of ``weight``.  A code q is stored as
q + 2^(b-1) in b bits, the lowest bit first, one directly after the other, and a row is filled up to a whole int32:
that is our own packing (:mod:`qalof.quantization.packing`), but for the filling.  Older readers pack 3, 5, 6 and 7 bits
otherwise (:data:`OLDEST_DENSE`); 2, 4 and 8 bits are the same in all.  A reader multiplies code and scale in the type
of the scale, so with ``float32`` it has the very weights that the model computes with.

One *config group* holds all sites of a width and a group size, named one by one; what has no width is listed under
``ignore`` where it is a linear layer.  Scales of a whole tensor are written once per row.  Adapters are merged before
rounding, as in a GGUF file (:mod:`qalof.export.gguf_tensors`): exact under ``merge_then_quantize``.

What the format cannot hold is refused (:mod:`qalof.export.compressed_tensors_limits`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.compressed_tensors_limits import FORMAT, check_expressible
from qalof.export.float_type import FloatType
from qalof.export.gguf_tensors import computed_weight, merged_weight
from qalof.export.packed import rest_names, save_configs, skeleton
from qalof.files import read_json, sealed_folder, write_json
from qalof.layer_bits import WeightWidth, bits_of
from qalof.model.at_bitmap import active_tensor, layers_of
from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel
from qalof.quantization.granularity import Granularity
from qalof.quantization.packing import pack_rows
from qalof.quantization.quantizer import QuantizedTensor, Quantizer
from qalof.reading import read_text
from qalof.site import Site
from qalof.writing import check_folder

KIND = "compressed-tensors"
FORMAT_VERSION = 1
WRITTEN_AS = "0.20.0"
"""The version of compressed-tensors whose readers were tried."""
OLDEST_DENSE = "0.18"
"""The version from which codes whose width is no divisor of 32 cross from one int32 into the next: 0.17 has gaps."""
WEIGHTS = "model.safetensors"


@dataclass
class CompressedTensors:
    """The tensors of a folder by name, and its config groups.

    ``groups``: (bits, group size or None for one scale per row) -> paths of the layers; ``differing``: site -> the
    largest difference between its weight in the folder and in the model, where there is one.
    """

    float_type: FloatType
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    groups: dict[tuple[int, int | None], list[str]] = field(default_factory=lambda: defaultdict(list))
    differing: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add numbers that have no width, in the type of the folder."""
        self.tensors[name] = self.float_type.stored(tensor.detach().cpu(), name).contiguous().clone()

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def to_json(self) -> dict[str, Any]:
        """Return the bytes of all tensors, the number of layers of each group, and the oldest reader if it matters."""
        named = {
            f"{bits} bits {_grouping(size)}": len(paths) for (bits, size), paths in sorted(self.groups.items(), key=str)
        }
        dense = any(32 % bits for bits, _ in self.groups)
        return {"tensor_bytes": self.nbytes, "groups": named, "oldest_reader": OLDEST_DENSE if dense else None}


def _grouping(group_size: int | None) -> str:
    return "per row" if group_size is None else f"in groups of {group_size}"


def check_target(folder: str | Path) -> None:
    """See whether the folder can be written, and leave everything as it was.

    Raises:
        BadInputError: a file, a folder of something else, or a place that cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, "output")
    config = folder / "config.json"
    ours = config.is_file() and (folder / WEIGHTS).is_file() and f'"{FORMAT}"' in read_text(config, "config")
    if folder.exists() and not ours:
        raise BadInputError(f"output {folder} must be new, or an older compressed-tensors folder: it is neither")


def gather(model: SwitchableModel, bitmap: Bitmap | str | int, float_type: FloatType | str) -> CompressedTensors:
    """Return all tensors of ``model`` at ``bitmap``, under transformers' names, with active adapters merged.

    Raises:
        BadInputError: see :func:`check_expressible`; or a number is beyond the range of ``float_type``.
    """
    found = CompressedTensors(FloatType.parse(float_type))
    with model.at(bitmap, eval=True) as parsed, torch.no_grad():
        check_expressible(model, parsed)
        for name in rest_names(skeleton(model), model.sites, model.settings.head_mode):
            found.add(name, active_tensor(model.model, name))
        for site in model.sites:
            _add_site(model, site, parsed[site.name].weight_width, found)
    return found


def _add_site(model: SwitchableModel, site: Site, width: WeightWidth, found: CompressedTensors) -> None:
    linear, lora = layers_of(model, site)
    path, quantizer = site_path(model.model, site), linear.scheme.weight.at(width)
    if linear.bias is not None:
        found.add(f"{path}.bias", linear.bias)
    merged = lora is not None and lora.active is not None
    if bits_of(width) >= quantizer.full_precision_bits:
        if site.is_head and getattr(model.model.config, "tie_word_embeddings", False):
            return  # the embedding has it
        weight = merged_weight(model, site)
        found.add(f"{path}.weight", weight)
        stored = found.tensors[f"{path}.weight"].float()
    else:
        fixed = None if merged else linear.fixed_codes.get(width)
        codes = fixed or _codes(model, site, width, quantizer)
        stored = _add_packed(path, codes, quantizer, site, found)
    used = computed_weight(model, site, width).cpu().float()
    if not torch.equal(stored, used):
        found.differing[site.name] = float((stored - used).abs().max())


def _codes(model: SwitchableModel, site: Site, width: WeightWidth, quantizer: Quantizer) -> QuantizedTensor:
    """Round a site's weight, with its branch merged, on the grid of its own quantizer."""
    linear, _ = layers_of(model, site)
    weight = merged_weight(model, site).detach()
    qparams = linear.weight_quantizer.qparams(weight, width, quantizer)
    return quantizer.quantize(weight, bits_of(width), qparams)


def _add_packed(
    path: str, quantized: QuantizedTensor, quantizer: Quantizer, site: Site, found: CompressedTensors
) -> torch.Tensor:
    """Add the three tensors of a layer, and return the weight that a reader makes of them, (out, in) in fp32."""
    rows, columns, bits = *quantized.codes.shape, int(quantized.bits)
    group_size = quantizer.group_size if quantizer.granularity is Granularity.GROUP else None
    found.groups[bits, group_size].append(path)
    codes = quantized.codes.cpu().to(torch.int32)
    scale = quantized.qparams.scale.detach().cpu().reshape(-1, quantizer.scale_count(rows, columns) // rows or 1)
    scale = scale.expand(rows, -1)  # one scale of a whole tensor stands for every row
    kept = found.float_type.stored(scale, f"the scales of {site.name}")
    if bool((kept == 0).any()):
        raise BadInputError(
            f"scales must be more than 0 as {found.float_type}: one of {site.name} is not; take --float-type float32"
        )
    data = pack_rows(codes + 2 ** (bits - 1), bits)
    padded = nn.functional.pad(data, (0, -data.shape[1] % 4)).contiguous()
    found.tensors |= {
        f"{path}.weight_packed": padded.view(torch.int32),
        f"{path}.weight_scale": kept.contiguous().clone(),
        f"{path}.weight_shape": torch.tensor([rows, columns]),
    }
    spread = kept.repeat_interleave(group_size or columns, dim=1)
    return (codes.to(kept.dtype) * spread).float()


def quantization_config(found: CompressedTensors, linears: list[str]) -> dict[str, Any]:
    """Return the section ``quantization_config`` of ``config.json``.

    Args:
        found: what is written.
        linears: the paths of all linear layers of the model.
    """
    named = {path for paths in found.groups.values() for path in paths}
    groups = {}
    for number, ((bits, group_size), paths) in enumerate(sorted(found.groups.items(), key=str)):
        grouping = {"strategy": "channel"} if group_size is None else {"strategy": "group", "group_size": group_size}
        weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **grouping}
        groups[f"group_{number}"] = {
            "targets": paths, "weights": weights, "input_activations": None, "output_activations": None,
            "format": FORMAT,
        }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "version": WRITTEN_AS,
        "config_groups": groups,
        "ignore": [path for path in linears if path not in named],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def save_compressed(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    float_type: FloatType | str = FloatType.FLOAT32,
) -> CompressedTensors:
    """Write ``model`` as it runs at ``bitmap``; it stays at its own bitmap and in its mode.

    Args:
        model: the model, whose active adapters are merged.
        bitmap: any form of :meth:`Bitmap.parse`.
        folder: the new folder, which appears complete or not at all; only an older one of this kind is replaced.
        tokenizer: a tokenizer that is written into the folder.
        float_type: the type of scales and of what has no width; readers compute in it.

    Returns:
        What was written, with the sites whose weights are not those of the model.

    Raises:
        BadInputError: see :func:`gather`; or the folder holds something else.
    """
    folder = Path(folder)
    check_target(folder)
    found = gather(model, bitmap, float_type)
    linears = [name for name, module in skeleton(model).named_modules() if isinstance(module, nn.Linear)]
    with sealed_folder(folder, {"format_version": FORMAT_VERSION, "kind": KIND}) as beside:
        save_configs(model, beside, tokenizer)
        config = read_json(beside / "config.json", "config")
        config |= {"architectures": [type(model.model).__name__], "dtype": str(found.float_type)}
        write_json(beside / "config.json", config | {"quantization_config": quantization_config(found, linears)})
        save_file(found.tensors, beside / WEIGHTS, {"format": "pt"})
    return found
