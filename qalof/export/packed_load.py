"""A packed model is read here: everything is checked before a model is made, and a model that is made is complete.

With ``kernel="integer"`` nothing is decoded: the tensors of the model are those of the files, mapped into memory, so
processes of one machine that load the same folder share them. Codes of 8 bits are an exception, since their sign bit
changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.float_type import FloatType
from qalof.export.packed import FORMAT_VERSION, KIND, LAYOUT_FILE, OLDEST_VERSION, PACKED_FILE, REST_FILE, rest_names
from qalof.export.packed_embedding import PackedEmbedding, PackedTiedHead
from qalof.export.packed_linear import Branch, PackedLinear
from qalof.files import open_sealed, read_json
from qalof.layer_bits import LayerBits
from qalof.model.layers.held_weight import Kernel
from qalof.model.layers.packed_weight import PackedWeight
from qalof.model.layers.tensor_quantizer import TensorQuantizer, share_inputs, share_tokens
from qalof.model.pretrained import _AUTO_CLASSES, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.sites import site_path
from qalof.quantization.packing import Packed
from qalof.quantization.strict import under_new_names
from qalof.site import HeadMode, Site

_GENERATION = "generation_config.json"


class _Tensors:
    """The tensors of a folder; each is taken once and checked."""

    def __init__(self, folder: Path, float_type: FloatType) -> None:
        self.folder, self.float_type = folder, float_type
        self.left: dict[str, torch.Tensor] = {}
        for file in (PACKED_FILE, REST_FILE):
            try:
                self.left |= load_file(folder / file)
            except (OSError, SafetensorError) as error:
                raise BadInputError(
                    f"{folder / file} must be a readable safetensors file: {error}; restore it"
                ) from None

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return the tensor ``name``; if its ``shape`` is given, it must be plain numbers of the folder's float type.

        Such numbers are returned as fp32, and integers as they are.
        """
        tensor = self.left.pop(name, None)
        if tensor is None:
            raise BadInputError(f"packed model {self.folder} is damaged: it has no tensor {name}; restore it")
        if shape is None:
            return tensor
        wrong = tensor.is_floating_point() and tensor.dtype is not self.float_type.dtype
        if tuple(tensor.shape) != shape or wrong:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise BadInputError(
                f"packed model {self.folder} must have {name} in {self.float_type} {shape}: got {found}; restore it"
            )
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return all tensors below ``prefix``, by the rest of their names."""
        names = [name for name in self.left if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.left.pop(name) for name in names}


def read_layout(folder: str | Path) -> dict[str, Any]:
    """Check a packed folder without making a model, and return its ``packed.json``.

    Raises:
        BadInputError: The folder is missing, damaged, newer, or of another kind.
    """
    folder = Path(folder)
    manifest = open_sealed(folder, "packed model", FORMAT_VERSION, OLDEST_VERSION)
    if manifest.get("kind") != KIND:
        raise BadInputError(f"{folder} must be a packed model: it is a {manifest.get('kind')!r}; export it first")
    for file in (LAYOUT_FILE, PACKED_FILE, REST_FILE, "config.json"):
        if file not in manifest["files"]:
            raise BadInputError(f"packed model {folder} is damaged: its manifest does not list {file}; restore it")
    layout = read_json(folder / LAYOUT_FILE, "layout of packed model")
    if not isinstance(layout, dict):
        raise BadInputError(f"packed model {folder} is damaged: {LAYOUT_FILE} does not hold an object; restore it")
    named: dict[str, Any] = under_new_names(layout) if manifest["format_version"] == 1 else layout
    return named


def load_packed(
    folder: str | Path,
    kernel: Literal["decoded", "integer"] = "decoded",
    layout: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load the model that :func:`qalof.export.packed.save_packed` wrote, in eval mode.

    Args:
        folder: the folder, which must stay as it is while the model lives, or be replaced as a whole.
        kernel: ``dequantized``: weights in fp32, with exactly the outputs of the model that was packed; ``integer``:
            weights as they lie in the file, multiplied as integers where a kernel can, equal up to the rounding of
            sums (:func:`kernels` says where).
        layout: what :func:`read_layout` returned, where the folder has been checked already.

    Raises:
        BadInputError: The folder is missing, cut, changed or newer; nothing is returned then.
    """
    if kernel not in ("decoded", "integer"):
        raise BadInputError(f"kernel must be decoded or integer: got {kernel!r}")
    folder = Path(folder)
    layout = read_layout(folder) if layout is None else layout
    try:
        settings = SwitchSettings.from_json(layout["settings"])
        if layout["convention"] != settings.quantization.convention:
            raise BadInputError(f"packed model {folder} has the range convention of another QaLoF; use that one")
        # folders that were written before this choice existed have fp32
        float_type = FloatType.parse(layout.get("float_type", FloatType.FLOAT32))
        model = _bare(folder, layout)
        sites = settings.sites_of(model)
        bitmap = Bitmap.from_json(layout["bitmap"], [site.name for site in sites])
        _fill(model, sites, bitmap, settings, layout["sites"], _Tensors(folder, float_type), kernel == "integer")
        share_tokens(model, settings.quantization)
        packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
        share_inputs(model, (cast(TensorQuantizer, module.quantizers["input"]) for module in packed))
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError) as error:
        if isinstance(error, BadInputError):
            raise
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise BadInputError(f"packed model {folder} is damaged: {what}; restore it from a copy") from None
    return model.eval()


