"""The tensors of a GGUF file, with their values, names and types.

A weight width names a type: 4 is Q4_0, 5 is Q5_0, 8 is Q8_0, 16 is F16 and 32 is F32; a model quantized by
``gguf_affine`` has Q4_1 and Q5_1.  A group size must be that of the blocks, 32: a site at ``4g32`` is Q4_0, rounded as
GGUF rounds, whatever its quantizer; every other group size is refused.  An embedding that is a site has a width too.
Biases, norms and positions are F32, and so are other matrices without a width, unless another float type is requested.
A tied head that rounds nothing itself is not written again: readers take the embedding. The size of the tensors is
known before they are written (:func:`tensor_bytes`); for the quantizers ``gguf`` and ``gguf_affine`` it is what
:mod:`qalof.cost` says.

:func:`departures` compares every weight of the file with the one that the model computes with. They are equal, bit for
bit, where the model was made with ``method: gguf`` (groups of 32, fp16 scales) and ``merge: merge_then_quantize``, with
``float16`` at 16 bits, and with everything left at 32. The reader decides on widths of activations and of the cache:
llama.cpp on a CPU rounds the inputs of Q8_0, Q5_0 and Q4_0 products to Q8_0, which ``method: gguf`` at 8 bits does too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export import gguf_blocks
from qalof.export.float_type import FloatType
from qalof.export.gguf_blocks import BlockType, block_type
from qalof.export.gguf_families import Family, family_of
from qalof.layer_bits import FULL_PRECISION, GroupedWidth, WeightWidth, bits_of
from qalof.model.at_bitmap import active_tensor, layers_of
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.pretrained import HeadKind
from qalof.model.sites import base_of
from qalof.model.switchable import SwitchableModel
from qalof.quantization.methods.gguf import BLOCK
from qalof.site import HeadMode, Site

EMBEDDING = "token_embd.weight"
TYPES = {4: "Q4_0", 5: "Q5_0", 8: "Q8_0", 16: "F16", 32: "F32"}
"""The types of weight widths by GGUF's names, where the quantizer has none of its own."""
FLOATS = {FloatType.FLOAT32: "F32", FloatType.FLOAT16: "F16", FloatType.BFLOAT16: "BF16"}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
READABLE = (*BlockType, *_DTYPES)


