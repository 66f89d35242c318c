"""Reading SQuAD v1.1: the official JSON from a file or folder, or the hub's data set.

A local file and the hub give the same :class:`SquadExample`.  What is structurally broken is an error that
names the place; an answer that is not in its context is a property of the data, so it is kept for scoring (the
metric never looks at the offset) and skipped, counted, where a span must be learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists
from qalof.tasks.generated_data import find_generated, open_generated
from qalof.tiny import SQUAD_DIR

_SLICED = re.compile(r"(\w+)(?:\[:(\d+)\])?$")
_FILE_NAMES = {"train": ("train", "train-v1.1"), "validation": ("validation", "dev-v1.1", "dev")}


@dataclass(frozen=True)
class SquadExample:
    """A question about a context; ``answers`` are (text, character offset), first the one that is learned."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    ended: bool = True
    """Whether the first answer is whole; a generated one may have been stopped at its longest."""

    @property
    def texts(self) -> list[str]:
        """The gold answers' texts."""
        return [text for text, _ in self.answers]

    @property
    def span(self) -> tuple[int, int] | None:
        """Characters [start, end) of the first answer; None if the text does not stand there."""
        if not self.answers:
            return None
        text, start = self.answers[0]
        if not text or start < 0 or self.context[start : start + len(text)] != text:
            return None
        return start, start + len(text)


def parse_split(split: str) -> tuple[str, int | None]:
    """``validation[:512]`` -> (``validation``, 512).

    Raises:
        BadInputError: another form, or neither train nor validation.
    """
    match = _SLICED.match(split)
    if match is None or match[1] not in _FILE_NAMES:
        raise BadInputError(f"a split must read like train or validation[:512]: got {split!r}")
    return match[1], int(match[2]) if match[2] else None


def load_squad(source: str, split: str) -> list[SquadExample]:
    """Examples of a split, in the file's order.

    Args:
        source: ``tiny``; a folder with ``train.json`` / ``validation.json`` (or the official names, or a folder
            of shards under such a name); a file; a folder of generated completions, for training; else a hub name
            such as ``rajpurkar/squad``.
        split: ``train``, ``validation``, or either with ``[:n]``.

    Raises:
        BadInputError: no such data, the hub out of reach, a missing field, broken JSON, or an id that stands twice.
    """
    name, limit = parse_split(split)
    path = SQUAD_DIR if source == "tiny" else expanded(source)
    if (folder := find_generated(source)) is not None:
        if name != "train":
            raise BadInputError(
                f"generated data is for training alone: {source} is asked for its {name} split; "
                "set validation_data to SQuAD data to score on"
            )
        examples = [_from_generated(row) for row in open_generated(folder, "completions").rows()]
    elif exists(path):
        examples = [example for file in _files(path, name) for example in _read(file)]
    elif source.startswith((".", "/", "~")) or source.endswith(".json"):
        raise BadInputError(f"data file {source} does not exist")
    else:
        examples = [_from_row(row) for row in load_rows(source, name)]
    kept = examples[:limit]
    if not kept:
        raise BadInputError(f"a split must hold at least one question: {source} {split} holds none")
    _check_ids(kept, f"{source} {split}")
    return kept


def _check_ids(examples: Sequence[SquadExample], where: str) -> None:
    """Features are matched with questions by id, so two questions of one id would be taken for one."""
    first: dict[str, int] = {}
    for number, example in enumerate(examples, 1):
        if (earlier := first.setdefault(example.id, number)) != number:
            raise BadInputError(
                f"question ids must differ: {where} has {example.id!r} as its questions {earlier} and {number}; "
                "give each an id of its own"
            )


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    for name in _FILE_NAMES[split]:
        if (path / f"{name}.json").is_file():
            return [path / f"{name}.json"]
        if shards := sorted((path / name).glob("*.json")):
            return shards
    wanted = " or ".join(f"{name}.json" for name in _FILE_NAMES[split])
    raise BadInputError(f"data folder {path} must hold {wanted} for the {split} split")


def _read(path: Path) -> Iterator[SquadExample]:
    place = str(path)
    try:
        for a, article in enumerate(read_json(path, "data file")["data"]):
            place = f"{path} data[{a}]"
            for p, paragraph in enumerate(article["paragraphs"]):
                place = f"{path} data[{a}].paragraphs[{p}]"
                context = _text(paragraph, "context")
                for q, qa in enumerate(paragraph["qas"]):
                    place = f"{path} data[{a}].paragraphs[{p}].qas[{q}]"
                    answers = tuple((_text(answer, "text"), int(answer["answer_start"])) for answer in qa["answers"])
                    yield SquadExample(str(qa["id"]), _text(qa, "question").strip(), context, answers)
    except (KeyError, TypeError, ValueError) as error:
        raise _not_squad(place, error) from None


def _not_squad(place: str, error: Exception) -> BadInputError:
    if isinstance(error, BadInputError):
        return error
    reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return BadInputError(f"data file must follow SQuAD v1.1: {place} {reason}; mend or remove it")


def _text(holder: Mapping[str, Any], field: str) -> str:
    value = holder[field]
    if not isinstance(value, str):
        raise TypeError(f"must have text as {field!r}: got {value!r}")
    return value


def gold_counts(examples: Sequence[SquadExample]) -> dict[str, int]:
    """Questions without an answer, with an empty first one, and with one that does not stand where it should."""
    first = [(e, e.texts[0]) for e in examples if e.answers]
    return {
        "without_gold": len(examples) - len(first),
        "empty_gold": sum(not text.strip() for _, text in first),
        "gold_not_in_context": sum(bool(text.strip()) and e.span is None for e, text in first),
    }


def _from_generated(row: Mapping[str, Any]) -> SquadExample:
    # a completion stands nowhere in its context
    answers = ((str(row["answer"]), -1),)
    return SquadExample(str(row["id"]), str(row["question"]), str(row["context"]), answers, bool(row["ended"]))


def _from_row(row: Mapping[str, Any]) -> SquadExample:
    answers: Mapping[str, Sequence[Any]] = row["answers"]
    pairs = tuple(zip(answers["text"], (int(start) for start in answers["answer_start"]), strict=True))
    return SquadExample(str(row["id"]), str(row["question"]).strip(), str(row["context"]), pairs)
