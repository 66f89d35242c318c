"""A model at one bitmap as packed integers: exactly what a :class:`SwitchableModel` runs there.

A sealed folder:

``packed.safetensors``  the sites' weights: ``NAME/data``, ``/scale``, perhaps ``/zero`` (:mod:`.packing`), or
                        ``/weight`` as plain numbers at full precision, where a tied head is not stored again
``rest.safetensors``    plain numbers: ``bias/NAME``; ``rest/PATH``, norms, positions, and embeddings and heads that
                        are not sites; in fp32: ``branch/NAME/a`` and ``/b``, the active adapter; ``state/NAME/...``,
                        learned steps and static ranges
``packed.json``         bitmap, settings, bytes, and what is needed to read each site's tensors
``config.json`` ...     of transformers, with the generation config, and the tokenizer where one is given

The manifest holds checksums and a version only: everything that affects a number lies in a file that a checksum covers.
Weights are written with the scale dtype that the model *ran* with, so the file is exact in each case. All tensors take
what :mod:`qalof.cost` predicts, to the byte, line by line; ``bytes`` in ``packed.json`` has both numbers, and a
separate line for what the two files need to name their tensors.  Plain numbers are fp32; another ``float_type`` rounds
them, and the file is then a model with these numbers.  Under merge order ``merge_then_quantize`` the adapters are in
the weights, and there is no branch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qalof.bitmap import Bitmap
from qalof.cost import packed_storage
from qalof.errors import BadInputError
from qalof.export.float_type import FloatType
from qalof.export.packed_linear import make_quantizers
from qalof.files import sealed_folder, write_json
from qalof.layer_bits import WeightWidth, bits_of
from qalof.model.at_bitmap import active_branch, active_tensor, effective_weight, layers_of
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.packed_weight import bytes_in
from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel
from qalof.quantization.packing import pack
from qalof.site import HeadMode, Site
from qalof.writing import check_folder

FORMAT_VERSION = 2
"""The version of the format; version 2 has other names for four settings
(:data:`qalof.quantization.strict.RENAMED`)."""
OLDEST_VERSION = 1

KIND = "packed-model"

PACKED_FILE, REST_FILE, LAYOUT_FILE = "packed.safetensors", "rest.safetensors", "packed.json"

_KINDS = ("branch/", "rest/", "bias/", "state/")
"""The prefixes of names in the second file."""


@dataclass(frozen=True)
class PackedSizes:
    """The bytes of a packed model.

    ``weight_bytes``: of the sites, with scales and zero points; ``adapter_bytes``: the active ones;
    ``unquantized_bytes``: norms, biases, positions, and embeddings and heads that are not sites; ``quantizer_bytes``:
    learned steps and observed ranges; ``header_bytes``: what safetensors writes before the tensors, their names, shapes
    and types;
    ``predicted_weight_bytes``, ``predicted_total_bytes``: what :mod:`qalof.cost` says of the weights, and of all.
    """

    weight_bytes: int
    adapter_bytes: int
    unquantized_bytes: int
    quantizer_bytes: int
    header_bytes: int
    predicted_weight_bytes: int
    predicted_total_bytes: int

    @property
    def total_bytes(self) -> int:
        """The bytes of all tensors, without the headers."""
        return self.weight_bytes + self.adapter_bytes + self.unquantized_bytes + self.quantizer_bytes

    def to_json(self) -> dict[str, int]:
        """Return all lines and the total."""
        return asdict(self) | {"total_bytes": self.total_bytes}


@dataclass(frozen=True)
class _Parts:
    """The tensors that are gathered for the files."""

    float_type: FloatType
    packed: dict[str, torch.Tensor] = field(default_factory=dict)
    rest: dict[str, torch.Tensor] = field(default_factory=dict)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)

    def plain(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """Return numbers that are not quantized, as the file stores them."""
        return _plain(self.float_type.stored(tensor, what))


def check_target(folder: str | Path) -> None:
    """See whether a packed model can be written at ``folder``, and leave everything as it was.

    Raises:
        BadInputError: a file, a folder of something else, or a place that cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, "output")
    if folder.exists() and not (folder / LAYOUT_FILE).is_file():
        raise BadInputError(f"output {folder} must be new, or a packed model to replace: it is neither; name another")


def save_packed(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    extra: Mapping[str, Any] | None = None,
    float_type: FloatType | str = FloatType.FLOAT32,
) -> PackedSizes:
    """Write ``model`` as it runs at ``bitmap``; it stays at its own bitmap and in its mode.

    Args:
        model: a model whose ranges are calibrated and whose steps are set, where its scheme has such.
        bitmap: any form of :meth:`Bitmap.parse`.
        folder: the new folder, which appears complete or not at all; only an older packed model there is replaced.
        tokenizer: a tokenizer that is written into the folder.
        extra: JSON that is stored too.
        float_type: the type of what is not quantized: norms, biases, embeddings, weights at full precision.

    Raises:
        BadInputError: The model cannot run the bitmap, the scale dtype cannot represent a grid, a number is beyond the
            float type, or ``folder`` holds something else.
    """
    folder, float_type = Path(folder), FloatType.parse(float_type)
    if model.packed_widths is not None:
        raise BadInputError("a model without its weights cannot be packed again: load its checkpoint, and export that")
    check_target(folder)
    with model.at(bitmap, eval=True) as parsed, torch.no_grad():
        parts = _gather(model, parsed, float_type)
        layout = {
            "kind": KIND,
            "bitmap": parsed.to_json(),
            "settings": model.settings.to_json(),
            "convention": model.settings.quantization.convention,
            "head": str(model.base.head),
            "base": asdict(model.base) | {"sha256": model.base_digest},
            "attention": model.model.config._attn_implementation,
            "float_type": str(float_type),
            "sites": parts.sites,
            "extra": dict(extra or {}),
        }
        with sealed_folder(folder, {"format_version": FORMAT_VERSION, "kind": KIND}) as beside:
            save_configs(model, beside, tokenizer)
            save_file(parts.packed, beside / PACKED_FILE)
            save_file(parts.rest, beside / REST_FILE)
            sizes = _sizes(model, parsed, parts, beside)
            write_json(beside / LAYOUT_FILE, layout | {"bytes": sizes.to_json()})
    return sizes


