"""Four attackers against one defense, in one table (docs/methods/random_precision.md, "An attacker who knows").

==================  =============================================================================================
``non_adaptive``    draws the precision at which it attacks, as Double-Win Quant evaluates: the mean over sources
``worst_source``    attacks at the one fixed precision whose texts do best against the defense
``adaptive``        attacks the mean over precisions (:mod:`qalof.attacks.robustness.adaptive`)
``retrying``        sends the adaptive attacker's text again until a draw misreads it, at most R times
==================  =============================================================================================

Each has the same clean control: how often the same draws misread the unattacked texts of the same inputs; for the
retrying attacker, how often any of R draws does.  The worst source is the one whose texts are misread at the most draws
over all inputs, in the table of attackers as in the comparisons (:func:`worst_source`): every source has the same
inputs and draws there, while the texts that success counts differ from source to source.  It is chosen on the texts
that it is then judged on, so its numbers are a little too high, never too low.

Queries are all texts that the victim read: those of the attack, and for ``retrying`` the tries.

Attackers and fixed precisions are compared on the share of draws at which a text is misread after the attack, over all
inputs (:func:`misread`), example by example (:mod:`qalof.comparison`): over all, so all comparisons of a table have the
same examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qalof.attacks.meaning import THRESHOLDS
from qalof.attacks.rates import Mask, Rate
from qalof.attacks.result import SIMILARITY, AttackResult, AttackStatus
from qalof.attacks.robustness.transfer import DrawTable, PredictionTable
from qalof.comparison import Comparison, compare

ATTACKERS = ("non_adaptive", "worst_source", "adaptive", "retrying")


@dataclass(frozen=True)
class AttackerResult:
    """One attacker against one defense."""

    attacker: str
    """One of :data:`ATTACKERS`."""
    source: str
    """The precision, or precisions, that were attacked."""
    success: Rate
    """The share of texts and draws misread, of those whose clean text is right; for ``retrying`` the share of texts."""
    control: Rate
    """The share of clean texts that the same draws misread, of the same inputs."""
    accuracy: Rate
    """The share of draws, or for ``retrying`` of texts, that are right after the attack, over all inputs."""
    queries: float | None
    """The mean number of queries of an attacked text, tries included; None where nothing was attacked."""
    similar: Mapping[str, Rate] = field(default_factory=dict)
    """The success by least similarity: a text that is less similar counts as no success."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``dataclasses.asdict`` gives."""
        rates = {name: Rate(**data[name]) for name in ("success", "control", "accuracy")}
        return cls(**{**data, **rates, "similar": {least: Rate(**rate) for least, rate in data["similar"].items()}})


Misread = Mapping[str, NDArray[np.float64]]
"""The share of draws at which each example is misread, by the name of an attacker: ``fixed B`` is one at a fixed
precision, and ``clean`` is nobody."""


def worst_source(wrong: Mask) -> int:
    """Return the source whose texts are misread at the most draws over all inputs, of equal ones the first.

    Args:
        wrong: whether a text is misread, (sources, examples, draws).
    """
    return int(np.argmax(wrong.mean(axis=(1, 2))))


def misread(table: PredictionTable, draws: DrawTable) -> Misread:
    """Return how often each example is misread after each attack, and under the same draws without one.

    Args:
        table: the answers at fixed precisions.
        draws: as for :func:`attackers_of`.
    """
    wrong = np.asarray(draws.adversarial != table.labels[None, :, None])
    *sources, own = wrong.astype(np.float64)
    worst = sources[worst_source(wrong[:-1])]
    fixed = {f"fixed {name}": table.adversarial_wrong[i, :, i] for i, name in enumerate(table.bitmaps)}
    return {name: value.astype(np.float64) for name, value in fixed.items()} | {
        "clean": (draws.clean != table.labels[:, None]).mean(axis=1),
        "non_adaptive": np.mean([each.mean(axis=1) for each in sources], axis=0),
        "worst_source": worst.mean(axis=1),
        "adaptive": own.mean(axis=1),
        "retrying": own.any(axis=1).astype(np.float64),
    }


def comparisons_of(values: Misread) -> tuple[Comparison, ...]:
    """Compare what a table of attackers claims: each fixed precision with random precision under both kinds of
    attacker, the attackers with each other, and attacked with clean texts.
    """
    fixed = [name for name in values if name.startswith("fixed ")]
    pairs = [(attacker, name) for name in fixed for attacker in ("non_adaptive", "adaptive")]
    pairs += [("worst_source", "non_adaptive"), ("adaptive", "non_adaptive"), ("adaptive", "worst_source")]
    pairs += [("non_adaptive", "clean"), ("adaptive", "clean")]
    return compare(values, pairs)


