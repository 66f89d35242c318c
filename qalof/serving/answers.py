"""What each task answers: the columns of a request, those of an answer, and the task's own way from one to the other.

    squad-span, squad-completion   question, context -> answer
    classification                 text -> label, probabilities (name of class -> share)
    language-modeling, zero-shot   prompt -> text, written greedily

One request is one row.  A task is made here without its data, since a served model has none: of a classifier's data it
takes the names of the classes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.errors import BadInputError
from qalof.laws import Law
from qalof.model.positions import check_length
from qalof.model.special_tokens import special_token
from qalof.tasks.classification import ClassificationTask, class_logits
from qalof.tasks.factory import TASKS
from qalof.tasks.greedy import greedy_texts
from qalof.tasks.language_modeling import LanguageModelingTask
from qalof.tasks.squad_completion import CompletionTask
from qalof.tasks.squad_span import SpanTask
from qalof.tasks.zero_shot import ZeroShotTask

MAX_NEW_TOKENS = 64
"""How many tokens a text has at most where the request does not say."""
_NEW_TOKENS = Law(ge=1)

Row = Mapping[str, str]


@dataclass(frozen=True)
class Answering:
    """How a task answers."""

    columns: tuple[str, ...]
    """The columns of a request; each holds a text."""
    outputs: tuple[str, ...]
    """The columns of an answer."""
    example: Row
    """A request as an example."""
    answer: Callable[[Any, Any, Sequence[Row], int], list[dict[str, Any]]]
    """The function that answers: it takes the task, a model at its precision, rows and the most new tokens, and returns
    one answer per row."""
    writes: bool = False
    """Whether the model writes texts of any length."""


def served_task(
    name: str, settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str] | None
) -> Any:
    """Make a task without its data.

    Args:
        name: one of :data:`ANSWERING`.
        settings: the fields of the task's settings.
        tokenizer: the tokenizer of the model's base.
        labels: the names of the classes of a classifier; None for other tasks.
    """
    task_class, settings_class = TASKS[name]
    made = settings_class(**settings)
    return task_class(tokenizer, made) if labels is None else task_class(tokenizer, made, labels)


def check_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Check that each row has a text in each column.

    Raises:
        BadInputError: a column is missing, or holds something else than a text.
    """
    for number, row in enumerate(rows):
        for column in columns:
            if not isinstance(row.get(column), str):
                raise BadInputError(
                    f"a request must have a text in {' and '.join(columns)}: {column} of row {number} is "
                    f"{row.get(column)!r}; give a text"
                )


def _spans(task: SpanTask, model: Any, rows: Sequence[Row], most: int) -> list[dict[str, Any]]:
    questions, contexts = ([row[name] for row in rows] for name in ("question", "context"))
    return [{"answer": text} for text in task.answers(model, questions, contexts)]


def _completions(task: CompletionTask, model: Any, rows: Sequence[Row], most: int) -> list[dict[str, Any]]:
    questions, contexts = ([row[name] for row in rows] for name in ("question", "context"))
    return [{"answer": text} for text in task.answers(model, task.prompts(questions, contexts))]


@torch.no_grad()
def _classes(task: ClassificationTask, model: Any, rows: Sequence[Row], most: int) -> list[dict[str, Any]]:
    ids, _ = task.encode([row["text"] for row in rows])
    shares = class_logits(model, ids, task.settings.eval_batch_size).softmax(-1)
    return [
        {
            "label": task.label_names[int(each.argmax())],
            "probabilities": dict(zip(task.label_names, each.tolist(), strict=True)),
        }
        for each in shares
    ]


def _texts(task: Any, model: Any, rows: Sequence[Row], most: int) -> list[dict[str, Any]]:
    if not _NEW_TOKENS.holds(most, True):
        raise BadInputError(f"max_new_tokens must be {_NEW_TOKENS.text(True)}: got {most}")
    tokenizer = task.tokenizer
    eos = special_token(tokenizer, "eos", "a text that is written", "take a model whose tokenizer has one")
    bos = []
    if getattr(task.settings, "prepend_bos", False):
        bos = [special_token(tokenizer, "bos", "prepend_bos", "set it to false")]
    prompts = []
    for number, row in enumerate(rows):
        ids = [*bos, *tokenizer(row["prompt"], add_special_tokens=False, verbose=False)["input_ids"]]
        if not ids:
            raise BadInputError(f"a prompt must have at least one token: that of row {number} has none; give a text")
        check_length(model, len(ids) + most, "a prompt and max_new_tokens")
        prompts.append(ids)
    written = greedy_texts(model, tokenizer, prompts, most, [eos], task.settings.eval_batch_size)
    return [{"text": text} for text in written]


_ASKED: Row = {"question": "Who wrote the letter?", "context": "Ada wrote the letter in London."}
_QUESTION = ("question", "context")

ANSWERING: dict[str, Answering] = {
    SpanTask.name: Answering(_QUESTION, ("answer",), _ASKED, _spans),
    CompletionTask.name: Answering(_QUESTION, ("answer",), _ASKED, _completions),
    ClassificationTask.name: Answering(
        ("text",), ("label", "probabilities"), {"text": "a warm and funny film"}, _classes
    ),
    LanguageModelingTask.name: Answering(("prompt",), ("text",), {"prompt": "The river"}, _texts, writes=True),
    ZeroShotTask.name: Answering(("prompt",), ("text",), {"prompt": "The river"}, _texts, writes=True),
}
"""How each task answers."""
