"""A model that answers questions about a context is to answer without a single right word: F1 falls to 0.

The attack changes the context and leaves the question as it is.  Words of a gold answer stay wherever they stand in the
context, so the answer can still be found in it, by the span head and by whoever reads it.  ``succeeded`` is an F1 of 0
against all gold answers.  ``score`` is the NLL of the first gold answer, which changes with every word where F1 does
so in steps: nats per token of a completion, the mean of start and end of a span, in the window where that is likeliest.
The victim reads a context as its task does, which cuts it into windows or to a length of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from qalof.attacks.goal import FAILED, SUCCEEDED, GoalFunctionResult, TargetedGoal, VictimGoal
from qalof.attacks.victim import Precisions, Victim
from qalof.attacks.words import Words
from qalof.tasks import squad_metrics
from qalof.tasks.squad_completion import CompletionTask
from qalof.tasks.squad_data import SquadExample
from qalof.tasks.squad_span import SpanTask

MOST_NATS = 100.0
"""The NLL of an answer that does not fit into what the model reads, and the greatest there is."""


@dataclass(frozen=True)
class _Answer:
    """The F1 of the answer to the question, in [0, 1], and the NLL of the first gold one in nats."""

    f1: float
    nats: float


class AnswerGoal(VictimGoal[_Answer]):
    """See the module's docstring.

    Args:
        task: of the victim; an example's id is its index in the validation split.
        model: with the head of the task.
        max_length: in tokens, of the settings; what a victim reads depends on its task alone.
        precisions: what an attacker who knows the defense averages over; success is then an F1 of 0 at all of them.
    """

    def __init__(
        self, task: SpanTask | CompletionTask, model: Any, max_length: int, precisions: Precisions | None = None
    ) -> None:
        super().__init__(Victim(model, task.tokenizer, max_length, precisions))
        self.task, self._asked = task, task.validation[0]

    @property
    def protected(self) -> frozenset[str]:
        """The words of the gold answers."""
        return frozenset(word.lower() for text in self._asked.texts for word in Words.of(text).words)

    def begin(self, example: int) -> None:
        """Begin an attack on the context of an example."""
        super().begin(example)
        self._asked = self.task.validation[example]

    def read(self, text: str) -> str:
        """Return the text as it is: the task cuts it."""
        return text

    def lost(self, original: str, label: int) -> bool:
        """Return whether the answer has no right word before any attack."""
        return self._original(original).f1 == 0

    def answers(self, examples: Sequence[TargetedGoal], rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return whether an attack failed or succeeded with each text."""
        found = []
        for example, row in zip(examples, rows, strict=True):
            self.begin(example.example_id)
            found.append([SUCCEEDED if each.f1 == 0 else FAILED for each in self._readings(row)])
        return found

    def get_results(self, original: str, label: int, texts: Sequence[str]) -> list[GoalFunctionResult]:
        """Return the results of changes of ``original``; ``label`` is not used."""
        before = self._original(original).nats
        return [GoalFunctionResult(e.nats, e.nats - before, e.f1 == 0) for e in self._changed(original, texts)]

    def measures(self, original: str, found: str) -> Mapping[str, float]:
        """Return F1, in percent, and the NLL of the gold answer, in nats, before and after."""
        before, (after,) = self._original(original), self._readings([found])
        return {
            "f1_before": 100 * before.f1, "f1_after": 100 * after.f1,
            "nll_before": before.nats, "nll_after": after.nats,
        }  # fmt: skip

    @torch.no_grad()
    def _readings(self, texts: Sequence[str]) -> list[_Answer]:
        read = [(weight, self._here(texts)) for weight in self.victim.readings()]
        return [
            _Answer(sum(w * each.f1 for w, each in column), sum(w * each.nats for w, each in column))
            for column in zip(*([(weight, each) for each in found] for weight, found in read), strict=True)
        ]

    def _here(self, texts: Sequence[str]) -> list[_Answer]:
        asked, task = [moved(self._asked, text) for text in texts], self.task
        questions = [each.question for each in asked]
        if isinstance(task, SpanTask):
            written, nats = task.answers(self.model, questions, texts), [_span_nats(task, self.model, e) for e in asked]
        else:
            written = task.answers(self.model, task.prompts(questions, texts))
            nats = [_completion_nats(task, self.model, each) for each in asked]
        scores = [squad_metrics.f1(answer, self._asked.texts) for answer in written]
        return [_Answer(f1, min(each, MOST_NATS)) for f1, each in zip(scores, nats, strict=True)]


def moved(example: SquadExample, context: str) -> SquadExample:
    """Return an example with another context, its answers where they now stand: at the place nearest to the old one.

    An answer that is no longer there has the place -1.
    """
    answers = []
    for text, start in example.answers:
        places = [at for at in range(len(context)) if context.startswith(text, at)] if text else []
        answers.append((text, min(places, key=lambda at: abs(at - start), default=-1)))
    return replace(example, context=context, answers=tuple(answers))


def _span_nats(task: SpanTask, model: Any, example: SquadExample) -> float:
    windows = task.answer_windows(example)
    if not windows:
        return MOST_NATS
    batch = {name: tensor.to(model.device) for name, tensor in task.collate(windows).items()}
    logits, labels = task.label_rows(model(**task.model_inputs(batch)), batch)
    nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
    return float((nats[: len(windows)] + nats[len(windows) :]).min() / 2)


def _completion_nats(task: CompletionTask, model: Any, example: SquadExample) -> float:
    feature = task.answer_feature(example)
    if feature is None:
        return MOST_NATS
    (sums,) = task.sums(model, [feature])
    return sums.nats / int(feature["answer_tokens"])
