"""An attacker who knows the defense attacks its mean: expectation over precisions
(docs/methods/random_precision.md, "An attacker who knows").

Athalye, Carlini and Wagner (ICML 2018) break defenses that draw at random by attacking the expectation over the draw
(EOT). Here the draw is the precision: a gradient attack minimizes the mean of its loss, and an attack by queries asks
for the mean of the probabilities, or counts labels by majority, where it sees labels alone.

The mean runs over the whole set S of the defense with its probabilities, or, with ``draws`` = k, over k fresh draws at
every step: a step of Adam, or one question about all candidates of a word, which then meet the same draws, so their
differences are not due to chance.  The attacker's draws have a seed of their own: an attacker who met the very draws
that judge the attack would know more than the defense's law.  Each draw that a text meets is a query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from qalof.attacks.robustness.random_precision import DrawGranularity, RandomPrecision
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.errors import BadInputError
from qalof.laws import Law, check_numbers

Combination = Literal["mean", "majority"]


@dataclass(frozen=True)
class Expectation:
    """The precisions that an adaptive attacker averages over; a :class:`~qalof.attacks.victim.Precisions`.

    Raises:
        BadInputError: ``draws`` is None where the bitmaps are too many to list, or ``combine`` is unknown.
    """

    defense: RandomPrecision
    """The defense that the attacker knows."""
    draws: Annotated[int, Law(ge=1, off="null is the whole set")] | None = None
    """How many draws each step makes; None takes every bitmap of the set, weighted by its probability."""
    combine: Combination = "mean"
    """How readings become one: the ``mean`` of probabilities, or the ``majority`` of labels."""

    def __post_init__(self) -> None:
        check_numbers(self, "an attacker's")
        if self.combine not in ("mean", "majority"):
            raise BadInputError(f"combine must be mean or majority: got {self.combine!r}")
        if self.defense.granularity is DrawGranularity.TOKEN:
            raise BadInputError("an attack reads a text in one pass, where a token cannot draw: take granularity layer")
        if self.draws is None and self.defense.weights() is None:
            raise BadInputError(
                f"a defense by {self.defense.granularity} has too many bitmaps to average over all: give draws, such "
                "as 8 per step"
            )

    @property
    def name(self) -> str:
        """What the record says in place of a bitmap."""
        widths = ",".join(short_name(str(choice)) for choice in self.defense.choices)
        over = f"all of {widths}" if self.draws is None else f"{self.draws} draws of {widths}"
        grain = f" by {self.defense.granularity}" if self.defense.granularity is DrawGranularity.LAYER else ""
        return f"{self.combine} over {over}{grain}"

    @property
    def passes(self) -> int:
        """How many readings, and so queries, one text costs."""
        return len(self._listed()) if self.draws is None else self.draws

    @property
    def votes(self) -> bool:
        """Whether labels are counted."""
        return self.combine == "majority"

    def at(self, example: int, step: int) -> Sequence[tuple[Bitmap, float]]:
        """Return the bitmaps of a step and their weights, which sum to 1; equal arguments give equal bitmaps."""
        if self.draws is None:
            return self._listed()
        grain = self.defense.granularity
        # what requests share a draw is nothing to an attacker who runs the model himself
        alone = grain if grain is DrawGranularity.LAYER else DrawGranularity.REQUEST
        own = replace(self.defense, granularity=alone, seed=_own_seed(self.defense.seed, example, step))
        return [(own.bitmap(draw), 1 / self.draws) for draw in range(self.draws)]

    def _listed(self) -> list[tuple[Bitmap, float]]:
        weights = self.defense.weights() or {}
        return [(bitmap, weight) for bitmap, weight in weights.items() if weight]


def _own_seed(seed: int, example: int, step: int) -> int:
    """Return a seed that is the attacker's own, from (seed, example, step)."""
    key = hashlib.sha256(f"attacker/{seed}/{example}/{step}".encode()).digest()
    return int.from_bytes(key[:4], "big")
