"""Random precision inference draws the bitmap of each request (Double-Win Quant, ICML 2021;
docs/methods/random_precision.md).

Granularity says what shares a draw from the set S:

- ``request``: every request draws for itself, all layers alike (the default);
- ``batch``: ``batch_size`` requests in a row share a draw, which is what the official code does.  A batch is the
  requests k * batch_size to (k + 1) * batch_size - 1 by their own numbers, whoever serves them.  Texts of one batch are
  then not independent of each other, so intervals over texts are too narrow;
- ``layer``: every site of every request draws for itself; with this reading the table of S4 (docs/systems.md) makes
  sense;
- ``token``: every position of every request draws for itself, so one KV cache holds mixed widths
  (:mod:`qalof.attacks.robustness.random_precision_model`).

S4's switching probability p leaves a draw at ``baseline`` with probability 1 - p; otherwise the draw is uniform over S,
which may contain the baseline again.

Draws come from SHA-256 of (seed, request, draw, layer) and not from a generator with a state, so a request can be
replayed alone, on any machine, and shards agree with the whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError, nearest_hint
from qalof.laws import Count, Seed, Share, check_numbers

_WORD = 2**64
BATCH_SIZE = 16
"""The default number of requests that share a draw of a batch."""


class DrawGranularity(StrEnum):
    """The granularity says what shares one draw."""

    REQUEST = "request"
    BATCH = "batch"
    LAYER = "layer"
    TOKEN = "token"


@dataclass(frozen=True)
class RandomPrecision:
    """A defense that draws a bitmap for each request. :meth:`of` makes it.

    ``choices``: S; ``probability``: p of leaving ``baseline``, which is None where p = 1; ``batch_size``: in
    requests, of the granularity ``batch`` alone.
    """

    choices: tuple[Bitmap, ...]
    granularity: DrawGranularity = DrawGranularity.REQUEST
    seed: Seed = 0
    probability: Share = 1.0
    baseline: Bitmap | None = None
    batch_size: Count = BATCH_SIZE

    def __post_init__(self) -> None:
        check_numbers(self, "random precision's")
        if not self.choices:
            raise BadInputError("random precision needs at least one width to draw from: got none; 4,8 for example")
        if self.probability < 1 and self.baseline is None:
            raise BadInputError(f"a switching probability of {self.probability} needs a baseline to stay at: got none")
        for bitmap in self._all():
            if bitmap.sites != self.choices[0].sites:
                raise BadInputError(f"all bitmaps to draw from must have the same sites: {bitmap} has others")

    @classmethod
    def of(
        cls,
        sites: Sequence[str],
        widths: Sequence[int | str | Bitmap],
        *,
        granularity: str = "request",
        seed: int = 0,
        probability: float = 1.0,
        baseline: int | str | Bitmap | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Self:
        """Make the defense of a model with these ``sites``; ``widths`` and ``baseline`` are whatever
        :meth:`Bitmap.parse` reads.

        Raises:
            BadInputError: There are no widths, a width is illegal, the granularity is unknown, or p is outside [0, 1]
                or has no baseline.
        """
        choices = tuple(Bitmap.parse(width, sites) for width in widths)
        stay = None if baseline is None else Bitmap.parse(baseline, sites)
        return cls(choices, _granularity(granularity), seed, probability, stay, batch_size)

    def bitmap(self, request: int, draw: int = 0, position: int = 0) -> Bitmap:
        """Return the bitmap of a request; ``draw`` counts its repetitions. Equal arguments give equal bitmaps.

        ``position`` is that of a token in its request, which matters to the granularity ``token`` alone.
        """
        if self.granularity is DrawGranularity.TOKEN:
            return self._draw(request, draw, f"token {position}")
        if self.granularity is DrawGranularity.LAYER:
            return Bitmap({site: self._draw(request, draw, site)[site] for site in self.choices[0].sites})
        return self._draw(request // self.shared, draw, "")

    @property
    def shared(self) -> int:
        """The number of consecutive requests that share a draw."""
        return self.batch_size if self.granularity is DrawGranularity.BATCH else 1

    def _draw(self, unit: int, draw: int, layer: str) -> Bitmap:
        key = hashlib.sha256(f"rpi/{self.seed}/{unit}/{draw}/{layer}".encode()).digest()
        switch, choice = (int.from_bytes(key[start : start + 8], "big") for start in (0, 8))
        if self.baseline is not None and switch >= self.probability * _WORD:
            return self.baseline
        return self.choices[choice * len(self.choices) // _WORD]

    def weights(self) -> Mapping[Bitmap, float] | None:
        """Return the probability of each bitmap; None per layer and per token, where no bitmap serves a request."""
        if self.granularity in (DrawGranularity.LAYER, DrawGranularity.TOKEN):
            return None
        switched = 1.0 if self.baseline is None else self.probability
        weights: Counter[Bitmap] = Counter()
        for choice in self.choices:
            weights[choice] += switched / len(self.choices)  # type: ignore[assignment]
        if self.baseline is not None:
            weights[self.baseline] += 1 - switched  # type: ignore[assignment]
        return dict(weights)

    def to_json(self) -> dict[str, Any]:
        """Return the defense as the record has it, with bitmaps as printed."""
        return {
            "widths": [str(choice) for choice in self.choices],
            "granularity": str(self.granularity),
            "seed": self.seed,
            "probability": self.probability,
            "baseline": None if self.baseline is None else str(self.baseline),
            "batch_size": self.shared,
        }

    def _all(self) -> tuple[Bitmap, ...]:
        return self.choices if self.baseline is None else (*self.choices, self.baseline)


def _granularity(name: str) -> DrawGranularity:
    if name not in list(DrawGranularity):
        hint = nearest_hint(name, [str(known) for known in DrawGranularity])
        raise BadInputError(f"granularity must be request, batch, layer or token: got {name!r}; {hint}")
    return DrawGranularity(name)
