"""Sites: the linear layers of a causal LM that can be quantized, by stable name.

Names are paths inside the base model (``h.0.attn.c_attn`` for every GPT-2 head class alike), so that a
bitmap and an adapter carry over from a span head to a language-modelling head.  The walk takes every
``nn.Linear`` and every Hugging Face ``Conv1D`` below the base model; heads and embeddings stay out.

The KV cache is filled by the outputs of the key and value projections.  Quantizing those outputs per
token, all features of one token at once before the head split (algorithms.md 1.1, LLM-QAT's code), is the
same as quantizing the cache itself, under every attention implementation.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qalof.errors import BadInputError

KV_SLICES = {"c_attn": (1, 2), "k_proj": (0,), "v_proj": (0,)}
"""By a site's last name: which equal slices of its output go to the cache."""


@dataclass(frozen=True)
class Site:
    """What is known of a quantizable layer without touching its weights.

    ``name``: path inside the base model; ``in_features``, ``out_features``: of ``y = W x``, W (out, in);
    ``has_bias``; ``kv_features``: how many of a token's output features enter the KV cache, 0 for none.
    """

    name: str
    in_features: int
    out_features: int
    has_bias: bool
    kv_features: int = 0

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.in_features * self.out_features

    @property
    def kv_slices(self) -> tuple[slice, ...]:
        """The slices of the output that hold keys and values, each quantized with a scale of its own."""
        parts = KV_SLICES.get(self.name.rsplit(".", 1)[-1], ()) if self.kv_features else ()
        if not parts:
            return ()
        width = self.kv_features // len(parts)
        return tuple(slice(part * width, (part + 1) * width) for part in parts)


def base_of(model: PreTrainedModel) -> nn.Module:
    """The transformer without its head; the model itself where it has no head."""
    base = getattr(model, model.base_model_prefix, model)
    assert isinstance(base, nn.Module)
    return base


def find_sites(model: PreTrainedModel) -> tuple[Site, ...]:
    """All sites of ``model`` in the order of its modules.

    Raises:
        BadInputError: the model has no linear layer below its head.
    """
    sites = tuple(
        _describe(name, module)
        for name, module in base_of(model).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    )
    if not sites:
        raise BadInputError(f"a model must have linear layers to quantize: {type(model).__name__} has none")
    return sites


def _describe(name: str, module: nn.Linear | Conv1D) -> Site:
    if isinstance(module, Conv1D):  # stores (in, out)
        in_features, out_features = (int(size) for size in module.weight.shape)
    else:
        out_features, in_features = (int(size) for size in module.weight.shape)
    last = name.rsplit(".", 1)[-1]
    kv_features = 0
    if last == "c_attn" and out_features == 3 * in_features:
        kv_features = 2 * in_features
    elif last in ("k_proj", "v_proj"):
        kv_features = out_features
    return Site(name, in_features, out_features, getattr(module, "bias", None) is not None, kv_features)
