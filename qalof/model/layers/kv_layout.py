"""The layout says where the keys and values of a token lie in the outputs of its projections.

The KV cache is filled by the outputs of the key and value projections, so rounding those outputs rounds the cache,
under every attention implementation. That requires knowing which features are keys, which are values, and how they are
grouped into heads. Families differ:

===========================  ============================================================================
separate ``k_proj, v_proj``  all features, heads one after another (Llama, Qwen, Mistral, OPT, Phi, ...)
GPT-2's ``c_attn``           query, key, value, each D wide
Phi-3's ``qkv_proj``         query, key, value; with grouped queries the last two are narrower
GPT-NeoX's fused one         by head: (heads, 3, head_dim), so that the keys are not one slice
===========================  ============================================================================

A :class:`KvLayout` writes all of them as one form: the output is seen as (groups, features per group), and within a
group there is one slice for keys and one for values, or for one of them alone.  A fused projection of any other family
has no layout here, since a guess would round queries instead of keys: its cache cannot be quantized, and asking for it
is an error.

With rotary embeddings K is rounded as it leaves its projection, before the rotation (LLM-QAT's code), and in Qwen3
before ``k_norm``: a runtime that stores the codes rotates and normalizes what it reads back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from qalof.site import KvLayout


def map_kv(projected: torch.Tensor, layout: KvLayout, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Replace keys and values in a projection's output, leaving queries as they are.

    Args:
        projected: (..., out).
        layout: the layout of this projection.
        change: a function of (..., heads, head_dim) that keeps the shape; it is called once for keys and once for
            values.
    """
    grouped = projected.unflatten(-1, (layout.groups, -1))
    heads = (layout.heads, layout.head_dim)
    pieces, at = [], 0
    for start, stop in layout.parts:
        features = grouped[..., start:stop]
        # (groups, stop - start) lists the heads in order, whether a group is one head or all of them
        changed = change(features.reshape(*projected.shape[:-1], *heads))
        pieces += [grouped[..., at:start], changed.reshape(features.shape)]
        at = stop
    pieces.append(grouped[..., at:])
    return torch.cat(pieces, dim=-1).flatten(-2)


def layout_of(config: Any, name: str, out_features: int) -> KvLayout | None:
    """Return the layout of the projection ``name`` in a model with this transformers config; None if it feeds no cache.

    Args:
        config: a config with ``num_attention_heads`` and, where queries share heads, ``num_key_value_heads``.
        name: the dotted path, whose last part says what the projection is.
        out_features: the number of outputs of the projection.
    """
    text = config.get_text_config()
    query_heads = int(getattr(text, "num_attention_heads", 0) or 1)
    heads = int(getattr(text, "num_key_value_heads", None) or query_heads)
    head_dim = int(getattr(text, "head_dim", None) or int(getattr(text, "hidden_size", 0)) // query_heads)
    query, width = query_heads * head_dim, heads * head_dim
    leaf = name.rsplit(".", 1)[-1]
    found: KvLayout | None = None
    if leaf in ("k_proj", "v_proj"):
        found = KvLayout(heads, head_dim, ((0, width),), 1, query, holds=("keys" if leaf == "k_proj" else "values",))
    elif (text.model_type, leaf) in (("gpt2", "c_attn"), ("phi3", "qkv_proj")):
        found = KvLayout(heads, head_dim, ((query, query + width), (query + width, query + 2 * width)), 1, query)
    elif (text.model_type, leaf) == ("gpt_neox", "query_key_value"):
        found = KvLayout(heads, head_dim, ((head_dim, 2 * head_dim), (2 * head_dim, 3 * head_dim)), heads, query)
    return found if found and _fits(found, out_features) else None


def _fits(layout: KvLayout, out_features: int) -> bool:
    """Return whether heads and slices account for the output as it is; they do not where a family varies its sizes."""
    per_group = layout.parts[-1][1]
    whole = layout.groups * (per_group - layout.parts[0][0]) == layout.features
    return whole and layout.groups * per_group == out_features