def kernels(model: nn.Module) -> dict[str, Kernel]:
    """Return the kernel of each site of a model that :func:`load_packed` returned."""
    return {module.site.name: module.kernel() for module in model.modules() if isinstance(module, PackedLinear)}


def _bare(folder: Path, layout: Mapping[str, Any]) -> PreTrainedModel:
    """Return the plain model of the folder's config, whose weights are still random."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    kind = _AUTO_CLASSES[HeadKind(layout["head"])]
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = kind.from_config(
            config, dtype=torch.float32, attn_implementation=layout["attention"], trust_remote_code=False
        )
    if (folder / _GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.requires_grad_(False)


def _fill(
    model: PreTrainedModel,
    sites: tuple[Site, ...],
    bitmap: Bitmap,
    settings: SwitchSettings,
    described: Mapping[str, Any],
    tensors: _Tensors,
    integer: bool,
) -> None:
    """Put the tensors into ``model``, and replace its sites by packed layers."""
    plain = model.state_dict(keep_vars=True)
    for name in rest_names(model, sites, settings.head_mode):
        stored = tensors.take(f"rest/{name}", tuple(plain[name].shape))
        if integer:
            plain[name].data = stored
        else:
            plain[name].data.copy_(stored)
    for site in sites:
        if site.is_embedding:
            _put_embedding(model, site, bitmap[site.name], described[site.name], tensors, integer)
            continue
        # an embedding looks its rows up in a decoded weight
        packed = integer and not (site.is_head and settings.head_mode is HeadMode.TIED_BOTH)
        linear = _layer(model, site, bitmap[site.name], settings, described[site.name], tensors, packed)
        parent, _, leaf = site_path(model, site).rpartition(".")
        if site.is_head and settings.head_mode is HeadMode.TIED_BOTH:
            model.get_input_embeddings().weight = linear.weight
        setattr(model.get_submodule(parent), leaf, linear)
    if tensors.left:
        odd = sorted(tensors.left)[0]
        raise BadInputError(f"packed model {tensors.folder} is damaged: nothing has use for its {odd}; restore it")


def _put_embedding(
    model: PreTrainedModel, site: Site, bits: LayerBits, described: Mapping[str, Any], tensors: _Tensors, integer: bool
) -> None:
    """Put an embedding with a width into ``model``, and a head that is tied to it."""
    stored = _weight(model, site, bits, described["weight"], tensors)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    weight = stored.dequantize() if isinstance(stored, Packed) and not integer else stored
    held = PackedWeight(weight, site.quantization.activation) if isinstance(weight, Packed) else weight
    embedding = PackedEmbedding(site, held, getattr(table, "padding_idx", None))
    if isinstance(head, nn.Linear) and head.weight is table.weight:
        path = next(name for name, module in model.named_modules() if module is head)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, PackedTiedHead(head, embedding))
    parent, _, leaf = site_path(model, site).rpartition(".")
    setattr(model.get_submodule(parent), leaf, embedding)


def _layer(
    model: PreTrainedModel,
    site: Site,
    bits: LayerBits,
    settings: SwitchSettings,
    described: Mapping[str, Any],
    tensors: _Tensors,
    packed: bool,
) -> PackedLinear:
    stored = _weight(model, site, bits, described["weight"], tensors)
    weight: torch.Tensor | PackedWeight
    if not isinstance(stored, Packed):
        weight = stored
    else:
        weight = PackedWeight(stored, site.quantization.activation) if packed else stored.dequantize()
    bias = tensors.take(f"bias/{site.name}", (site.out_features,)) if site.has_bias else None
    branch = None
    if described["scaling"] is not None:
        a, b = (tensors.take(f"branch/{site.name}/{factor}") for factor in "ab")
        if a.dim() != 2 or a.shape[1] != site.in_features or b.shape != (site.out_features, a.shape[0]):
            raise BadInputError(f"packed model {tensors.folder} is damaged: the branch of {site.name} does not fit it")
        branch = Branch(a, b, float(described["scaling"]))
    linear = PackedLinear(site, weight, bias, bits, settings, branch)
    for name, quantizer in linear.quantizers.items():
        quantizer.load_state_dict(tensors.under(f"state/{site.name}/{name}/"))
        quantizer.requires_grad_(False)
    return linear


def _weight(model: nn.Module, site: Site, bits: LayerBits, stored: Any, tensors: _Tensors) -> torch.Tensor | Packed:
    shape = (site.out_features, site.in_features)
    if stored == "tied":
        table: Any = model.get_input_embeddings()  # type: ignore[operator]
        shared: torch.Tensor = table.whole() if isinstance(table, PackedEmbedding) else table.weight
        return shared
    if stored == "float":
        return tensors.take(f"{site.name}/weight", shape)
    packed = Packed.of(tensors.under(f"{site.name}/"), stored)
    if (packed.data.shape[0], packed.columns) != shape or packed.bits != bits.weight:
        found = f"{packed.data.shape[0]} x {packed.columns} at {packed.bits} bits"
        raise BadInputError(f"packed model {tensors.folder} is damaged: {site.name} is {found}, not {shape}")
    return packed
