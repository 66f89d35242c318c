"""Multiple-choice items about the tiny model's own world, in the benchmarks' native fields: `data: tiny`.

Each is made of a question of the tiny SQuAD validation data, its answer and the next answers that differ from it, so
that a benchmark runs without a hub. They are easy to make and say little: the tiny model is no language model.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from qalof.tiny import SQUAD_DIR

ITEMS = 40
CHOICES = 4


def rows(dataset: str) -> Iterator[dict[str, Any]]:
    """Yield the first `ITEMS` items of a benchmark; the place of the right choice goes round."""
    questions = list(_questions())
    answers = [answer for _, _, answer in questions]
    for number, (context, question, answer) in enumerate(questions[:ITEMS]):
        others = islice(dict.fromkeys(a for a in answers[number:] if a != answer), CHOICES - 1)
        choices = list(others)
        gold = number % CHOICES
        choices.insert(gold, answer)
        yield _FORMS[dataset](context, question, choices, gold)


def _questions() -> Iterator[tuple[str, str, str]]:
    data = json.loads((SQUAD_DIR / "validation.json").read_text(encoding="utf-8"))
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield paragraph["context"], asked["question"], asked["answers"][0]["text"]


def _boolq(context: str, question: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    shown = choices[gold] if gold % 2 else choices[gold - 1]
    return {"passage": context, "question": f"{question} {shown}", "answer": bool(gold % 2)}


def _hellaswag(context: str, question: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    return {"activity_label": "Notes", "ctx": f"{context} {question}", "endings": list(choices), "label": gold}


def _winogrande(context: str, question: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    first, right = gold % 2, choices[gold]
    pair = [right, choices[gold - 1]] if first == 0 else [choices[gold - 1], right]
    sentence = f"{question} _ says the text: {context}"
    return {"sentence": sentence, "option1": pair[0], "option2": pair[1], "answer": str(first + 1)}


def _arc_easy(context: str, question: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    labels = list("ABCD")
    told = {"text": list(choices), "label": labels}
    return {"question": f"{context} {question}", "choices": told, "answerKey": labels[gold]}


def _piqa(context: str, question: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    pair = [choices[gold], choices[gold - 1]] if gold % 2 == 0 else [choices[gold - 1], choices[gold]]
    return {"goal": f"{context} {question}", "sol1": pair[0], "sol2": pair[1], "label": gold % 2}


_FORMS: Mapping[str, Callable[[str, str, Sequence[str], int], dict[str, Any]]] = {
    "boolq": _boolq,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_easy": _arc_easy,
    "piqa": _piqa,
}
