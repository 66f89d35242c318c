"""The summary: what was found, in plain sentences made from the numbers.

Two things are called different only if a paired interval of their difference excludes zero, or, for rates whose pairs
were not kept, if their intervals do not meet.  Otherwise the sentence says that no difference is shown; it never
says that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from orchestrate.report import formats
from orchestrate.report.attack_sentences import attack_statements
from orchestrate.report.blocks import Statement, Topic
from orchestrate.report.compare import Comparison, between_bitmaps, between_models, comparable_models, is_shown
from orchestrate.report.findings import Ranked
from orchestrate.report.formats import bitmap_name, count_of, in_prose, listed, name_of
from orchestrate.report.output_errors import OutputErrors, error_statements
from orchestrate.report.read import Record, State, Step
from orchestrate.report.search_sentences import search_statements
from orchestrate.report.sections import anchor_of
from orchestrate.report.tool_sentences import tool_statements
from orchestrate.report.wording import apart, cheapest
from qalof.metrics import described, is_percent

MOST_LOSSES = 3


def summary(record: Record) -> list[Topic]:
    """What the page says first: some sentences a step."""
    steps = enumerate(record.steps, start=1)
    return [Topic(step.name, anchor_of(number), statements(record, step)) for number, step in steps]


def statements(record: Record, step: Step) -> list[Statement]:
    """What one step found."""
    if step.state is not State.FINISHED:
        return [Statement(f"{str(step.state).capitalize()}: there is no result to report.", caution=True)]
    speak = _SENTENCES.get(step.command)
    if speak is None:
        return [Statement(f"{step.command} finished in {formats.duration(step.seconds)}.")]
    return speak(record, step)


def score_statements(record: Record, step: Step) -> list[Statement]:
    """Levels at each bitmap, bitmaps against the widest, how many bits are enough, and earlier models."""
    scored = step.scored
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
    """Several comparisons with one thing: those that are shown first, then those that are not."""
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


def ranking_statements(record: Record, step: Step) -> list[Statement]:
    """The largest losses, and for how many units none is shown."""
    if isinstance(step.findings, OutputErrors):
        return error_statements(step.findings)
    ranked = step.ranked
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
        text = f"Lowering one unit alone from {reference} {most} at {listed(worst)}."
    else:
        none = f"loses no {name} that is shown" if falls else f"does not raise {name} in any way that is shown"
        text = f"From {reference}, lowering one unit alone {none}."
    return [Statement(text), *_unshown(ranked, len(drops), sum(is_shown(one.drop) for one in drops))]


def _unshown(ranked: Ranked, finite: int, shown: int) -> list[Statement]:
    """How many changes show nothing, and how much the few that do are worth."""
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


_SENTENCES: Mapping[str, Callable[[Record, Step], list[Statement]]] = {
    "train": score_statements,
    "evaluate": score_statements,
    "sensitivity": ranking_statements,
    "search": search_statements,
    "attack": lambda _, step: attack_statements(step),
    **dict.fromkeys(
        ("sweep", "range-test", "baselines", "footprint", "generate-data"), lambda _, step: tool_statements(step)
    ),
}