@dataclass(frozen=True)
class _Reading:
    """What one list of attacks comes to under the draws; arrays are (N, R), or (N,)."""

    results: Sequence[AttackResult]
    wrong: Mask
    clean_right: Mask

    @property
    def attacked(self) -> Mask:
        return np.array([result.status is not AttackStatus.SKIPPED for result in self.results])

    @property
    def similarity(self) -> NDArray[np.float64] | None:
        if not any(SIMILARITY in result.measures for result in self.results):
            return None
        return np.array([result.measures.get(SIMILARITY, -1.0) for result in self.results])

    @property
    def counted(self) -> Mask:
        counted: Mask = self.clean_right & self.attacked[:, None]
        return counted


def attackers_of(
    results: Sequence[Sequence[AttackResult]], adaptive: Sequence[AttackResult], draws: DrawTable
) -> tuple[AttackerResult, ...]:
    """Return the four attackers, in the order of :data:`ATTACKERS`.

    Args:
        results: what was attacked at fixed precisions, one list per source.
        adaptive: what the adaptive attacker found, on the same examples in the same order.
        draws: the answers under the defense's draws to the texts of all sources and, last, of ``adaptive``.
    """
    labels = np.array([result.label for result in adaptive])[:, None]
    clean_right = np.asarray(draws.clean == labels)
    wrong = np.asarray(draws.adversarial != labels[None])
    *sources, own = (_Reading(r, wrong[i], clean_right) for i, r in enumerate([*results, adaptive]))
    worst = sources[worst_source(wrong[:-1])]
    return (
        _per_draw("non_adaptive", sources),
        _per_draw("worst_source", [worst]),
        _per_draw("adaptive", [own]),
        _retrying(own),
    )


def _per_draw(name: str, readings: Sequence[_Reading]) -> AttackerResult:
    """Return the mean over draws and readings; an example's rows are one cluster."""
    wrong, counted, clean = (
        np.concatenate(masks, axis=1)
        for masks in (
            [each.wrong for each in readings], [each.counted for each in readings],
            [each.clean_right for each in readings],
        )
    )  # fmt: skip
    attacked = np.concatenate([np.broadcast_to(e.attacked[:, None], e.wrong.shape) for e in readings], axis=1)
    values = [each.similarity for each in readings]
    known = [np.broadcast_to(value[:, None], each.wrong.shape) for value, each in zip(values, readings, strict=True)
             if value is not None]  # fmt: skip
    similar = {}
    if len(known) == len(readings):
        alike = np.concatenate(known, axis=1)
        similar = {f"{least:g}": Rate.of(wrong & (alike >= least), counted) for least in THRESHOLDS}
    return AttackerResult(
        name, _named(readings), Rate.of(wrong, counted), Rate.of(~clean, attacked), Rate.of(~wrong),
        _queries(readings), similar,
    )  # fmt: skip


def _retrying(reading: _Reading) -> AttackerResult:
    broken = np.any(reading.wrong, axis=1)
    tries = np.where(broken, reading.wrong.argmax(axis=1) + 1, reading.wrong.shape[1])
    attacked = reading.attacked
    similar = {}
    if reading.similarity is not None:
        similar = {f"{t:g}": Rate.of(broken & (reading.similarity >= t), attacked) for t in THRESHOLDS}
    return AttackerResult(
        "retrying", _named([reading]), Rate.of(broken, attacked),
        Rate.of(np.any(~reading.clean_right, axis=1), attacked), Rate.of(~broken), _queries([reading], tries), similar,
    )  # fmt: skip


def _named(readings: Sequence[_Reading]) -> str:
    return "; ".join(dict.fromkeys(each.results[0].bitmap for each in readings))


def _queries(readings: Sequence[_Reading], tries: NDArray[np.int64] | None = None) -> float | None:
    more = [0] * len(readings[0].results) if tries is None else tries.tolist()
    spent = [
        result.queries + extra
        for each in readings
        for result, extra in zip(each.results, more, strict=True)
        if result.status is not AttackStatus.SKIPPED
    ]
    return sum(spent) / len(spent) if spent else None