@dataclass
class Tensors:
    """fp32, (out, in), by GGUF's names; ``types`` they are stored as; ``sites``: site -> name of its weight.

    ``plain``: the type of matrices without a width.
    """

    family: Family
    plain: str = "F32"
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, tensor: torch.Tensor | None, kind: str = "F32") -> None:
        """Add a copy of ``tensor``; None adds nothing."""
        if tensor is not None:
            self.values[name], self.types[name] = tensor.detach().cpu().to(torch.float32).contiguous(), kind

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors in a file, without the padding between them."""
        return sum(tensor_bytes(self.types[name], tensor.numel()) for name, tensor in self.values.items())

    def stored(self, name: str) -> torch.Tensor:
        """Return a tensor as the file stores it."""
        return stored_form(self.values[name], self.types[name])


@torch.no_grad()
def gather(
    model: SwitchableModel, bitmap: Bitmap | str | int, *, merge: bool = True, float_type: FloatType | str = "float32"
) -> Tensors:
    """Return all tensors of ``model`` at ``bitmap``, with the active adapters merged or left out.

    Raises:
        BadInputError: GGUF does not have the family or a width.
    """
    config = model.model.config
    if model.base.head is not HeadKind.CAUSAL_LM:
        raise BadInputError(
            f"a GGUF file is written of a model with its language-modeling head: got {model.base.head}; export "
            "packed integers instead"
        )
    tensors = Tensors(family_of(config), FLOATS[FloatType.parse(float_type)])
    with model.at(bitmap, eval=True) as parsed:
        _add_plain(tensors, model, parsed)
        sites = {site.name: site for site in model.sites}
        for index in range(config.num_hidden_layers):
            for leaf, short in tensors.family.linears.items():
                name = f"{tensors.family.block.format(index)}.{leaf}"
                _add_linear(tensors, model, name, f"blk.{index}.{short}", sites.get(name), parsed, merge)
        _add_head(tensors, model, [site for site in model.sites if site.is_head], parsed, merge)
    return tensors


@torch.no_grad()
def departures(
    model: SwitchableModel, bitmap: Bitmap | str | int, *, merge: bool = True, tensors: Tensors | None = None
) -> dict[str, float]:
    """Return, by site, the largest difference between the weight in the file and in the model; equal sites are left
    out.

    With ``merge`` that is the weight together with its branch; without, the weight alone.  ``tensors`` are those of the
    file, where they have been gathered already.
    """
    tensors, config = tensors or gather(model, bitmap, merge=merge), model.model.config
    found = {}
    with model.at(bitmap, eval=True) as parsed:
        for site in model.sites:
            name, short = tensors.sites[site.name], tensors.family.tensor_of(site.name)[1]
            held = values_of(tensors.stored(name), tensors.types[name])
            used = tensors.family.rows(
                short, computed_weight(model, site, parsed[site.name].weight_width, merge), config
            )
            if not torch.equal(held, used.cpu()):
                found[site.name] = float((held - used.cpu()).abs().max())
    return found


def computed_weight(model: SwitchableModel, site: Site, width: WeightWidth, branch: bool = True) -> torch.Tensor:
    """Return the matrix by which the active configuration multiplies a site's input, (out, in), with or without branch.

    It is exact under ``merge_then_quantize``, where the model itself has one matrix; otherwise it is the sum of its
    parts.
    """
    linear, lora = layers_of(model, site)
    if lora is None or lora.active is None or not branch:
        return linear.rounded_weight(width)
    name, order = lora.active, model.settings.merge
    if order is MergeOrder.MERGE_THEN_QUANTIZE:
        return linear.quantize_weight(lora.merged_weight(name), width)
    weight = linear.rounded_weight(width)
    if order is MergeOrder.QUANTIZE_PRODUCT:
        return weight + linear.quantize_weight(lora.product(name), width)
    a, b, scaling = lora.factors(name)
    if order is MergeOrder.QUANTIZE_FACTORS:
        a, b = linear.quantize_weight(a, width), linear.quantize_weight(b, width)
    return weight + scaling * (b @ a)


def stored_form(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """Return ``tensor`` as type ``kind`` stores it: blocks of bytes, fp16 or fp32, or bf16 as bytes, since numpy lacks
    it.

    Raises:
        BadInputError: A row does not have whole blocks, or a number is beyond the range of the type.
    """
    if kind in set(BlockType):
        return gguf_blocks.quantize(tensor, BlockType(kind))
    cast = tensor.to(_DTYPES[kind])
    if not torch.isfinite(cast).all():
        raise BadInputError(f"weights must be finite as {kind}: one is beyond its range; take 32 bits there")
    return cast.contiguous().view(torch.uint8) if kind == "BF16" else cast


def values_of(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the values of :func:`stored_form`, fp32."""
    if kind in set(BlockType):
        return gguf_blocks.dequantize(stored, BlockType(kind))
    return (stored.view(torch.bfloat16) if kind == "BF16" else stored).to(torch.float32)


def tensor_bytes(kind: str, numbers: int) -> int:
    """Return the bytes of ``numbers`` numbers in whole rows as type ``kind``."""
    if kind in set(BlockType):
        return numbers // BLOCK * BlockType(kind).block_bytes
    return numbers * _DTYPES[kind].itemsize


def tensor_type(site: Site, width: WeightWidth, plain: str = "F32") -> str:
    """Return the type of a site's weight at ``width``, ``plain`` where it has no codes.

    Raises:
        BadInputError: The width has no type, or the model itself does not have it, or its groups are no blocks of GGUF.
    """
    quantizer, bits = site.quantization.weight.at(width), bits_of(width)
    if bits < quantizer.full_precision_bits:
        quantizer.check_bits(bits)
    own = block_type(quantizer, bits)
    if own is None and bits not in TYPES:
        law = ", ".join(f"{known} ({kind})" for known, kind in TYPES.items())
        raise BadInputError(f"weight widths of a GGUF file are {law}: {site.name} has {width}")
    kind = plain if bits >= FULL_PRECISION else TYPES[int(bits)] if own is None else str(own)
    if isinstance(width, GroupedWidth) and not (kind in set(BlockType) and width.group_size == BLOCK):
        raise BadInputError(
            f"groups of a GGUF file have {BLOCK} weights, at widths of fewer than 16 bits: {site.name} has {width}; "
            f"take groups of {BLOCK} there, or export packed integers"
        )
    return kind


