"""Sites are the linear layers of a causal LM that can be quantized, by stable name.

Names are paths inside the base model (``h.0.attn.c_attn`` for every GPT-2 head class alike), so a bitmap and an adapter
can be reused when a language-modeling head replaces a span head.  The walk takes every ``nn.Linear`` and every Hugging
Face ``Conv1D`` below the base model, in the order of its modules; embeddings and task heads are left out.  A family
needs no entry of its own, except for where a fused projection keeps its keys and values
(:mod:`qalof.model.layers.kv_layout`).

The language-modeling head may be a site too, always the last one, under the name it has in the whole model
(``lm_head``); :class:`qalof.site.HeadMode` says what happens to a weight that it shares with the embedding.

The input embedding may be a site of its own, always the first one (:class:`EmbeddingMode`): tokens are looked up in the
rounded weight, each row of it rounded by itself, and a head that is tied to it and has no width of its own multiplies
by the same numbers.  A head that is neither tied nor a site by its mode becomes one then, without an adapter.
Embeddings of positions are never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qalof.errors import BadInputError, EmbeddingError, nearest_hint
from qalof.model.layers.kv_layout import layout_of
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import EmbeddingMode, HeadMode, KvGranularity, Site, Unquantized


def count_unquantized(model: PreTrainedModel, sites: Sequence[Site], head_mode: HeadMode) -> Unquantized:
    """Count the parameters of an unpatched ``model`` that no bitmap of ``sites`` rounds."""
    rest = sum(parameter.numel() for parameter in model.parameters())
    # a tied weight is one parameter, which counts with an embedding that is a site
    rest -= sum(site.weights for site in sites if not site.is_head)
    head = sum(site.weights for site in sites if site.is_head)
    norms = sum(p.numel() for norm in find_norms(model).values() for p in norm.parameters())
    tensors = model.state_dict(keep_vars=True).values()
    buffers = sum(t.numel() * t.element_size() for t in tensors if not isinstance(t, nn.Parameter))
    if head_mode is HeadMode.TIED_BOTH or not is_tied(model):
        return Unquantized(rest - head, 0, norms, buffers)
    return Unquantized(rest, head if head_mode is HeadMode.TIED_VIEW else 0, norms, buffers)


def find_norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return LayerNorms and RMSNorms by their path inside the base model."""
    return {
        name: module
        for name, module in base_of(model).named_modules()
        if "Norm" in type(module).__name__ and isinstance(getattr(module, "weight", None), nn.Parameter)
    }


def base_of(model: PreTrainedModel) -> nn.Module:
    """Return the transformer without its head; the model itself where it has no head."""
    base = getattr(model, model.base_model_prefix, model)
    assert isinstance(base, nn.Module)
    return base


def site_path(model: PreTrainedModel, site: Site) -> str:
    """Return the path of a site in the whole model; for the head it equals the name."""
    return site.name if site.is_head or base_of(model) is model else f"{model.base_model_prefix}.{site.name}"


def find_sites(
    model: PreTrainedModel,
    head_mode: HeadMode = HeadMode.NONE,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    kv_granularity: KvGranularity = KvGranularity.TOKEN,
    quantization: QuantizationScheme | None = None,
    embedding: EmbeddingMode = EmbeddingMode.NONE,
) -> tuple[Site, ...]:
    """Return the sites of an unpatched ``model``, in the order of its modules, an embedding first, the head last.

    A caller with settings uses :meth:`qalof.model.settings.SwitchSettings.sites_of`, which passes all of them.

    Args:
        model: a transformers model that was not patched.
        head_mode: whether the head is a site.
        include: patterns of names to take; ``*`` also matches dots.
        exclude: patterns of names to leave out of these.
        kv_granularity: what shares a scale in the KV cache.
        quantization: the quantizers; None for the default ones.
        embedding: whether the input embedding is a site, whatever the patterns say.

    Raises:
        BadInputError: There is no linear layer below the head, a pattern matches no name, no site is left, or the head
            mode does not fit the model.
    """
    linears = [(n, m) for n, m in base_of(model).named_modules() if isinstance(m, nn.Linear | Conv1D)]
    if not linears:
        raise BadInputError(f"a model must have linear layers to quantize: {type(model).__name__} has none")
    sites = [_describe(model, name, module) for name, module in linears]
    if head_mode is not HeadMode.NONE:
        name, head = language_head(model, head_mode)
        sites.append(_describe(model, name, head, is_head=True))
    names = [site.name for site in sites]
    taken = _matching(names, include, "include") - _matching(names, exclude, "exclude")
    if not taken:
        raise BadInputError(f"include and exclude must leave a site: {list(include)} without {list(exclude)} do not")
    layouts = {site.name: site.kv.with_scales(kv_granularity) for site in sites if site.kv}
    scheme = quantization or QuantizationScheme()
    chosen = [site for site in sites if site.name in taken]
    found = tuple(replace(site, kv=layouts.get(site.name), quantization=scheme) for site in chosen)
    return found if embedding is EmbeddingMode.NONE else _with_embedding(model, found, scheme)


