"""Transfer: whether attacks that were built at one bitmap work at another (docs/methods/random_precision.md,
"Measuring").

Everything is computed from two tables of predicted labels, which :func:`prediction_table` and :func:`draw_table` fill
with a model and nothing else needs one:

- :class:`PredictionTable`: each example's clean text and its adversarial text of every source bitmap, at every
  target bitmap (a classifier's label; for a language model 0 where it held and 1 where it broke, see
  :mod:`qalof.attacks.goal`);
- :class:`DrawTable`: the same texts under R draws of random precision.  The clean text and all attacks of an
  example meet the *same* draws, so differences between them are not due to chance.

M[i, j] is the share of adversarial texts built at i that are wrong at j, over the inputs whose clean text is right at i
*and* at j: an input that j misreads anyway says nothing about transfer. The unconditional matrix, over all inputs, is
given alongside it (1 minus it is the accuracy after the attack), and one over the attacks that worked where they were
built, which says how often a *successful* attack works at another bitmap.  In the others a failed attack takes part
with its nearest miss, since it may yet work elsewhere; a text whose true label changed has its original in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qalof.attacks.goal import GoalFunction
from qalof.attacks.rates import Mask, Rate
from qalof.attacks.result import AttackResult
from qalof.attacks.robustness.random_precision import DrawGranularity, RandomPrecision
from qalof.attacks.victim import frozen
from qalof.batching import Progress
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError

Labels = NDArray[np.int64]
Texts = list[list[str]]
"""One row per example: the clean text, then the adversarial text of each source."""


@dataclass(frozen=True)
class PredictionTable:
    """``bitmaps``: B names; ``labels`` (N,); ``clean`` (N, B); ``adversarial`` (B source, N, B target)."""

    bitmaps: tuple[str, ...]
    labels: Labels
    clean: Labels
    adversarial: Labels

    @classmethod
    def of_rows(cls, bitmaps: Sequence[str], labels: Sequence[int], clean: Sequence[Any], texts: Sequence[Any]) -> Self:
        """Return the table of examples whose answers are given one by one: ``clean`` (B,), ``texts`` (B source, B)."""
        answers = np.asarray(clean, dtype=np.int64), np.asarray(texts, dtype=np.int64).transpose(1, 0, 2)
        return cls(tuple(bitmaps), np.asarray(labels, dtype=np.int64), *answers)

    @property
    def clean_right(self) -> Mask:
        """(N, B): whether the clean text is classified correctly."""
        right: Mask = self.clean == self.labels[:, None]
        return right

    @property
    def adversarial_wrong(self) -> Mask:
        """(B source, N, B target): whether the adversarial text is misclassified."""
        wrong: Mask = self.adversarial != self.labels[None, :, None]
        return wrong

    @classmethod
    def join(cls, shards: Sequence[Self]) -> Self:
        """Return the table of all shards' examples, in the order of the shards.

        Raises:
            BadInputError: none, or shards over different bitmaps.
        """
        if len({shard.bitmaps for shard in shards}) != 1:
            raise BadInputError(f"shards to join must have the same bitmaps: got {[s.bitmaps for s in shards]}")
        return cls(
            shards[0].bitmaps,
            np.concatenate([shard.labels for shard in shards]),
            np.concatenate([shard.clean for shard in shards]),
            np.concatenate([shard.adversarial for shard in shards], axis=1),
        )


@dataclass(frozen=True)
class DrawTable:
    """``clean`` (N, R); ``adversarial`` (B source, N, R): predicted labels under R draws."""

    clean: Labels
    adversarial: Labels

    @classmethod
    def of_rows(cls, clean: Sequence[Any], texts: Sequence[Any]) -> Self:
        """Return the table of examples whose answers are given one by one: ``clean`` (R,), ``texts`` (B source, R)."""
        return cls(np.asarray(clean, dtype=np.int64), np.asarray(texts, dtype=np.int64).transpose(1, 0, 2))

    @classmethod
    def join(cls, shards: Sequence[Self]) -> Self:
        """Return the table of all shards' examples, in the order of the shards."""
        return cls(
            np.concatenate([shard.clean for shard in shards]),
            np.concatenate([shard.adversarial for shard in shards], axis=1),
        )


class Population(Enum):
    """The inputs that a matrix counts."""

    RIGHT_AT_BOTH = "clean text right at source and target"
    BROKEN_AT_SOURCE = "as RIGHT_AT_BOTH, and the attack worked at its source"
    ALL = "all"


def transfer_matrix(
    table: PredictionTable, among: Population = Population.RIGHT_AT_BOTH
) -> tuple[tuple[Rate, ...], ...]:
    """Return M with counts: row = source, column = target; see the docstring of the module."""
    wrong, size = table.adversarial_wrong, range(len(table.bitmaps))
    return tuple(tuple(Rate.of(wrong[i, :, j], _counted(table, i, j, among)) for j in size) for i in size)


