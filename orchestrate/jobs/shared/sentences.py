"""The sentences of a report on scores at bitmaps."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Statement
from orchestrate.document.formats import bitmap_name, count_of, in_prose, listed, name_of
from orchestrate.document.record import Record, Step
from orchestrate.jobs.shared.compare import Comparison, between_bitmaps, between_models, comparable_models
from orchestrate.jobs.shared.findings import scored_of
from orchestrate.jobs.shared.wording import apart, cheapest


def score_statements(record: Record, step: Step) -> list[Statement]:
    """Compare each bitmap with the widest and with earlier models, and say how many bits are enough."""
    scored = scored_of(step)
    if scored is None:
        return []
    metric = scored.metric
    bitmaps = [str(point.bitmap) for point in scored.points]
    levels = formats.by_bitmap(bitmaps, [in_prose(point.metrics[metric], metric) for point in scored.points])
    name, count = name_of(metric), count_of(scored.points[0].examples, "example")
    found = [Statement(f"{formats.capital(name)} on {count}: {levels}.")]
    comparisons = between_bitmaps(scored, metric)
    if comparisons:
        top = bitmap_name(comparisons[0].before)
        found.append(_compared(comparisons, "", f"at {top}", f"from {top} is shown at"))
    found += cheapest(scored.points, scored.evaluations, metric)[0]
    for other in comparable_models(record, step):
        comparisons = between_models(step, other)
        if comparisons:
            against = f"that of {other.name}"
            found.append(_compared(comparisons, f" of {step.name}", against, f"from {other.name} is shown at"))
    return found


def _compared(comparisons: Sequence[Comparison], whose: str, against: str, unshown: str) -> Statement:
    """Word several comparisons with one thing: those that are shown come first, then those that are not."""
    metric = comparisons[0].metric
    shown = [f"{apart(one.difference, metric)} at {bitmap_name(one.bitmap)}" for one in comparisons if one.shown]
    groups: dict[str, list[str]] = {}
    for one in comparisons:
        if not one.shown:
            groups.setdefault(formats.difference(one.difference), []).append(one.bitmap)
    others = [f"{formats.bitmap_names(names)} ({text})" for text, names in groups.items()]
    parts = [f"{name_of(metric)}{whose} is {listed(shown)} than {against}"] if shown else []
    parts += [f"no difference {unshown} {listed(others)}"] if others else []
    return Statement(f"Paired over the same examples, {'; '.join(parts)}.")
