"""Reading results into typed values: what the readers of all commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrate.runs.layout import RESULT
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import read_whole_lines
from qalof.statistics import Interval, from_nullable


def intervals(metrics: Mapping[str, Any]) -> dict[str, Interval]:
    """Read intervals by name, from [estimate, low, high]."""
    return {name: Interval.from_json(values) for name, values in metrics.items()}


def check_some(rows: tuple[Any, ...], folder: Path, what: str) -> None:
    """Refuse a result without rows.

    Raises:
        BadInputError: ``rows`` is empty.
    """
    if not rows:
        raise BadInputError(f"result file {folder / RESULT} must have at least one {what}: it has none")


@contextmanager
def well_formed(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in taking data apart into an error that names the file.

    Raises:
        BadInputError: the data do not have the right form.
    """
    try:
        yield
    except BadInputError as error:
        # code that reads values knows no file; code that reads files has named one already
        if str(path.parent) in str(error):
            raise
        raise BadInputError(f"{what} {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInputError(
            f"{what} {path} must have the form that qalof writes: {type(error).__name__}: {error}; "
            "restore it, or delete it and run the step again"
        ) from None


def recorded(path: Path) -> Iterator[Any]:
    """Read the JSON lines of a record; a line that a kill tore off lacks its end and does not count."""
    yield from (json.loads(line) for line in read_whole_lines(path) if line)


def recorded_lines(path: Path) -> int:
    """Count the whole lines of a record; 0 where there is none."""
    return len(read_whole_lines(path))


def evaluation_of(data: Mapping[str, Any]) -> Evaluation:
    """Read an evaluation from its JSON form, with NaN for null."""
    read = Evaluation.from_json(data)
    scores = {name: [from_nullable(value) for value in values] for name, values in read.per_example.items()}
    return replace(read, metrics={k: from_nullable(v) for k, v in read.metrics.items()}, per_example=scores)