def _counted(table: PredictionTable, source: int, target: int, among: Population) -> Mask | None:
    if among is Population.ALL:
        return None
    counted: Mask = table.clean_right[:, source] & table.clean_right[:, target]
    return counted & table.adversarial_wrong[source, :, source] if among is Population.BROKEN_AT_SOURCE else counted


def predicted_success(
    matrix: Sequence[Sequence[Rate]], bitmaps: Sequence[str], defense: RandomPrecision
) -> tuple[float | None, ...]:
    """Return, per source, the mean of its row of M over the defense's draws, which are independent of the attack.

    None where draws are made per layer, which M has no columns for, or where a column that matters is missing or empty.
    """
    weights = defense.weights()
    names = {} if weights is None else {str(bitmap): weight for bitmap, weight in weights.items() if weight}
    if not names or not names.keys() <= set(bitmaps):
        return (None,) * len(matrix)
    result: list[float | None] = []
    for row in matrix:
        cells = [(names[name], rate.estimate) for name, rate in zip(bitmaps, row, strict=True) if name in names]
        known = [weight * estimate for weight, estimate in cells if estimate is not None]
        result.append(sum(known) if len(known) == len(cells) else None)
    return tuple(result)


def prediction_table(
    judge: GoalFunction,
    results: Sequence[Sequence[AttackResult]],
    bitmaps: Sequence[Bitmap],
    *,
    progress: Progress | None = None,
) -> PredictionTable:
    """Return the answers to every clean and adversarial text at every bitmap.

    Args:
        judge: of the attack's settings; its model is left at the bitmap it had.
        results: one list per bitmap, attacked there; all lists have the same examples in the same order.
        bitmaps: sources and targets.
        progress: called with bitmaps done.

    Raises:
        BadInputError: There is not one list per bitmap, or the lists have different examples.
    """
    texts = _texts(results, len(bitmaps))
    labels = np.array([result.label for result in results[0]], dtype=np.int64)
    found = np.empty((len(bitmaps), len(texts), 1 + len(results)), dtype=np.int64)
    with frozen(judge.model), judge.model.at():
        for j, bitmap in enumerate(bitmaps):
            judge.model.set_bitmap(bitmap)
            found[j] = judge.answers(results[0], texts)
            if progress:
                progress(j + 1, len(bitmaps))
    return PredictionTable(
        tuple(str(bitmap) for bitmap in bitmaps), labels, found[:, :, 0].T, found[:, :, 1:].transpose(2, 1, 0)
    )


def draw_table(
    judge: GoalFunction,
    results: Sequence[Sequence[AttackResult]],
    defense: RandomPrecision,
    draws: int,
    *,
    progress: Progress | None = None,
) -> DrawTable:
    """Return answers to every clean and adversarial text under ``draws`` draws per request; its number is the example's
    id.

    Arguments and errors as for :func:`prediction_table`; ``progress`` counts distinct bitmaps.
    """
    if draws < 1:
        raise BadInputError(f"random precision needs at least 1 draw per example: got {draws}; 20 are usual")
    if defense.granularity is DrawGranularity.TOKEN:
        raise BadInputError("texts are judged in one pass each, where a token cannot draw: take granularity layer")
    texts = _texts(results, len(results))
    # requests that drew the same bitmap are classified together: with draws for the whole model that is one pass per
    # width
    drawn: dict[Bitmap, list[tuple[int, int]]] = {}
    for row, result in enumerate(results[0]):
        for draw in range(draws):
            drawn.setdefault(defense.bitmap(result.example_id, draw), []).append((row, draw))
    found = np.empty((len(texts), draws, 1 + len(results)), dtype=np.int64)
    with frozen(judge.model), judge.model.at():
        for done, (bitmap, places) in enumerate(drawn.items(), 1):
            judge.model.set_bitmap(bitmap)
            rows = sorted({row for row, _ in places})
            examples = [results[0][row] for row in rows]
            answers = dict(zip(rows, judge.answers(examples, [texts[row] for row in rows]), strict=True))
            for row, draw in places:
                found[row, draw] = answers[row]
            if progress:
                progress(done, len(drawn))
    return DrawTable(found[:, :, 0], found[:, :, 1:].transpose(2, 0, 1))


def _texts(results: Sequence[Sequence[AttackResult]], sources: int) -> Texts:
    if len(results) != sources or not results:
        raise BadInputError(f"results must be one list per bitmap: got {len(results)} for {sources}")
    ids = [[result.example_id for result in attacked] for attacked in results]
    if any(other != ids[0] for other in ids) or not ids[0]:
        raise BadInputError("results must cover the same examples in the same order at every bitmap; sort them by id")
    return [[row[0].original_text, *(result.valid_text for result in row)] for row in zip(*results, strict=True)]
