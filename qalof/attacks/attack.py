"""One method of attack, its settings, and the loop over examples.

An attack turns one labeled text into an :class:`~qalof.attacks.result.AttackResult`.  It owns no loop over examples:
:func:`attack_examples` is that loop, in one process, and a pool of workers calls it with shards.  Each result is a
function of (settings, example, bitmap), so neither the assignment of shards to workers nor their order matters.

TextAttack has recipes for two of the methods, TextFooler and BERT-Attack, and none for GBDA and ARCA.  All are written
here for three reasons.  An attack is a function of its arguments alone, so a pool shares the examples out, does lost
ones again and goes on after a kill.  One loaded model is attacked at many bitmaps, random ones among them, which a
wrapper around a model does not know.  And the word vectors and encoders that a recipe fetches from the net are parts
here that the user names, so an attack runs without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from qalof.attacks.goal import GoalFunction
from qalof.attacks.result import AttackExample, AttackResult
from qalof.attacks.victim import Precisions
from qalof.bitmap import Bitmap
from qalof.tasks.base import Task


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
    at, attack = built_at(bitmap, model, lm, tokenizer, settings, seed)
    results = []
    for example in examples:
        results.append(attack_at(at, model, attack, example))
        if on_result:
            on_result(results[-1])
    return results


def built_at(
    bitmap: Bitmap | str | int | Precisions, model: Any, lm: Any, tokenizer: Any, settings: AttackSettings, seed: int
) -> tuple[Bitmap | str | int | None, Attack]:
    """Return the bitmap for :func:`attack_at`, and the attack; the bitmap is None where a mean is attacked.

    Raises:
        BadInputError: The method cannot attack the model, or takes no mean.
    """
    if isinstance(bitmap, Bitmap | str | int):
        return bitmap, settings.build(model, tokenizer, lm, seed)
    return None, settings.build(model, tokenizer, lm, seed, bitmap)


def attack_at(bitmap: Bitmap | str | int | None, model: Any, attack: Attack, example: AttackExample) -> AttackResult:
    """Attack one example with ``model``, which ``attack`` was built on, at ``bitmap``; the model then returns to its
    own.  None is for an attack that takes the mean over precisions, which it sets itself.

    Raises:
        BadInputError: The bitmap is illegal, or the attack cannot be run on the example.
    """
    with model.at(bitmap):
        return attack.run(example)
