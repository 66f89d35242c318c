"""The results on robustness: fixed precisions, transfer, and random precision with its control.

Random precision alone makes errors, and an attacker who may retry meets more of them with every draw.  So each rate of
successful attacks has a *clean control* alongside it: the share of unattacked texts that the same draws get wrong. Only
the excess over the control is due to the attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from qalof.attacks.meaning import THRESHOLDS
from qalof.attacks.rates import Mask, Rate
from qalof.attacks.result import SIMILARITY, AttackResult, AttackStatus
from qalof.attacks.robustness.attackers import AttackerResult, attackers_of, comparisons_of, misread
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import DrawTable, Population, PredictionTable, predicted_success, transfer_matrix
from qalof.comparison import Comparison
from qalof.errors import BadInputError

FORMAT_VERSION = 4


@dataclass(frozen=True)
class SourceUnderDraws:
    """Attacks built at ``bitmap`` against random precision.

    ``predicted``: mean of M's row over the draws, None where M cannot tell; ``success_mean``: measured, share of draws
    wrong, on the inputs and draws whose clean text is right (M's condition); ``success_any``: share of inputs right at
    ``bitmap`` that some draw gets wrong (a retrying attacker); ``control_mean``, ``control_any``: share of draws and of
    inputs wrong when the same inputs' *clean* texts are sent; ``recovered``: of the attacks that work at ``bitmap``,
    share of draws that read the text rightly again; ``accuracy``: right draws over all inputs.
    """

    bitmap: str
    predicted: float | None
    success_mean: Rate
    success_any: Rate
    control_mean: Rate
    control_any: Rate
    recovered: Rate
    accuracy: Rate


@dataclass(frozen=True)
class RandomPrecisionReport:
    """Random precision with ``draws`` draws per example.

    ``defense``: widths, granularity, seed and p of the defense; ``clean_accuracy``: right draws over all inputs;
    ``clean_any_wrong``: inputs that some draw gets wrong, unattacked; ``predicted``, ``success_mean``: over all
    sources, for an attacker who draws the source as well; ``attackers``: the four attackers in one table, one of whom
    knows the defense, and ``comparisons`` paired tests between them; both are empty where nobody attacked the mean.
    """

    defense: Mapping[str, Any]
    draws: int
    clean_accuracy: Rate
    clean_any_wrong: Rate
    predicted: float | None
    success_mean: Rate
    sources: tuple[SourceUnderDraws, ...]
    attackers: tuple[AttackerResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class RobustnessResult:
    """One model's robustness.  Per bitmap, in the order of ``bitmaps``; matrices are [source][target].

    ``transfer_of_successes`` counts only attacks that worked where they were built; ``random_precision``: one entry per
    defense, in the order of the request.  ``label_changed``: attacked texts whose answer and true label both changed,
    which are no success; ``similar``: success by least similarity, empty where nobody judged it.
    """

    bitmaps: tuple[str, ...]
    examples: int
    clean_accuracy: tuple[Rate, ...]
    attack_success: tuple[Rate, ...]
    transfer: tuple[tuple[Rate, ...], ...]
    transfer_unconditional: tuple[tuple[Rate, ...], ...]
    transfer_of_successes: tuple[tuple[Rate, ...], ...]
    random_precision: tuple[RandomPrecisionReport, ...]
    label_changed: tuple[Rate, ...] = ()
    similar: tuple[Mapping[str, Rate], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a versioned plain dict; :meth:`from_json` reads it back."""
        data = asdict(self)
        for block, report in zip(data["random_precision"], self.random_precision, strict=True):
            block["comparisons"] = [comparison.to_json() for comparison in report.comparisons]
        return {"version": FORMAT_VERSION, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: another version.
        """
        check_version(data)
        return cls(
            bitmaps=tuple(data["bitmaps"]),
            examples=data["examples"],
            clean_accuracy=_rates(data["clean_accuracy"]),
            attack_success=_rates(data["attack_success"]),
            transfer=tuple(_rates(row) for row in data["transfer"]),
            transfer_unconditional=tuple(_rates(row) for row in data["transfer_unconditional"]),
            transfer_of_successes=tuple(_rates(row) for row in data["transfer_of_successes"]),
            random_precision=tuple(_random_precision(block) for block in data["random_precision"]),
            label_changed=_rates(data["label_changed"]),
            similar=tuple({least: Rate(**rate) for least, rate in row.items()} for row in data["similar"]),
        )


def check_version(data: Mapping[str, Any]) -> None:
    """Check that a report is of the present version.

    Raises:
        BadInputError: another version.
    """
    if (found := data.get("version")) != FORMAT_VERSION:
        raise BadInputError(f"robustness report must have version {FORMAT_VERSION}: got {found!r}; attack again")


@dataclass(frozen=True)
class Attacked:
    """What the tables do not hold of the attacks: by source, and by defense the attack on its mean, if there was one.

    The draw table of a defense whose mean was attacked has the answers to that attack's texts last.
    """

    sources: Sequence[Sequence[AttackResult]]
    adaptive: Sequence[Sequence[AttackResult] | None]


def robustness_of(
    table: PredictionTable, drawn: Sequence[tuple[RandomPrecision, DrawTable]] = (), attacked: Attacked | None = None
) -> RobustnessResult:
    """Compute all figures from the tables; ``drawn`` has each defense with the answers under its draws."""
    results = [] if attacked is None else attacked.sources
    adaptive = [None] * len(drawn) if attacked is None else attacked.adaptive
    matrix = transfer_matrix(table)
    right = table.clean_right
    return RobustnessResult(
        bitmaps=table.bitmaps,
        examples=len(table.labels),
        clean_accuracy=tuple(Rate.of(right[:, j]) for j in range(len(table.bitmaps))),
        attack_success=tuple(row[i] for i, row in enumerate(matrix)),
        transfer=matrix,
        transfer_unconditional=transfer_matrix(table, Population.ALL),
        transfer_of_successes=transfer_matrix(table, Population.BROKEN_AT_SOURCE),
        random_precision=tuple(
            _with_attackers(table, draws, defense, results, own)
            for (defense, draws), own in zip(drawn, adaptive, strict=True)
        ),
        label_changed=tuple(_label_changed(row) for row in results),
        similar=tuple(_similar(row) for row in results),
    )


def _with_attackers(
    table: PredictionTable, draws: DrawTable, defense: RandomPrecision, results: Sequence[Sequence[AttackResult]],
    adaptive: Sequence[AttackResult] | None,
) -> RandomPrecisionReport:  # fmt: skip
    sources = DrawTable(draws.clean, draws.adversarial[: len(table.bitmaps)])
    report = _under_draws(table, sources, defense)
    if adaptive is None:
        return report
    return replace(
        report,
        attackers=attackers_of(results, adaptive, draws),
        comparisons=comparisons_of(misread(table, draws)),
    )


def _attacked(results: Sequence[AttackResult]) -> Mask:
    return np.array([result.status is not AttackStatus.SKIPPED for result in results])


def _label_changed(results: Sequence[AttackResult]) -> Rate:
    changed = np.array([result.status is AttackStatus.LABEL_CHANGED for result in results])
    return Rate.of(changed, _attacked(results))


def _similar(results: Sequence[AttackResult]) -> Mapping[str, Rate]:
    if not any(SIMILARITY in result.measures for result in results):
        return {}
    values = np.array([result.measures.get(SIMILARITY, -1.0) for result in results])
    won = np.array([result.status is AttackStatus.SUCCESS for result in results])
    return {f"{least:g}": Rate.of(won & (values >= least), _attacked(results)) for least in THRESHOLDS}


def _under_draws(table: PredictionTable, draws: DrawTable, defense: RandomPrecision) -> RandomPrecisionReport:
    labels = table.labels[:, None]
    clean_right = np.asarray(draws.clean == labels)
    wrong = np.asarray(draws.adversarial != labels[None])
    predicted = predicted_success(transfer_matrix(table), table.bitmaps, defense)
    known = [value for value in predicted if value is not None]
    size = range(len(table.bitmaps))
    counted = [clean_right & table.clean_right[:, [i]] for i in size]
    return RandomPrecisionReport(
        defense=defense.to_json(),
        draws=draws.clean.shape[1],
        clean_accuracy=Rate.of(clean_right),
        clean_any_wrong=Rate.of(np.any(~clean_right, axis=1)),
        predicted=sum(known) / len(known) if len(known) == len(predicted) else None,
        # an example's rows of all sources are one cluster: they share its text and its draws
        success_mean=Rate.of(np.concatenate(list(wrong), axis=1), np.concatenate(counted, axis=1)),
        sources=tuple(_one_source(table, i, predicted[i], wrong[i], clean_right) for i in size),
    )


def _one_source(
    table: PredictionTable, i: int, predicted: float | None, wrong: Mask, clean_right: Mask
) -> SourceUnderDraws:
    """Compute one source; ``wrong`` and ``clean_right``, (N, R), are of attacked and clean texts under the same
    draws.
    """
    attacked = table.clean_right[:, i]
    works = attacked & table.adversarial_wrong[i, :, i]
    return SourceUnderDraws(
        bitmap=table.bitmaps[i],
        predicted=predicted,
        success_mean=Rate.of(wrong, clean_right & attacked[:, None]),
        success_any=Rate.of(np.any(wrong, axis=1), attacked),
        control_mean=Rate.of(~clean_right, _per_draw(attacked, wrong)),
        control_any=Rate.of(np.any(~clean_right, axis=1), attacked),
        recovered=Rate.of(~wrong, _per_draw(works, wrong)),
        accuracy=Rate.of(~wrong),
    )


def _per_draw(inputs: Mask, like: Mask) -> Mask:
    """Repeat (N,) as (N, R)."""
    return np.broadcast_to(inputs[:, None], like.shape)


def _rates(rows: Any) -> tuple[Rate, ...]:
    return tuple(Rate(**row) for row in rows)


def _random_precision(block: Mapping[str, Any]) -> RandomPrecisionReport:
    rates = {name: Rate(**block[name]) for name in ("clean_accuracy", "clean_any_wrong", "success_mean")}
    lists = {
        "sources": tuple(_source(row) for row in block["sources"]),
        "attackers": tuple(AttackerResult.from_json(row) for row in block["attackers"]),
        "comparisons": tuple(Comparison.from_json(row) for row in block["comparisons"]),
    }
    return RandomPrecisionReport(**{**block, **rates, **lists})


def _source(row: Mapping[str, Any]) -> SourceUnderDraws:
    rates: dict[str, Any] = {name: Rate(**value) for name, value in row.items() if isinstance(value, Mapping)}
    return SourceUnderDraws(**{**row, **rates})
