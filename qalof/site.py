"""Sites as plain values: the facts about a quantizable layer without its weights.

:mod:`qalof.model.sites` finds them in a model; :mod:`qalof.cost` and ``search`` work on them alone.

The language-modeling head may be a site too. :class:`HeadMode` says what happens to a weight that it shares with the
embedding (S1 to S4 are systems of docs/systems.md):

==============  =========================================================================================
``none``        the head is not a site (S1, S2: 48 sites in GPT-2)
``tied_view``   rounded only as the head uses it; the embedding looks up the unrounded weight (S3: 49)
``untied``      the head has a weight of its own: a copy, where the pretrained model ties it (S4's CPT)
``tied_both``   the embedding looks up the rounded weight too, at the head's width
==============  =========================================================================================

A :class:`KvLayout` says which features of a projection's output are keys and values: the output is seen as (groups,
features per group), and within a group there is one slice for keys and one for values, or for one of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from qalof.errors import BadInputError
from qalof.layer_bits import KeyValueWidth, KvWidth

if TYPE_CHECKING:
    from qalof.quantization.scheme import QuantizationScheme

Slices = tuple[tuple[int, int], ...]
CachePart = Literal["keys", "values"]


def _default_scheme() -> QuantizationScheme:
    # quantizers need torch; a cost or a bitmap of sites that are given does not
    from qalof.quantization.scheme import QuantizationScheme

    return QuantizationScheme()


class KvGranularity(StrEnum):
    """``token``: one scale for all keys of a token and one for all its values; ``head``: one of each per head."""

    TOKEN = "token"
    HEAD = "head"

    @classmethod
    def parse(cls, name: str) -> KvGranularity:
        """Read a name.

        Raises:
            BadInputError: The cache cannot have this granularity.
        """
        if name not in set(cls):
            raise BadInputError(
                f"kv_granularity must be token or head, scales that see one token only: got {name!r}, with which "
                "cached decoding would differ from the full forward"
            )
        return cls(name)


@dataclass(frozen=True)
class KvLayout:
    """Keys and values in one projection's output.

    ``heads`` of ``head_dim`` features each, in keys and in values alike; ``parts``: (start, stop) of keys, of values,
    or of both, within one of ``groups`` equal runs of the output; ``query_features``: width of the queries that attend
    to them, which is more than heads * head_dim where queries share a head; ``scales`` that keys, and values, have for
    each token: 1, or one per head; ``holds``: what each of the parts is.

    Raises:
        BadInputError: There are not as many parts as ``holds`` names.
    """

    heads: int
    head_dim: int
    parts: Slices
    groups: int = 1
    query_features: int = 0
    scales: int = 1
    holds: tuple[CachePart, ...] = ("keys", "values")

    def __post_init__(self) -> None:
        if len(self.holds) != len(self.parts):
            raise BadInputError(
                f"each part of a KV layout holds keys or values: got {len(self.parts)} parts that hold "
                f"{', '.join(self.holds)}; give holds one entry per part"
            )

    def widths(self, width: KvWidth) -> tuple[int, ...]:
        """Return the bits of each part where the cache is at ``width``."""
        return tuple(getattr(width, part) if isinstance(width, KeyValueWidth) else width for part in self.holds)

    @property
    def features(self) -> int:
        """Features of one token that enter the cache."""
        return len(self.parts) * self.heads * self.head_dim

    def with_scales(self, granularity: KvGranularity) -> KvLayout:
        """Return this layout with as many scales as ``granularity`` gives a token."""
        return replace(self, scales=self.heads if granularity is KvGranularity.HEAD else 1)


class HeadMode(StrEnum):
    """What happens to the language-modeling head; see the module."""

    NONE = "none"
    TIED_VIEW = "tied_view"
    UNTIED = "untied"
    TIED_BOTH = "tied_both"


class EmbeddingMode(StrEnum):
    """``none``: tokens are looked up in the unrounded weight; ``site``: the embedding has a width, see the module."""

    NONE = "none"
    SITE = "site"


@dataclass(frozen=True)
class Site:
    """The facts about a quantizable layer without its weights.

    ``name``: path inside the base model; ``in_features``, ``out_features``: of ``y = W x``, W (out, in); ``has_bias``;
    ``kv``: where its output holds keys and values, None if it feeds no cache; ``fan_in_fan_out``: whether the
    pretrained layer stores (in, out), as Conv1D does; ``is_head``: whether it is the language-modeling head;
    ``quantization``: the quantizers, which say what the site's tensors take when they are stored; ``is_embedding``: the
    input embedding, whose weight has a row per token and whose activation and KV widths are inert; ``has_adapter``:
    whether adapters have a branch here.
    """

    name: str
    in_features: int
    out_features: int
    has_bias: bool
    kv: KvLayout | None = None
    fan_in_fan_out: bool = False
    is_head: bool = False
    quantization: QuantizationScheme = field(default_factory=_default_scheme, hash=False, repr=False)
    is_embedding: bool = False
    has_adapter: bool = True

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.in_features * self.out_features

    @property
    def kv_features(self) -> int:
        """How many of a token's output features enter the KV cache."""
        return self.kv.features if self.kv else 0

    def kv_widths(self, width: KvWidth) -> tuple[int, ...]:
        """Return the bits of each part of a cache at ``width`` that this site fills; none where it fills no cache."""
        return self.kv.widths(width) if self.kv else ()


@dataclass(frozen=True)
class Unquantized:
    """Parameters that no bitmap touches: embeddings, norms, biases, a head that is no site.

    ``parameters``: all of them; ``head_view``: those among them that a ``tied_view`` head uses as they are while it
    runs at 32 bits; ``norms``: those of norms; ``buffer_bytes``: the bytes of what a file holds in addition to
    parameters, such as masks.
    """

    parameters: int
    head_view: int = 0
    norms: int = 0
    buffer_bytes: int = 0
