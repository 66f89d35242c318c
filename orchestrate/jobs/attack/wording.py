"""What happens to an attack's victim, in words.

A classifier misreads a text; a language model finds it less likely, or says what a prompt was searched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrate.jobs.attack.findings import Attacked
from qalof.attacks.result import AttackResult


@dataclass(frozen=True)
class Wording:
    """The pieces of sentences on one kind of victim."""

    noun: str
    """What is attacked."""
    broken: str
    """What becomes of it when an attack succeeds."""
    whose: str
    """The beginning of a sentence that says over which texts success is counted."""
    unattacked: str
    """The control."""
    columns: tuple[str, str]
    """The headings of the columns before and after the attack."""
    note: str
    """What a reader must know of these columns."""
    transfer: str
    """Which texts transfer counts."""
    control: str
    """A sentence that says what the control is."""
    caution: str
    """A sentence that says what success does not show."""
    next_tokens: bool = False
    """Whether the columns are of next tokens."""
    rewords: bool = True
    """Whether a number of changed words means anything."""


CLASSIFIER = Wording(
    noun="text",
    broken="misread",
    whose="Of those of {texts} that were read rightly",
    unattacked="the same texts unattacked",
    columns=("Clean accuracy", "Misread after attack"),
    note="Attack success counts texts that were read rightly before; “misread after attack” counts all.",
    transfer="whose clean form is read rightly at both",
    control="The control is how often the same draws misread the same texts unattacked: only what exceeds it is the "
    "attack's doing.",
    caution="Success is a changed prediction; whether a text still means what it did is judged by similarity alone, or "
    "by the generator's rule where the texts are the shipped reviews.",
)
LANGUAGE_MODEL = Wording(
    noun="text",
    broken="broken",
    whose="Of {texts}",
    unattacked="the same texts unattacked",
    columns=("Next tokens right", "After attack"),
    note="Next tokens right: of the words that the attack left alone, before and after it.",
    transfer="attacked",
    control="Each draw judges a text against its clean form at the same precision, so the control is 0.",
    caution="Success is a rise of the mean NLL of the words that were not swapped; whether a text still means what it "
    "did is judged by similarity alone.",
    next_tokens=True,
)
PROMPTS = Wording(
    noun="prompt",
    broken="followed by their output",
    whose="Of {texts}",
    unattacked="the random prompts that the searches began with",
    columns=("Random prompt held", "Success of all"),
    note="Random prompt held: how often the prompt that a search begins with does not elicit the output; attack "
    "success counts these.",
    transfer="whose random beginning elicits the output at neither, failed searches among them",
    control="The control is how often the random prompts, which the searches began with, elicit their outputs.",
    caution="Success is that the output is the prompt's greedy continuation; sampled continuations may differ.",
    rewords=False,
)


def wording(attacked: Attacked) -> Wording:
    """Choose the words for the victim: prompts have a target, texts of a language model a likelihood before and
    after.
    """
    results = [result for results in attacked.results.values() for result in results]
    if any(result.target for result in results):
        return PROMPTS
    return LANGUAGE_MODEL if any("nll_before" in result.measures for result in results) else CLASSIFIER


def mean_measure(results: Sequence[AttackResult], name: str) -> float | None:
    """Return the mean of a measure over the texts that have it."""
    values = [result.measures[name] for result in results if name in result.measures]
    return sum(values) / len(values) if values else None


def substitutes_named(attacked: Attacked) -> str:
    """Say in a sentence what stood in for the method's models and word lists; it is empty where nothing did."""
    named = next((r.substitutes for results in attacked.results.values() for r in results if r.substitutes), {})
    return (
        f" In place of the method's own: {'; '.join(f'{role}: {name}' for role, name in named.items())}."
        if named
        else ""
    )
