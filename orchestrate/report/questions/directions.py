"""The last question: directions that follow from the data of these runs, each from a number that is shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Statement
from orchestrate.jobs.attack.findings import attacked_of
from orchestrate.jobs.attack.sentences import beyond
from orchestrate.jobs.search.findings import searched_of
from orchestrate.jobs.search.view import is_uniform
from orchestrate.jobs.sensitivity.findings import ranked_of
from orchestrate.jobs.shared.compare import between_bitmaps
from orchestrate.jobs.shared.findings import scored_of
from orchestrate.report.questions.measured import Found, Measured, not_run
from qalof.metrics import metric_of

STEP = "All steps"
ASKED = "Which research directions follow from the data?"


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Name a direction for each result that points to one."""
    said = [Statement(text) for one in found for rule in RULES if (text := rule(one))]
    if not said:
        text = (
            "Nothing follows yet: these runs hold no ranking, search, attack or set of scores that shows a difference."
        )
        return not_run(text, "qalof demo")
    return True, said, []


def _sites(one: Measured) -> str:
    ranked = ranked_of(one.step)
    if ranked is None:
        return ""
    shown = sum(drop.drop.low > 0 for drop in ranked.drops)
    count = len(ranked.drops)
    if shown == 0:
        return (
            f"{one.step.name}: none of {count} reductions is shown to lose anything by itself, so losses add up across "
            "layers: scores from gradients, or errors of pairs of layers, may rank what single reductions cannot."
        )
    return (
        f"{one.step.name}: {shown} of {count} reductions are shown to lose something; spending bits there alone is the "
        "next thing to try, and asking whether training can make these layers tolerant."
    )


def _mixing(one: Measured) -> str:
    searched = searched_of(one.step)
    if searched is None:
        return ""
    front = searched.result.front_points
    mixed = sum(not is_uniform(point.bitmap) for point in front)
    if not mixed:
        return (
            f"{one.step.name}: the front holds uniform bitmaps alone. Finer choices than a width per layer, such as "
            "groups or widths per head, are where a gain may still be."
        )
    return (
        f"{one.step.name}: {mixed} of {len(front)} bitmaps on the front mix widths. Whether training for exactly "
        "these bitmaps gains more than the search alone is the next question (configs/pipeline/compress.yaml does it)."
    )


def _narrow(one: Measured) -> str:
    scored = scored_of(one.step)
    if scored is None:
        return ""
    sign = metric_of(scored.metric).sign
    lost = [c for c in between_bitmaps(scored, scored.metric) if c.shown and c.difference.estimate * sign < 0]
    if not lost:
        return ""
    names = formats.bitmap_names([each.bitmap for each in lost])
    return (
        f"{one.step.name}: {formats.name_of(scored.metric)} is shown to suffer at {names}. Objectives that pull narrow "
        "widths towards wide ones, and smaller groups, aim at just these widths."
    )


def _retries(one: Measured) -> str:
    attacked = attacked_of(one.step)
    for defense in attacked.robustness.random_precision if attacked else ():
        if any(beyond(source.success_any, source.control_any) == "higher" for source in defense.sources):
            return (
                f"{one.step.name}: an attacker who may retry gets through random precision. Draws that are fixed per "
                "user or per text, or a limit on retries, would have to be part of the defense."
            )
    return ""


RULES: Sequence[Callable[[Measured], str]] = (_sites, _mixing, _narrow, _retries)
"""Each reads one step, and returns a direction or nothing."""