def save_configs(model: SwitchableModel, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Write what transformers reads beside the weights: the config, the generation config and the tokenizer."""
    model.model.config.save_pretrained(folder)
    if getattr(model.model, "generation_config", None) is not None:
        model.model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def rest_names(model: PreTrainedModel, sites: tuple[Site, ...], head_mode: HeadMode) -> list[str]:
    """Return the names of the tensors of an unpatched ``model`` that belong to no site; a shared one occurs once."""
    skipped = {f"{site_path(model, site)}.{leaf}" for site in sites for leaf in ("weight", "bias")}
    tensors = model.state_dict(keep_vars=True)
    both = head_mode is HeadMode.TIED_BOTH or any(site.is_embedding for site in sites)
    seen = {id(model.get_input_embeddings().weight)} if both else set()
    names = []
    for name, tensor in tensors.items():
        if name not in skipped and id(tensor) not in seen:
            seen.add(id(tensor))
            names.append(name)
    return names


def skeleton(model: SwitchableModel) -> PreTrainedModel:
    """Return an unpatched model like this one, on the meta device."""
    config = copy.deepcopy(model.model.config)
    with torch.device("meta"):
        bare: PreTrainedModel = type(model.model)(config)
    return bare


def _gather(model: SwitchableModel, bitmap: Bitmap, float_type: FloatType) -> _Parts:
    parts = _Parts(float_type)
    for site in model.sites:
        parts.sites[site.name] = _add_site(model, site, bitmap[site.name].weight_width, parts)
    for name in rest_names(skeleton(model), model.sites, model.settings.head_mode):
        parts.rest[f"rest/{name}"] = parts.plain(active_tensor(model.model, name), name)
    return parts


def _add_site(model: SwitchableModel, site: Site, width: WeightWidth, parts: _Parts) -> dict[str, Any]:
    """Put a site's tensors into ``parts``, and return what is needed to read them."""
    linear, lora = layers_of(model, site)
    described: dict[str, Any] = {"weight": _add_weight(model, site, width, parts), "scaling": None}
    branch = active_branch(lora)
    if branch is not None and model.settings.merge is not MergeOrder.MERGE_THEN_QUANTIZE:
        a, b, described["scaling"] = branch
        parts.rest.update({f"branch/{site.name}/a": _plain(a), f"branch/{site.name}/b": _plain(b)})
    if linear.bias is not None:
        parts.rest[f"bias/{site.name}"] = parts.plain(linear.bias, f"the bias of {site.name}")
    own = [linear.input_quantizer, *linear.kv_quantizers]
    for name, quantizer in zip(make_quantizers(site), own, strict=True):
        for key, tensor in quantizer.state_dict().items():
            parts.rest[f"state/{site.name}/{name}/{key}"] = _plain(tensor)
    return described


def _add_weight(model: SwitchableModel, site: Site, width: WeightWidth, parts: _Parts) -> Any:
    """Return ``tied``, ``float``, or the settings of the packed weight."""
    linear, _ = layers_of(model, site)
    weight, quantizer = effective_weight(model, site), linear.scheme.weight.at(width)
    if bits_of(width) >= quantizer.full_precision_bits:
        view = site.is_head and model.settings.head_mode is HeadMode.TIED_VIEW
        if view and weight.data_ptr() == linear.weight.data_ptr():
            return "tied"
        parts.packed[f"{site.name}/weight"] = parts.plain(weight, site.name)
        return "float"
    fixed = linear.fixed_codes.get(width)  # there are no such codes where adapters are merged before rounding
    qparams = None if fixed else linear.weight_quantizer.qparams(weight, width, quantizer)
    stored = pack(fixed or quantizer.quantize(weight, bits_of(width), qparams), quantizer)
    if not torch.equal(
        stored.dequantize(), linear.rounded_weight(width) if fixed else linear.quantize_weight(weight, width)
    ):
        raise BadInputError(
            f"a packed weight must be what the model runs with: {site.name} at {width} bits is not, since its codes "
            "and its fake quantization differ; take another quantizer at this width"
        )
    parts.packed.update({f"{site.name}/{part}": _plain(tensor) for part, tensor in stored.tensors().items()})
    return stored.settings()


def _sizes(model: SwitchableModel, bitmap: Bitmap, parts: _Parts, folder: Path) -> PackedSizes:
    by_kind = {kind: bytes_in({n: t for n, t in parts.rest.items() if n.startswith(kind)}) for kind in _KINDS}
    predicted = packed_storage(bitmap, model.sites, model.rest, parts.float_type.nbytes)
    weights = bytes_in(parts.packed)
    files = sum((folder / name).stat().st_size for name in (PACKED_FILE, REST_FILE))
    return PackedSizes(
        weights,
        by_kind["branch/"],
        by_kind["rest/"] + by_kind["bias/"],
        by_kind["state/"],
        files - weights - sum(by_kind.values()),
        predicted.weight_bytes,
        predicted.total_bytes,
    )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # a copy is needed, since safetensors refuses two names for one memory
    return tensor.detach().cpu().contiguous().clone()
