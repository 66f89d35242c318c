"""The cells that an ``attack`` step offers to a table: at a bitmap, between two, and under random precision.

===================  =====================================================================================
in the middle        metric
===================  =====================================================================================
``B``                ``clean_accuracy``, ``adversarial_accuracy``, ``attack_success``, ``success_of_all``
                     (skipped texts count too), ``perturbation``, ``queries``; of a language model
                     ``accuracy_before``, ``accuracy_after``, ``accuracy_change``, of its next tokens
``A -> B``           ``transfer``, ``transfer_unconditional``, ``transfer_of_successes``
``A under P``        ``success_mean``, ``success_any``, ``control_mean``, ``control_any``, ``recovered``,
                     ``accuracy``; P is one of the step's probabilities
===================  =====================================================================================

Shares are in percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrate.document.cell import Cell
from orchestrate.document.findings import recorded
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.attack.findings import skipped_in
from orchestrate.runs.layout import ATTACK_RECORD, ROBUSTNESS
from qalof.attacks.result import AttackResult, AttackStatus, summarize
from qalof.files import read_json
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.statistics import bootstrap_mean, wilson

RATES = ("clean_accuracy", "attack_success")
NEXT_TOKENS = ("accuracy_before", "accuracy_after", "accuracy_change")
AT = (*RATES, ADVERSARIAL_ACCURACY, "success_of_all", "perturbation", "queries", *NEXT_TOKENS)
BETWEEN = ("transfer", "transfer_unconditional", "transfer_of_successes")
UNDER = ("success_mean", "success_any", "control_mean", "control_any", "recovered", "accuracy")
ARROW, DRAWN = " -> ", " under "


def offered(config: AttackConfig, of: str) -> tuple[list[str], Sequence[str]]:
    """Say what may stand in the middle of a cell of the same form as ``of``, and the metrics that go with it."""
    bitmaps = [str(spec) for spec in config.bitmaps]
    if ARROW in of:
        return [f"{a}{ARROW}{b}" for a in bitmaps for b in bitmaps], BETWEEN
    if DRAWN in of:
        chances = config.random_precision.probabilities
        return [f"{a}{DRAWN}{p:g}" for a in bitmaps for p in chances], UNDER
    return bitmaps, AT


def attack_cell(place: Place, step: PlannedStep) -> Cell:
    """Read the number at ``place`` in a finished attack."""
    config = step.config
    assert isinstance(config, AttackConfig)
    at = {str(spec): index for index, spec in enumerate(config.bitmaps)}
    robustness = read_json(step.folder / ROBUSTNESS, "robustness report")
    if ARROW in place.of:
        source, target = place.of.split(ARROW)
        return _rate(robustness[place.metric][at[source]][at[target]])
    if DRAWN in place.of:
        source, chance = place.of.split(DRAWN)
        drawn = [f"{p:g}" for p in config.random_precision.probabilities].index(chance)
        return _rate(robustness["random_precision"][drawn]["sources"][at[source]][place.metric])
    index = at[place.of]
    if place.metric in RATES:
        return _rate(robustness[place.metric][index])
    if place.metric == "success_of_all":
        return _rate(robustness["transfer_unconditional"][index][index])
    results = [each for each in _results(step) if each.bitmap == robustness["bitmaps"][index]]
    return _of_results(place.metric, results)


def _of_results(metric: str, results: Sequence[AttackResult]) -> Cell:
    if metric == ADVERSARIAL_ACCURACY:
        held = (AttackStatus.FAILED, AttackStatus.LABEL_CHANGED)
        withstood = sum(each.status in held for each in results)
        rate = wilson(withstood, len(results))
        return Cell(100 * rate.estimate, 100 * rate.low, 100 * rate.high)
    if metric == "queries":
        queries = summarize(results).queries
        return Cell.none("no text was attacked: all were wrong before") if queries is None else Cell.sure(queries)
    if metric == "perturbation":
        won = [each.words_changed / each.words_total for each in results if each.status is AttackStatus.SUCCESS]
        return _mean(won, "no attack succeeded, so nothing was changed")
    measured = [each.measures for each in results if "accuracy_before" in each.measures]
    why = "the victim is no language model: it has no next tokens"
    if metric == "accuracy_change":
        return _mean([each["accuracy_after"] - each["accuracy_before"] for each in measured], why)
    return _mean([each[metric] for each in measured], why)


def _mean(shares: Sequence[float], reason: str) -> Cell:
    if not shares:
        return Cell.none(reason)
    found = bootstrap_mean([100 * share for share in shares])
    return Cell(found.estimate, found.low, found.high)


def _rate(rate: Mapping[str, Any]) -> Cell:
    if rate["estimate"] is None:
        return Cell.none("no text was left to count: none was read rightly, or no attack succeeded")
    return Cell(*(100 * rate[key] for key in ("estimate", "low", "high")))


def _results(step: PlannedStep) -> Iterator[AttackResult]:
    left_out = skipped_in(step.folder)
    found = map(AttackResult.from_json, recorded(step.folder / ATTACK_RECORD))
    yield from (result for result in found if result.example_id not in left_out)
