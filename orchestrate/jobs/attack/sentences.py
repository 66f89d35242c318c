"""What the summary says of an attack: success at fixed and at random precision, and what random precision costs."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.document.blocks import Statement
from orchestrate.document.formats import bitmap_names, by_bitmap, count_of
from orchestrate.document.record import Step
from orchestrate.jobs.attack.findings import attacked_of
from orchestrate.jobs.attack.view import drawn_from, rate
from orchestrate.jobs.attack.wording import CLASSIFIER, Wording, wording
from qalof.attacks.rates import Rate
from qalof.attacks.robustness.report import RandomPrecisionReport, RobustnessResult


def attack_statements(step: Step) -> list[Statement]:
    """Describe fixed precision first, then random precision, where it was measured."""
    attacked = attacked_of(step)
    if attacked is None:
        return []
    robustness = attacked.robustness
    fixed = _by_bitmap(robustness.bitmaps, robustness.attack_success)
    words = wording(attacked)
    whose = words.whose.format(texts=count_of(robustness.examples, words.noun))
    text = f"{whose}, attacks succeed at the precision they were built at"
    found = [Statement(f"{text}: {fixed}.")]
    for defence in robustness.random_precision:
        found += _defended(robustness, defence, words)
        if words is CLASSIFIER:
            clean = _by_bitmap(robustness.bitmaps, robustness.clean_accuracy)
            found.append(Statement(f"Clean accuracy: {rate(defence.clean_accuracy)} under random precision; {clean}."))
    return [*found, Statement(words.caution, caution=True)]


def _defended(robustness: RobustnessResult, defence: RandomPrecisionReport, phrases: Wording) -> list[Statement]:
    names, sources = robustness.bitmaps, defence.sources
    random = _by_bitmap(names, [source.success_mean for source in sources], "built at")
    text = f"Under random precision ({drawn_from(defence)}), the same attacks succeed in the mean draw"
    found = [Statement(f"{text}: {random}.")]
    words = [
        beyond(source.success_mean, fixed) for source, fixed in zip(sources, robustness.attack_success, strict=True)
    ]
    for word in ("lower", "higher"):
        if chosen := _chosen(names, [one == word for one in words]):
            text = f"That is {word} than at fixed precision for {chosen}: the intervals do not meet."
            found.append(Statement(text))
    if chosen := _chosen(names, [not word for word in words]):
        found.append(Statement(f"No difference from fixed precision is shown for {chosen}: the intervals meet."))
    weak = [beyond(source.success_mean, source.control_mean) != "higher" for source in sources]
    if chosen := _chosen(names, weak):
        text = (
            f"Built at {chosen}, attacked {phrases.noun}s are not shown to be {phrases.broken} under random precision "
            f"more often than {phrases.unattacked}."
        )
        found.append(Statement(text, caution=True))
    return found


def beyond(value: Rate, other: Rate) -> str:
    """Return ``higher`` or ``lower`` where two intervals do not meet, and otherwise an empty string."""
    if value.estimate is None or other.estimate is None:
        return ""
    return "higher" if value.low > other.high else "lower" if value.high < other.low else ""


def _by_bitmap(bitmaps: Sequence[str], rates: Sequence[Rate], word: str = "at") -> str:
    return by_bitmap(bitmaps, [rate(value) for value in rates], word)


def _chosen(bitmaps: Sequence[str], which: Sequence[bool]) -> str:
    names = [name for name, wanted in zip(bitmaps, which, strict=True) if wanted]
    return bitmap_names(names) if names else ""
