"""Adapters as plain values: their names, sizes and initial values, and which one serves a width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from qalof.errors import BadInputError
from qalof.laws import Count, Law, Positive, check_numbers
from qalof.model.adapter_inits import check_init
from qalof.site import Site

SHARED = "shared"
"""The name of one adapter for all widths."""


@dataclass(frozen=True)
class AdapterSpec:
    """The branch of one adapter: s B A drop(x) with s = alpha/rank, or alpha/sqrt(rank) for rsLoRA.

    ``init`` says how A and B begin, see :mod:`qalof.model.initialization`.

    Raises:
        BadInputError: The rank is below 1, alpha is not positive, dropout is outside [0, 1), or the init is unknown.
    """

    rank: Count = 8
    alpha: Positive = 16
    dropout: Annotated[float, Law(ge=0, lt=1, off="0 drops nothing")] = 0.0
    rslora: bool = False
    init: str = "kaiming"

    def __post_init__(self) -> None:
        check_numbers(self, "an adapter's")
        check_init(self.init, self.rank)

    @property
    def scaling(self) -> float:
        """The factor s of the branch."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def parameters(self, sites: Sequence[Site]) -> int:
        """Return how many parameters A and B have over ``sites``: rank * (in + out) per site that has an adapter."""
        return sum(self.rank * (site.in_features + site.out_features) for site in sites if site.has_adapter)


S3_SPECS = {str(b): AdapterSpec(16 if b < 6 else 8, 64 if b == 4 else 32 if b == 5 else 16) for b in (4, 5, 6, 8, 16)}
REFERENCE_SPECS: Mapping[str, Mapping[str, AdapterSpec]] = {
    "s1": {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)},
    "s2": {bits: AdapterSpec(8, 16) for bits in ("2", "4", "8")},
    "s3": S3_SPECS,
    "s4-sp": {str(bits): AdapterSpec(64, 128) for bits in (*range(4, 17), 32)},
    "s4-cpt": {SHARED: AdapterSpec(16, 32)},
}
"""The widths, ranks and alphas of the reference systems (docs/systems.md). S2 gives no rank, and S4 gives no alpha for
its SP.
"""


class AdapterPolicy(StrEnum):
    """Which adapter serves a width that has none of its own."""

    EXACT = "exact"
    NEAREST_HIGHER = "nearest_higher"
    NEAREST = "nearest"
    NONE = "none"


def adapter_for(bits: int, names: Sequence[str], policy: AdapterPolicy) -> str | None:
    """Return the adapter that serves weights of ``bits``, or None for no branch.

    ``nearest_higher`` takes the highest adapter where none is higher than ``bits``, for example at full precision.

    Raises:
        BadInputError: The policy is ``exact``, and no adapter has this width.
    """
    if not names:
        return None
    if SHARED in names:
        return SHARED
    widths = sorted(int(name) for name in names)
    if bits in widths:
        return str(bits)
    if policy is AdapterPolicy.EXACT:
        raise BadInputError(
            f"policy exact needs an adapter for {bits} bits: there are {widths}; take nearest_higher or train it"
        )
    if policy is AdapterPolicy.NONE:
        return None
    if policy is AdapterPolicy.NEAREST:
        return str(min(widths, key=lambda width: (abs(width - bits), -width)))
    return str(min((width for width in widths if width > bits), default=widths[-1]))


def stand_ins(widths: Sequence[int], names: Sequence[str], policy: AdapterPolicy) -> dict[int, str | None]:
    """Return the widths that have no adapter of their own, from low to high, each with the adapter that serves it.

    The result is empty for a model without adapters or with a shared one. ``exact`` refuses such widths when they run;
    None stands for that too.
    """
    own = {int(name) for name in names if name != SHARED}
    missing = sorted(set(widths) - own) if own and SHARED not in names else []
    exact = policy is AdapterPolicy.EXACT
    return {bits: None if exact else adapter_for(bits, names, policy) for bits in missing}


def untrained_widths(widths: Sequence[int], names: Sequence[str], policy: AdapterPolicy) -> str | None:
    """Return a warning that names the widths of a menu without an adapter, and what runs there; None if all have
    one.
    """
    found = stand_ins(widths, names, policy)
    if not found:
        return None
    served = {bits: "no adapter" if name is None else f"the adapter of {name} bits" for bits, name in found.items()}
    return (
        f"no adapter was trained for {', '.join(map(str, found))} bits: policy {policy} runs "
        + ", ".join(f"{name} at {bits} bits" for bits, name in served.items())
        + "; train one, or leave these widths out of the menu"
    )
