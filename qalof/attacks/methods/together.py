"""Attacks on words, on several texts at a time: what they ask at the same moment is read in one forward pass.

An attack by queries is a chain of questions, each of which depends on the answer to the one before, so one text alone
keeps a batch small.  Here every text has a thread of its own.  A thread that asks waits; once all that are left wait,
the thread that called answers their questions together, and all go on.  The rounds, and so the batches, depend on the
texts and ``at_once`` alone.  Nothing but the waiting differs from :func:`~qalof.attacks.attack.attack_examples`.

What the changes of a text share at their beginning is computed once (:mod:`qalof.attacks.changes`), and rows of
similar length are padded on the right and masked, where a single text is read whole and without any padding.  Under a
causal mask and scales per token neither changes what a position sees, but sums of another shape round differently in
their last bits, so a text whose margin is next to nothing may come out otherwise than alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

import torch

from qalof.attacks.attack import AttackSettings, built_at
from qalof.attacks.changes import ChangeReader
from qalof.attacks.methods.substitution import WordAttack
from qalof.attacks.result import AttackExample, AttackResult
from qalof.attacks.victim import Precisions
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind

AT_ONCE = 32

Serve = Callable[[Sequence[Any]], Sequence[Any]]
"""What answers questions of one kind together."""


@dataclass(eq=False)
class _Question:
    asker: int
    kind: Hashable
    serve: Serve
    content: Any
    answer: Any = None
    error: BaseException | None = None
    answered: bool = False


@dataclass
class Rendezvous:
    """Where threads wait for each other's questions; ``left`` threads take part.

    One thread runs at a time, within :meth:`turn`, and the next begins when it waits: tokenizers and models of
    transformers keep state while they work, which a second thread would overwrite.  All questions are answered by the
    thread in :meth:`serve`, since memory that several threads had in turn would be kept for each of them.
    """

    left: int
    _waiting: list[_Question] = field(default_factory=list)
    _changed: Condition = field(default_factory=Condition)

    def ask(self, asker: int, kind: Hashable, serve: Serve, content: Any) -> Any:
        """Wait for the answer to ``content``; all questions of one ``kind`` in a round are answered at once."""
        question = _Question(asker, kind, serve, content)
        with self._changed:
            self._waiting.append(question)
            self._changed.notify_all()
            while not question.answered:
                self._changed.wait()
        if question.error is not None:
            raise question.error
        return question.answer

    def turn(self) -> Condition:
        """Return the context within which a thread does everything that it does."""
        return self._changed

    def leave(self) -> None:
        """Take no part any more."""
        with self._changed:
            self.left -= 1
            self._changed.notify_all()

    def serve(self) -> None:
        """Answer every round of questions, until all threads have left."""
        with self._changed:
            while self.left:
                if len(self._waiting) < self.left:
                    self._changed.wait()
                    continue
                self._answer()
                self._changed.notify_all()

    def _answer(self) -> None:
        asked, self._waiting = sorted(self._waiting, key=lambda each: each.asker), []
        for kind in dict.fromkeys(question.kind for question in asked):
            alike = [question for question in asked if question.kind == kind]
            try:
                with torch.no_grad():
                    answers = alike[0].serve([question.content for question in alike])
                for question, answer in zip(alike, answers, strict=True):
                    question.answer = answer
            except Exception as error:  # every thread that asked gets it, and the attack of each ends with it
                for question in alike:
                    question.error = error
        for question in asked:
            question.answered = True


def attack_together(
    model: Any,
    lm: Any,
    tokenizer: Any,
    examples: Sequence[AttackExample],
    bitmap: Bitmap | str | int | Precisions,
    settings: AttackSettings,
    at_once: int = AT_ONCE,
    seed: int = 0,
) -> list[AttackResult | Exception]:
    """Attack examples as :func:`~qalof.attacks.attack.attack_examples` does, up to ``at_once`` in one forward pass.

    Returns:
        The result of each example, in order, or what its attack raised, which stops no other.

    Raises:
        BadInputError: The bitmap is illegal, the victim gives no labels, or the method does not change words.
    """
    if model.base.head is not HeadKind.CLASSIFIER:
        raise BadInputError(f"texts are attacked together where the victim gives labels: got a {model.base.head} head")
    at, attack = built_at(bitmap, model, lm, tokenizer, settings, seed)
    if not isinstance(attack, WordAttack):
        raise BadInputError(f"texts are attacked together by attacks on words: got {attack.name}")
    return together_at(at, model, attack, examples, at_once)


def together_at(
    bitmap: Bitmap | str | int | None, model: Any, attack: WordAttack, examples: Sequence[AttackExample], at_once: int
) -> list[AttackResult | Exception]:
    """Attack examples with an attack that was built on ``model``, a classifier, as
    :func:`~qalof.attacks.attack.attack_at` attacks one; see :func:`attack_together`.
    """
    threads = min(at_once, len(examples))
    meeting, found = Rendezvous(threads), dict[int, AttackResult | Exception]()
    with model.at(bitmap, eval=True):
        running = [
            Thread(target=_run, args=(attack.apart(), number, threads, examples, meeting, found), daemon=True)
            for number in range(threads)
        ]
        for thread in running:
            thread.start()
        meeting.serve()
        for thread in running:
            thread.join()
    return [found[index] for index in range(len(examples))]


def _run(
    attack: WordAttack, number: int, threads: int, examples: Sequence[AttackExample], meeting: Rendezvous,
    found: dict[int, AttackResult | Exception],
) -> None:  # fmt: skip
    victim: Any = attack.goal.victim  # type: ignore[attr-defined]

    def read(rows: list[list[int]], bitmap: Bitmap | None) -> torch.Tensor:
        def serve(asked: Sequence[list[list[int]]]) -> Sequence[torch.Tensor]:
            with victim.model.at(bitmap):
                return ChangeReader(victim.model, victim.tokenizer).logits(asked)

        answer: torch.Tensor = meeting.ask(number, ("victim", bitmap), serve, rows)
        return answer

    victim.reader = read
    attack.share(lambda kind, serve, content: meeting.ask(number, kind, serve, content))
    with meeting.turn():
        try:
            for index in range(number, len(examples), threads):
                try:
                    found[index] = attack.run(examples[index])
                except Exception as error:  # what one text's attack raises is its result
                    found[index] = error
        finally:
            meeting.leave()
