"""SQuAD v1.1 is read from the official JSON in a file or folder, or from the hub's data set.

A local file and the hub give the same :class:`SquadExample`.  A broken structure is an error that names the place. An
answer that is not in its context is a property of the data: it is kept for scoring (the metric never uses the offset),
and it is skipped and counted where a span must be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qalof.digests import content_digest, file_digest
from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists
from qalof.tasks.generated_data import find_generated, open_generated
from qalof.tasks.splits import sliced
from qalof.tiny import SQUAD_DIR

_FILE_NAMES = {"train": ("train", "train-v1.1"), "validation": ("validation", "dev-v1.1", "dev")}


@dataclass(frozen=True)
class SquadExample:
    """A question about a context; ``answers`` are (text, character offset); the first one is learned."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    ended: bool = True
    """Whether the first answer is complete; a generated one may have been cut off at the greatest length."""

    @property
    def texts(self) -> list[str]:
        """Return the texts of the gold answers."""
        return [text for text, _ in self.answers]

    @property
    def span(self) -> tuple[int, int] | None:
        """Return the characters [start, end) of the first answer; None if the text is not there."""
        if not self.answers:
            return None
        text, start = self.answers[0]
        if not text or start < 0 or self.context[start : start + len(text)] != text:
            return None
        return start, start + len(text)


def parse_split(split: str) -> tuple[str, int | None]:
    """Read ``validation[:512]`` as (``validation``, 512).

    Raises:
        BadInputError: The form is another one, or the split is neither train nor validation.
    """
    name, limit = sliced(split)
    if name not in _FILE_NAMES:
        raise BadInputError(f"a split must read like train or validation[:512]: got {split!r}")
    return name, limit


def load_squad(source: str, split: str) -> list[SquadExample]:
    """Return the examples of a split, in the order of the file.

    Args:
        source: ``tiny``; a folder with ``train.json`` / ``validation.json`` (or the official names, or a folder of
            shards under such a name); a file; a folder of generated completions, for training; otherwise a hub name
            such as ``rajpurkar/squad``.
        split: ``train``, ``validation``, or either with ``[:n]``.

    Raises:
        BadInputError: The data does not exist, the hub cannot be reached, a field is missing, the JSON is broken, or an
            id occurs twice.
    """
    name, limit = parse_split(split)
    path = SQUAD_DIR if source == "tiny" else expanded(source)
    if (folder := find_generated(source)) is not None:
        if name != "train":
            raise BadInputError(
                f"generated data is for training only: {source} was given for its {name} split; "
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


def digest_and_reader(source: str, split: str) -> tuple[str, Callable[[], list[SquadExample]]]:
    """Return a digest of a split's texts, and a function that reads them by :func:`load_squad`.

    The digest of local files is that of their bytes, so nothing is read before the reader is called. Texts of a hub or
    a generator are read at once.

    Raises:
        BadInputError: The data cannot be read, as in :func:`load_squad`.
    """
    name, limit = parse_split(split)
    path = SQUAD_DIR if source == "tiny" else expanded(source)
    if find_generated(source) is None and exists(path):
        digests = [file_digest(file) for file in _files(path, name)]
        return content_digest(digests, limit), partial(load_squad, source, split)
    found = load_squad(source, split)
    return content_digest([vars(example) for example in found]), lambda: found


def _check_ids(examples: Sequence[SquadExample], where: str) -> None:
    """Refuse equal ids: features are matched with questions by id, so two such questions would count as one."""
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
    """Count questions without an answer, with an empty first one, and with one that is not at its offset."""
    first = [(e, e.texts[0]) for e in examples if e.answers]
    return {
        "without_gold": len(examples) - len(first),
        "empty_gold": sum(not text.strip() for _, text in first),
        "gold_not_in_context": sum(bool(text.strip()) and e.span is None for e, text in first),
    }


def _from_generated(row: Mapping[str, Any]) -> SquadExample:
    # a completion has no position in its context
    answers = ((str(row["answer"]), -1),)
    return SquadExample(str(row["id"]), str(row["question"]), str(row["context"]), answers, bool(row["ended"]))


def _from_row(row: Mapping[str, Any]) -> SquadExample:
    answers: Mapping[str, Sequence[Any]] = row["answers"]
    pairs = tuple(zip(answers["text"], (int(start) for start in answers["answer_start"]), strict=True))
    return SquadExample(str(row["id"]), str(row["question"]).strip(), str(row["context"]), pairs)
