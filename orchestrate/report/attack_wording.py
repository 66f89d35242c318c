"""What an attack's victim does, in words: a classifier misreads a text, a language model finds it less likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrate.report.findings import Attacked
from qalof.attacks.attack import AttackResult


@dataclass(frozen=True)
class Wording:
    """``broken``: what became of a text; ``before``: which texts an attack's success is counted over.

    ``control``: what the clean texts say; ``caution``: what success does not say.
    """

    broken: str
    before: str
    control: str
    caution: str


CLASSIFIER = Wording(
    broken="misread",
    before="that were read rightly before",
    control="The control is how often the same draws misread the same texts unattacked: only what exceeds it is the "
    "attack's doing.",
    caution="Success is a changed prediction; whether a text still means what it did is not measured.",
)
LANGUAGE_MODEL = Wording(
    broken="broken",
    before="that were attacked",
    control="Each draw judges a text against its clean form at the same precision, so that the control is 0.",
    caution="Success is a rise of the mean NLL of the words that were not swapped; whether a text still means what it "
    "did is not measured.",
)


def of_language_model(attacked: Attacked) -> bool:
    """Whether the victim was a language model: its results have a likelihood before and after."""
    return any("nll_before" in result.measures for results in attacked.results.values() for result in results)


def wording(attacked: Attacked) -> Wording:
    """Of the attack's victim."""
    return LANGUAGE_MODEL if of_language_model(attacked) else CLASSIFIER


def mean_measure(results: Sequence[AttackResult], name: str) -> float | None:
    """Mean of a measure over the texts that have it."""
    values = [result.measures[name] for result in results if name in result.measures]
    return sum(values) / len(values) if values else None


def substitutes_told(attacked: Attacked) -> str:
    """What stood in for the method's models and word lists, as a sentence; empty where nothing did."""
    named = next((r.substitutes for results in attacked.results.values() for r in results if r.substitutes), {})
    return (
        f" In place of the method's own: {'; '.join(f'{role}: {name}' for role, name in named.items())}."
        if named
        else ""
    )
