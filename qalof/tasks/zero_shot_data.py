"""Multiple-choice benchmarks as pairs of context and continuation, with the prompts of lm-evaluation-harness.

==============  ==============================================  ==================  ==============
``boolq``       {passage}\\nQuestion: {question}?\\nAnswer:        no, yes             acc
``hellaswag``   {activity}: {ctx_a} {Ctx_b}, brackets removed   four endings        acc, acc_norm
``winogrande``  the sentence up to the blank, an option in it   the same suffix     acc
``arc_easy``    Question: {question}\\nAnswer:                   the choices         acc, acc_norm
``piqa``        Question: {goal}\\nAnswer:                       two solutions       acc, acc_norm
==============  ==============================================  ==================  ==============

A continuation begins with a space.  WinoGrande uses partial evaluation (Trinh & Le 2018, arXiv 1806.02847): contexts
differ and the scored words do not, so the likelihood of the option itself does not count.  A HellaSwag item without
``ctx_a`` and ``ctx_b``, as some copies of the data have it, takes its ``ctx`` as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qalof.errors import BadInputError, nearest_hint
from qalof.files import read_json_lines
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists
from qalof.tiny.zero_shot import rows as tiny_rows

Dataset = Literal["boolq", "hellaswag", "winogrande", "arc_easy", "piqa"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A question: (context, continuation) per choice, and the index of the right one."""

    choices: tuple[tuple[str, str], ...]
    gold: int

    @property
    def lengths(self) -> list[int]:
        """Return the characters of each choice, by which acc_norm divides; the space before it does not count."""
        return [len(continuation) - 1 for _, continuation in self.choices]


@dataclass(frozen=True)
class Benchmark:
    """How a row becomes an item; ``hub``: data set and subset; ``normalized``: whether acc_norm is reported."""

    item: Callable[[Row], Item]
    hub: tuple[str, str | None]
    normalized: bool


def _same_context(context: str, choices: Iterable[str], gold: int) -> Item:
    return Item(tuple((context, f" {choice}") for choice in choices), gold)


def _boolq(row: Row) -> Item:
    # the hub's copy in SuperGLUE has a label; the original has an answer
    gold = row["label"] if "label" in row else row["answer"]
    return _same_context(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ("no", "yes"), int(gold))


def _hellaswag(row: Row) -> Item:
    context = row["ctx"] if "ctx_a" not in row else f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = [clean(ending) for ending in row["endings"]]
    return _same_context(clean(f"{row['activity_label']}: {context}"), endings, int(row["label"]))


def clean(text: str) -> str:
    """Return a HellaSwag text without WikiHow's marks such as ``[header]``; ``[title]`` becomes a full stop."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _winogrande(row: Row) -> Item:
    blank = row["sentence"].index("_")
    suffix = " " + row["sentence"][blank + 1 :].strip()
    contexts = [row["sentence"][:blank] + row[option] for option in ("option1", "option2")]
    return Item(tuple((context, suffix) for context in contexts), int(row["answer"]) - 1)


def _arc(row: Row) -> Item:
    choices = row["choices"]
    gold = list(choices["label"]).index(row["answerKey"])
    return _same_context(f"Question: {row['question']}\nAnswer:", choices["text"], gold)


def _piqa(row: Row) -> Item:
    return _same_context(f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), int(row["label"]))


BENCHMARKS: Mapping[str, Benchmark] = {
    "boolq": Benchmark(_boolq, ("aps/super_glue", "boolq"), False),
    "hellaswag": Benchmark(_hellaswag, ("Rowan/hellaswag", None), True),
    "winogrande": Benchmark(_winogrande, ("allenai/winogrande", "winogrande_xl"), False),
    "arc_easy": Benchmark(_arc, ("allenai/ai2_arc", "ARC-Easy"), True),
    "piqa": Benchmark(_piqa, ("baber/piqa", None), True),
}


def load_items(dataset: str, source: str | None, split: str = "validation") -> list[Item]:
    """Return the items of a benchmark, in the order of the data.

    Args:
        dataset: one of :data:`BENCHMARKS`.
        source: ``tiny``, a file of JSON lines with the benchmark's own fields, a folder with ``DATASET.jsonl``, or a
            hub name; None for the benchmark's data set on the hub.
        split: the split of the hub's data set.

    Raises:
        BadInputError: The data does not exist, or a line is not an item; the message gives its number.
    """
    if dataset not in BENCHMARKS:
        raise BadInputError(f"there is no benchmark {dataset!r}; {nearest_hint(dataset, BENCHMARKS)}")
    benchmark = BENCHMARKS[dataset]
    items = [_item(benchmark, row, f"{dataset} {place}") for place, row in _rows(benchmark, dataset, source, split)]
    if not items:
        raise BadInputError(f"a benchmark must hold at least one item: {source or benchmark.hub[0]} holds none")
    return items


def _rows(benchmark: Benchmark, dataset: str, source: str | None, split: str) -> Iterator[tuple[str, Row]]:
    if source == "tiny":
        yield from ((f"tiny item {number}", row) for number, row in enumerate(tiny_rows(dataset)))
        return
    path = expanded(source or "")
    if source is not None and (exists(path) or source.startswith((".", "/", "~")) or source.endswith(".jsonl")):
        file = path / f"{dataset}.jsonl" if path.is_dir() else path
        for number, row in read_json_lines(file, "benchmark data"):
            yield f"{file} line {number}", row
        return
    name, subset = (source, None) if source is not None else benchmark.hub
    for number, row in enumerate(load_rows(name, split, subset)):
        yield f"{name} row {number}", row


def _item(benchmark: Benchmark, row: Row, place: str) -> Item:
    try:
        item = benchmark.item(row)
    except KeyError as error:
        raise BadInputError(f"{place} lacks {error}; mend or remove it") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{place} is not an item ({error}); mend or remove it") from None
    if not 0 <= item.gold < len(item.choices) or any(length < 1 for length in item.lengths):
        answer = f"answer {item.gold} of {len(item.choices)} choices of {item.lengths} characters"
        raise BadInputError(f"{place} must have a right choice and none that is empty: got {answer}; mend or remove it")
    return item