def merged_weight(model: SwitchableModel, site: Site, merge: bool = True) -> torch.Tensor:
    """Return a site's unrounded weight with its active branch in it, (out, in).

    Raises:
        BadInputError: The branch is on a head whose embedding would change with it, or the codes have their own grid.
    """
    linear, lora = layers_of(model, site)
    if linear.fixed_codes:
        raise BadInputError(
            f"a GGUF file has grids of its own: {site.name} has codes on another one, as GPTQ finds them; export packed"
        )
    if lora is None or lora.active is None or not merge:
        return linear.weight
    if site.is_head and model.settings.head_mode is HeadMode.TIED_BOTH:
        raise BadInputError(
            "an adapter may be merged into a head only where the embedding does not change with it: got head_mode "
            "tied_both; take tied_view or untied"
        )
    return lora.merged_weight(lora.active)


def _add_plain(tensors: Tensors, model: SwitchableModel, bitmap: Bitmap) -> None:
    """Add embeddings and norms."""
    family, prefix = tensors.family, model.model.base_model_prefix
    for name, path in family.others.items():
        for part in family.norm_parts if name.endswith("norm") else ("weight",):
            tensors.add(f"{name}.{part}", active_tensor(model.model, f"{prefix}.{path}.{part}"))
    tensors.types[EMBEDDING] = tensors.plain
    for site in model.sites:
        if site.is_embedding:
            tensors.types[EMBEDDING] = tensor_type(site, bitmap[site.name].weight_width, tensors.plain)
            tensors.sites[site.name] = EMBEDDING
    for index in range(model.model.config.num_hidden_layers):
        for leaf, short in family.norms.items():
            for part in family.norm_parts:
                source = f"{prefix}.{family.block.format(index)}.{leaf}.{part}"
                tensors.add(f"blk.{index}.{short}.{part}", active_tensor(model.model, source))


def _add_linear(
    tensors: Tensors,
    model: SwitchableModel,
    name: str,
    goal: str,
    site: Site | None,
    bitmap: Bitmap,
    merge: bool,
) -> None:
    config, short = model.model.config, goal.rpartition(".")[2]
    if site is None:
        layer = base_of(model.model).get_submodule(name)
        assert isinstance(layer.weight, torch.Tensor)
        # a layer that is not a site keeps transformers' layout, which is (in, out) for a Conv1D
        weight, bias, kind = (
            layer.weight.T if config.model_type == "gpt2" else layer.weight,
            getattr(layer, "bias", None),
            tensors.plain,
        )
    else:
        weight, bias = merged_weight(model, site, merge), layers_of(model, site)[0].bias
        kind, tensors.sites[name] = tensor_type(site, bitmap[name].weight_width, tensors.plain), f"{goal}.weight"
    tensors.add(f"{goal}.weight", tensors.family.rows(short, weight.detach(), config), kind)
    if bias is not None:
        tensors.add(f"{goal}.bias", tensors.family.rows(short, bias.detach(), config))


def _add_head(tensors: Tensors, model: SwitchableModel, heads: list[Site], bitmap: Bitmap, merge: bool) -> None:
    for site in heads:
        both = model.settings.head_mode is HeadMode.TIED_BOTH
        name = (
            EMBEDDING if both or _is_embedding(model, site, bitmap[site.name].weight_width, merge) else "output.weight"
        )
        tensors.sites[site.name] = name
        if both or name != EMBEDDING:
            kind = tensor_type(site, bitmap[site.name].weight_width, tensors.plain)
            tensors.add(name, merged_weight(model, site, merge), kind)
    if not heads and not model.model.config.tie_word_embeddings:
        head = model.model.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        tensors.add("output.weight", head.weight, tensors.plain)


def _is_embedding(model: SwitchableModel, site: Site, width: WeightWidth, merge: bool) -> bool:
    """Return whether a head multiplies by the embedding as it is looked up."""
    if model.settings.head_mode is not HeadMode.TIED_VIEW:
        return False
    lora = layers_of(model, site)[1] if merge else None
    rounds = bits_of(width) < site.quantization.weight.at(width).full_precision_bits
    return not rounds and (lora is None or lora.active is None)
