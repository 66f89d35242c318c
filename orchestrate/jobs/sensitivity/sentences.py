"""The sentences of a report on sensitivities."""

from __future__ import annotations

import math

from orchestrate.document import formats
from orchestrate.document.blocks import Statement
from orchestrate.document.formats import count_of, in_prose, listed, name_of
from orchestrate.document.record import Record, Step
from orchestrate.jobs.sensitivity.findings import Ranked, ranked_of
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors, error_statements
from orchestrate.jobs.sensitivity.table_view import TableScores, table_statements
from orchestrate.jobs.shared.compare import is_shown
from qalof.metrics import described, is_percent

MOST_LOSSES = 3


def ranking_statements(record: Record, step: Step) -> list[Statement]:
    """State the largest losses, and for how many units none is shown."""
    if isinstance(step.findings, OutputErrors):
        return error_statements(step.findings)
    if isinstance(step.findings, TableScores):
        return table_statements(step.findings)
    ranked = ranked_of(step)
    if ranked is None:
        return []
    name, unit = name_of(ranked.metric), "points of " if is_percent(ranked.metric) else ""
    falls = described(ranked.metric).direction != "min"
    reference = f"uniform {ranked.bits} bits ({name} {in_prose(ranked.reference, ranked.metric)})"
    drops = [one for one in ranked.drops if math.isfinite(one.drop.estimate)]
    losses = sorted((d for d in drops if d.drop.low > 0), key=lambda drop: -drop.drop.estimate)
    if losses:
        worst = [f"{d.unit} (to {d.bits} bits: {formats.difference(d.drop)})" for d in losses[:MOST_LOSSES]]
        most = f"loses the most {unit}{name}" if falls else f"raises {name} the most"
        text = f"Reducing one unit alone from {reference} {most} at {listed(worst)}."
    else:
        none = f"loses no {name} that is shown" if falls else f"does not raise {name} in any way that is shown"
        text = f"From {reference}, reducing one unit alone {none}."
    return [Statement(text), *_unshown(ranked, len(drops), sum(is_shown(one.drop) for one in drops))]


def _unshown(ranked: Ranked, finite: int, shown: int) -> list[Statement]:
    """Say how many changes show nothing, and how much the few that do are worth."""
    found = []
    silent = finite - shown
    if silent:
        same = sum(one.drop.estimate == one.drop.low == one.drop.high == 0 for one in ranked.drops)
        alike = f" ({same} of them change no example's score)" if same else ""
        text = f"For {silent} of {count_of(len(ranked.drops), 'change')} the interval holds zero{alike}"
        found.append(Statement(f"{text}: neither loss nor gain is shown."))
    if finite < len(ranked.drops):
        found.append(Statement(f"{count_of(len(ranked.drops) - finite, 'change')} had no finite score.", caution=True))
    if 0 < shown <= 0.1 * finite:
        text = f"With {finite} intervals at 95 %, {shown} that exclude{'s' if shown == 1 else ''} zero may be chance."
        found.append(Statement(text, caution=True))
    return found
