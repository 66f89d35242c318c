"""What the summary says of an attack: success at fixed and at random precision, and what random precision costs."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.document.blocks import Statement
from orchestrate.document.formats import bitmap_names, by_bitmap, count_of, two_digits
from orchestrate.document.record import Step
from orchestrate.jobs.attack.findings import attacked_of
from orchestrate.jobs.attack.shown import drawn_from, rate
from orchestrate.jobs.attack.wording import CLASSIFIER, Wording, wording
from qalof.attacks.rates import Rate
from qalof.attacks.robustness.report import RandomPrecisionReport, RobustnessResult

LEVEL = 0.05
"""The level of tests."""


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
    for defense in robustness.random_precision:
        found += _defended(robustness, defense, words)
        if words is CLASSIFIER:
            clean = _by_bitmap(robustness.bitmaps, robustness.clean_accuracy)
            found.append(Statement(f"Clean accuracy: {rate(defense.clean_accuracy)} under random precision; {clean}."))
        found += _knowing(defense)
    if any(changed.hits for changed in robustness.label_changed):
        changed = _by_bitmap(robustness.bitmaps, robustness.label_changed)
        text = f"The answer and the true label of the text both changed, which is no success: {changed}"
        found.append(Statement(f"{text} of the attacked {words.noun}s.", caution=True))
    return [*found, Statement(words.caution, caution=True)]


def _knowing(defense: RandomPrecisionReport) -> list[Statement]:
    """Say how an attacker fares who knows that the precision is drawn."""
    attackers = {each.attacker: each for each in defense.attackers}
    if not attackers:
        return []
    plain, own, retry = (attackers[name] for name in ("non_adaptive", "adaptive", "retrying"))
    text = (
        f"An attacker who knows the defense and attacks the mean over its precisions succeeds at {rate(own.success)} "
        f"of draws, where one who does not succeeds at {rate(plain.success)}; trying again until a draw misreads, at "
        f"{rate(retry.success)} of texts (unattacked texts: {rate(retry.control)})."
    )
    compared = [each for each in defense.comparisons if (each.first, each.second) == ("adaptive", "non_adaptive")]
    shown = [
        f" The difference between the two is {'shown' if each.adjusted_p < LEVEL else 'not shown'} on these texts "
        f"(p = {two_digits(each.adjusted_p)}, corrected for {len(defense.comparisons)} comparisons)."
        for each in compared
    ]
    return [Statement(text + "".join(shown))]


def _defended(robustness: RobustnessResult, defense: RandomPrecisionReport, phrases: Wording) -> list[Statement]:
    names, sources = robustness.bitmaps, defense.sources
    random = _by_bitmap(names, [source.success_mean for source in sources], "built at")
    text = f"Under random precision ({drawn_from(defense)}), the same attacks succeed in the mean draw"
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