def _with_embedding(model: PreTrainedModel, sites: tuple[Site, ...], scheme: QuantizationScheme) -> tuple[Site, ...]:
    """Return the embedding, ``sites``, and a head of its own if it is not one of them."""
    table = embedding_of(model)
    if table is None:
        kind = type(model.get_input_embeddings()).__name__
        raise EmbeddingError(f"embedding site needs a plain embedding: got {kind}; take embedding none")
    path = next(name for name, module in base_of(model).named_modules() if module is table)
    rows, features = (int(size) for size in table.weight.shape)
    own = scheme.for_embedding()
    first = Site(path, features, rows, False, quantization=own, is_embedding=True, has_adapter=False)
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or is_tied(model) or any(site.is_head for site in sites):
        return (first, *sites)
    name = next(name for name, module in model.named_modules() if module is head)
    last = replace(_describe(model, name, head, is_head=True), quantization=own, has_adapter=False)
    return (first, *sites, last)


def embedding_of(model: PreTrainedModel) -> nn.Embedding | None:
    """Return the input embedding of an unpatched ``model``; None if it does more than look up, such as scale."""
    table = model.get_input_embeddings()
    return table if type(table) is nn.Embedding and table.max_norm is None else None


def feeds_known_cache(model: PreTrainedModel) -> bool:
    """Return whether any projection of an unpatched ``model``, chosen as a site or not, has a known KV layout."""
    return any(
        isinstance(module, nn.Linear | Conv1D) and _describe(model, name, module).kv is not None
        for name, module in base_of(model).named_modules()
    )


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether the weight of the language-modeling head is that of the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def language_head(model: PreTrainedModel, head_mode: HeadMode) -> tuple[str, nn.Linear]:
    """Return the language-modeling head and its path in the whole model.

    Raises:
        BadInputError: The model has none, or the pretrained model does not tie it as ``head_mode`` needs.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise BadInputError(
            f"head_mode {head_mode} needs a language-modeling head: {type(model).__name__} has none; take none"
        )
    if head_mode in (HeadMode.TIED_VIEW, HeadMode.TIED_BOTH) and not is_tied(model):
        raise BadInputError(
            f"head_mode {head_mode} needs a head tied to the embedding: {type(model).__name__} here has a head of "
            "its own; take untied"
        )
    if head_mode is HeadMode.TIED_BOTH and type(model.get_input_embeddings()) is not nn.Embedding:
        kind = type(model.get_input_embeddings()).__name__
        raise BadInputError(f"head_mode tied_both needs a plain embedding: got {kind}; take tied_view")
    path = next(name for name, module in model.named_modules() if module is head)
    return path, head


def _matching(names: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise BadInputError(f"{what} must match a site: {pattern!r} matches none; {nearest_hint(pattern, names)}")
        found |= matched
    return found


def _describe(model: PreTrainedModel, name: str, module: nn.Linear | Conv1D, is_head: bool = False) -> Site:
    transposed = isinstance(module, Conv1D)  # a Conv1D stores (in, out)
    sizes = [int(size) for size in module.weight.shape]
    out_features, in_features = reversed(sizes) if transposed else sizes
    kv = None if is_head else layout_of(model.config, name, out_features)
    has_bias = getattr(module, "bias", None) is not None
    return Site(name, in_features, out_features, has_bias, kv, transposed, is_head)
