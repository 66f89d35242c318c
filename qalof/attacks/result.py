"""The example and the result of every attack, and the figures that summarize results (docs/methods/attacks.md).

Three habits of public attack code are avoided: dividing by a fixed number of examples; counting inputs that were wrong
before the attack (with no changes and one query) in the means of perturbation and queries; and calling a text's mean
length its perturbation.  Here the perturbation is a mean over successes and the queries a mean over attacked inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

from qalof.errors import BadInputError
from qalof.statistics import Interval, wilson


class AttackStatus(StrEnum):
    """The end of an attack.

    ``skipped``: the model was wrong before it began; ``label_changed``: the model's answer changed, and so did the true
    label of the text, so nobody was fooled.
    """

    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    LABEL_CHANGED = "label_changed"


SIMILARITY, TRUE_LABEL_CHANGED = "similarity", "true_label_changed"
"""The measures by which :mod:`qalof.attacks.meaning` says whether a text still means what it did."""


class AttackExample(NamedTuple):
    """An example to attack; ``id`` is its index in the split, which seeds all randomness.

    ``text``: with its true ``label``, 0 for a language model and for question answering, whose text is the context;
    ``target``: the output that a prompt is to elicit.
    """

    id: int
    text: str
    label: int
    target: str = ""

    @property
    def example_id(self) -> int:
        """The same as ``id``, by the name that results have."""
        return self.id


@dataclass(frozen=True)
class AttackResult:
    """One attacked example.

    ``original_text``: as the victim reads it (cut to its length); ``adversarial_text``: what was found, for a failed
    attack the nearest miss, for a skipped one the original; ``bitmap``: where it was attacked; ``queries``: texts the
    victim classified, soft ones included; ``samples``/``wrong_samples``: final candidates tried, and those
    misclassified; ``losses``: the objective by step; ``seed``: of the run, not of the example; ``target``: what a
    prompt was to elicit; ``measures``: further figures of the method, by name; ``substitutes``: what stood in for the
    models and word lists of the method's paper, by role.
    """

    example_id: int
    attack: str
    bitmap: str
    status: AttackStatus
    label: int
    original_text: str
    adversarial_text: str
    words_changed: int
    words_total: int
    queries: int
    samples: int
    wrong_samples: int
    losses: tuple[float, ...]
    seed: int
    target: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)
    substitutes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, example: AttackExample, attack: str, bitmap: str, status: AttackStatus, original: str, found: str, *,
        queries: int, seed: int, **others: Any,
    ) -> Self:  # fmt: skip
        """Return the result of ``attack`` on ``example``, with its words counted; ``others`` are further fields.

        Args:
            example: what was attacked; its label and target are the result's.
            attack: the name of the method.
            bitmap: where it was attacked, as printed.
            status: how it ended.
            original: the text as the victim reads it.
            found: what was found, or ``original``.
            queries: how many texts the victim has read.
            seed: the seed of the run.
        """
        counted = {"words_changed": words_changed(original, found), "words_total": max(1, len(original.split()))}
        zeros: dict[str, Any] = {"samples": 0, "wrong_samples": 0, "losses": ()}
        return cls(
            example_id=example.id, attack=attack, bitmap=bitmap, status=status, label=example.label,
            original_text=original, adversarial_text=found, queries=queries, seed=seed, target=example.target,
            **{**zeros, **counted, **others},
        )  # fmt: skip

    @property
    def valid_text(self) -> str:
        """The text that was found; the original where the true label of what was found is another one."""
        return self.original_text if self.measures.get(TRUE_LABEL_CHANGED) else self.adversarial_text

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; :meth:`from_json` reads it back."""
        return asdict(self) | {"status": str(self.status), "losses": list(self.losses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: A field is missing or unknown, or the status does not exist.
        """
        try:
            return cls(**{**data, "status": AttackStatus(data["status"]), "losses": tuple(data["losses"])})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"an attack result must have AttackResult's fields: {error}; attack again") from None


@dataclass(frozen=True)
class AttackSummary:
    """The figures of docs/methods/attacks.md; rates are in [0, 1], each with its Wilson interval.

    ``success_rate``: of the attacked (not skipped) inputs; ``label_changed``: of them too, those whose answer and true
    label both changed, which are no success; ``perturbation``: share of words changed, mean over
    successes; ``queries``: mean over attacked inputs.  A mean without values is None.
    """

    examples: int
    original_accuracy: Interval
    after_attack_accuracy: Interval
    success_rate: Interval
    label_changed: Interval
    perturbation: float | None
    queries: float | None


def summarize(results: Sequence[AttackResult]) -> AttackSummary:
    """Return the figures of one attack at one bitmap."""
    attacked = [result for result in results if result.status is not AttackStatus.SKIPPED]
    successes = [result for result in attacked if result.status is AttackStatus.SUCCESS]
    return AttackSummary(
        examples=len(results),
        original_accuracy=wilson(len(attacked), len(results)),
        after_attack_accuracy=wilson(len(attacked) - len(successes), len(results)),
        success_rate=wilson(len(successes), len(attacked)),
        label_changed=wilson(sum(r.status is AttackStatus.LABEL_CHANGED for r in attacked), len(attacked)),
        perturbation=_mean([result.words_changed / result.words_total for result in successes]),
        queries=_mean([result.queries for result in attacked]),
    )


def words_changed(original: str, changed: str) -> int:
    """Count the words (by white space) that differ: position by position for equal counts, otherwise by edit distance.

    Substitution attacks keep the count, where both numbers agree except for shifts; a re-tokenized sample may split a
    word.
    """
    before, after = original.split(), changed.split()
    if len(before) == len(after):
        return sum(a != b for a, b in zip(before, after, strict=True))
    row = list(range(len(after) + 1))
    for i, a in enumerate(before, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(after, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
