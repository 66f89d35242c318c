"""The input and result of every attack, and the figures that summarize results (docs/methods/attacks.md).

An attack turns one labeled text into a :class:`AttackResult`.  It owns no loop over examples: :func:`attack_examples`
is that loop, in one process, and a pool of workers calls it with shards.  Each result is a function of (settings,
example, bitmap), so neither the assignment of shards to workers nor their order matters. Three habits of public attack
code are avoided: dividing by a fixed number of examples; counting inputs that were wrong before the attack (with no
changes and one query) in the means of perturbation and queries; and calling a text's mean length its perturbation.
Here the perturbation is a mean over successes and the queries a mean over attacked inputs.

TextAttack has recipes for two of the methods, TextFooler and BERT-Attack, and none for GBDA and ARCA.  All are written
here for three reasons.  An attack is a function of its arguments alone, so a pool shares the examples out, does lost
ones again and goes on after a kill.  One loaded model is attacked at many bitmaps, random ones among them, which a
wrapper around a model does not know.  And the word vectors and encoders that a recipe fetches from the net are parts
here that the user names, so an attack runs without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from qalof.attacks.goal import GoalFunction
from qalof.attacks.victim import Precisions
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.statistics import Interval, wilson
from qalof.tasks.base import Task


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


class Work(NamedTuple):
    """The number of sequences that pass through a model forward and backward, and forward only."""

    trained: int
    forward: int


class Attack(Protocol):
    """One method of attack, bound to a victim."""

    name: str

    def run(self, example: AttackExample) -> AttackResult:
        """Attack one text at the bitmap that the victim is set to."""
        ...


class AttackSettings(Protocol):
    """The parameters of a method, and how it is built from them; a frozen dataclass."""

    uses_lm: ClassVar[bool]
    """Whether it needs a language model in addition to the victim."""

    @property
    def max_length(self) -> int:
        """The length of the longest text in tokens; a longer one keeps its beginning."""
        ...

    def examples(self, task: Task) -> list[AttackExample]:
        """Return the examples to attack with a checkpoint of ``task``.

        Raises:
            BadInputError: The method does not apply to the task, or its data cannot be read.
        """
        ...

    def misfit(self, example: AttackExample, model: Any, tokenizer: Any) -> str | None:
        """Say in one line why an example cannot be attacked on this model; None where it can."""
        ...

    def work(self, tokens: int) -> Work:
        """Return the most work for one example of ``tokens`` tokens."""
        ...

    def build(self, model: Any, tokenizer: Any, lm: Any, seed: int = 0, precisions: Precisions | None = None) -> Attack:
        """Build the attack on ``model``, with its tokenizer and a language model ``lm`` that shares it.

        ``seed`` seeds all randomness, together with the example and perhaps the bitmap.  With ``precisions`` the attack
        maximizes the mean over them (:mod:`qalof.attacks.robustness.adaptive`); they are left out for a fixed bitmap.

        Raises:
            BadInputError: The method cannot attack a model with this head or vocabulary, or takes no mean.
        """
        ...

    def judge(self, model: Any, tokenizer: Any) -> GoalFunction:
        """Return the judge of whether a text that was found works, at its bitmap and at others."""
        ...


def attack_examples(
    model: Any,
    lm: Any,
    tokenizer: Any,
    examples: Sequence[AttackExample],
    bitmap: Bitmap | str | int | Precisions,
    settings: AttackSettings,
    on_result: Callable[[AttackResult], None] | None = None,
    seed: int = 0,
) -> list[AttackResult]:
    """Attack every example at ``bitmap``, in this process; the model returns to its bitmap.

    Args:
        model: a :class:`~qalof.model.switchable.SwitchableModel` with a head that the method can attack.
        lm: a causal LM, switchable or plain, with the same tokenizer.
        tokenizer: the tokenizer of both.
        examples: the examples to attack; any shard of the whole.
        bitmap: the bitmap at which the model is attacked, or the precisions over which the attacker takes the mean.
        settings: the settings of the method.
        on_result: a function that is called with each result as soon as it exists.
        seed: the seed of all draws, together with the example and perhaps the bitmap.

    Raises:
        BadInputError: The bitmap is illegal, or the language model has another vocabulary.
    """
    if isinstance(bitmap, Bitmap | str | int):
        at, attack = bitmap, settings.build(model, tokenizer, lm, seed)
    else:
        at, attack = None, settings.build(model, tokenizer, lm, seed, bitmap)
    results = []
    for example in examples:
        results.append(attack_at(at, model, attack, example))
        if on_result:
            on_result(results[-1])
    return results


def attack_at(bitmap: Bitmap | str | int | None, model: Any, attack: Attack, example: AttackExample) -> AttackResult:
    """Attack one example with ``model``, which ``attack`` was built on, at ``bitmap``; the model then returns to its
    own.  None is for an attack that takes the mean over precisions, which it sets itself.

    Raises:
        BadInputError: The bitmap is illegal, or the attack cannot be run on the example.
    """
    with model.at(bitmap):
        return attack.run(example)


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
