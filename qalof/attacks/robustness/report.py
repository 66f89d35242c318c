"""The results on robustness: fixed precisions, transfer, and random precision with its control.

Random precision alone makes errors, and an attacker who may retry meets more of them with every draw.  So each rate of
successful attacks has a *clean control* alongside it: the share of unattacked texts that the same draws get wrong. Only
the excess over the control is due to the attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from qalof.attacks.rates import Mask, Rate
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import DrawTable, Population, PredictionTable, predicted_success, transfer_matrix
from qalof.errors import BadInputError

FORMAT_VERSION = 2


@dataclass(frozen=True)
class SourceUnderDraws:
    """Attacks built at ``bitmap`` against random precision.

    ``predicted``: mean of M's row over the draws, None where M cannot tell; ``success_mean``: measured, share of draws
    wrong, on the inputs and draws whose clean text is right (M's condition); ``success_any``: share of inputs right at
    ``bitmap`` that some draw gets wrong (a retrying attacker); ``control_mean``, ``control_any``: share of draws and of
    inputs wrong when the same inputs' *clean* texts are sent; ``undone``: of the attacks that work at ``bitmap``, share
    of draws that read the text rightly again; ``accuracy``: right draws over all inputs.
    """

    bitmap: str
    predicted: float | None
    success_mean: Rate
    success_any: Rate
    control_mean: Rate
    control_any: Rate
    undone: Rate
    accuracy: Rate


@dataclass(frozen=True)
class RandomPrecisionReport:
    """Random precision with ``draws`` draws per example.

    ``defence``: widths, granularity, seed and p of the defense; ``clean_accuracy``: right draws over all inputs;
    ``clean_any_wrong``: inputs that some draw gets wrong, unattacked; ``predicted``, ``success_mean``: over all
    sources, for an attacker who draws the source as well.
    """

    defence: Mapping[str, Any]
    draws: int
    clean_accuracy: Rate
    clean_any_wrong: Rate
    predicted: float | None
    success_mean: Rate
    sources: tuple[SourceUnderDraws, ...]


@dataclass(frozen=True)
class RobustnessResult:
    """One model's robustness.  Per bitmap, in the order of ``bitmaps``; matrices are [source][target].

    ``transfer_of_successes`` counts only attacks that worked where they were built; ``random_precision``: one entry per
    defense, in the order of the request.
    """

    bitmaps: tuple[str, ...]
    examples: int
    clean_accuracy: tuple[Rate, ...]
    attack_success: tuple[Rate, ...]
    transfer: tuple[tuple[Rate, ...], ...]
    transfer_unconditional: tuple[tuple[Rate, ...], ...]
    transfer_of_successes: tuple[tuple[Rate, ...], ...]
    random_precision: tuple[RandomPrecisionReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a versioned plain dict; :meth:`from_json` reads it back."""
        return {"version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: another version.
        """
        if data.get("version") != FORMAT_VERSION:
            found = data.get("version")
            raise BadInputError(f"robustness report must have version {FORMAT_VERSION}: got {found!r}; attack again")
        return cls(
            bitmaps=tuple(data["bitmaps"]),
            examples=data["examples"],
            clean_accuracy=_rates(data["clean_accuracy"]),
            attack_success=_rates(data["attack_success"]),
            transfer=tuple(_rates(row) for row in data["transfer"]),
            transfer_unconditional=tuple(_rates(row) for row in data["transfer_unconditional"]),
            transfer_of_successes=tuple(_rates(row) for row in data["transfer_of_successes"]),
            random_precision=tuple(_random_precision(block) for block in data["random_precision"]),
        )


def robustness_of(table: PredictionTable, drawn: Sequence[tuple[RandomPrecision, DrawTable]] = ()) -> RobustnessResult:
    """Compute all figures from the tables; ``drawn`` has each defense with the answers under its draws."""
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
        random_precision=tuple(_under_draws(table, draws, defence) for defence, draws in drawn),
    )


def _under_draws(table: PredictionTable, draws: DrawTable, defence: RandomPrecision) -> RandomPrecisionReport:
    labels = table.labels[:, None]
    clean_right = np.asarray(draws.clean == labels)
    wrong = np.asarray(draws.adversarial != labels[None])
    predicted = predicted_success(transfer_matrix(table), table.bitmaps, defence)
    known = [value for value in predicted if value is not None]
    size = range(len(table.bitmaps))
    counted = [clean_right & table.clean_right[:, [i]] for i in size]
    return RandomPrecisionReport(
        defence=defence.to_json(),
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
        undone=Rate.of(~wrong, _per_draw(works, wrong)),
        accuracy=Rate.of(~wrong),
    )


def _per_draw(inputs: Mask, like: Mask) -> Mask:
    """Repeat (N,) as (N, R)."""
    return np.broadcast_to(inputs[:, None], like.shape)


def _rates(rows: Any) -> tuple[Rate, ...]:
    return tuple(Rate(**row) for row in rows)


def _random_precision(block: Mapping[str, Any]) -> RandomPrecisionReport:
    rates = {name: Rate(**block[name]) for name in ("clean_accuracy", "clean_any_wrong", "success_mean")}
    return RandomPrecisionReport(**{**block, **rates, "sources": tuple(_source(row) for row in block["sources"])})


def _source(row: Mapping[str, Any]) -> SourceUnderDraws:
    rates: dict[str, Any] = {name: Rate(**value) for name, value in row.items() if isinstance(value, Mapping)}
    return SourceUnderDraws(**{**row, **rates})
