"""The record of evaluations: one JSON line per evaluation, appended and flushed.

Resuming a search is running it again: strategies are pure functions of seed and scores, and evaluations in the record
are not measured again. So the state of a strategy is not stored, no finished evaluation is lost, and one record can be
used by any number of strategies and budgets.  (A database was rejected: it would tie the format to Optuna's and to one
strategy's view.)

From version 2 on a line may also hold a measurement (:mod:`search.measurement`) of a model and task, for any limit.
From version 3 on an evaluation may be a failed one, with its reason.  A failure that may not happen again is not
written (:mod:`search.failure`).

A line that a kill cut off lacks its newline; it is dropped on reading and cut off before the next is appended.  One
search uses a record at a time, in whichever process it runs (:func:`record_at`).  NaN is written as Python's ``json``
writes it, since a collapsed model's score must come back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import append_lines, read_whole_lines
from qalof.home import expanded
from qalof.locks import held
from qalof.writing import check_file
from search.failure import is_kept
from search.measurement import Taken

FORMAT_VERSION = 3
_READABLE = (1, 2, 3)


class EvaluationRecord:
    """Evaluations by fingerprint, limit and bitmap, in a file that only grows.

    Args:
        path: the file, which the first :meth:`add` makes together with its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(
        self, fingerprint: str, limit: int | None, sites: Sequence[str], metrics: Sequence[str] = ()
    ) -> dict[Bitmap, Evaluation]:
        """Return what is known of a model and task; the entries of others are skipped.

        Args:
            fingerprint: the fingerprint of the evaluator.
            limit: how many examples an evaluation took; None for all.
            sites: the names of the model's sites, in order.
            metrics: an evaluation that lacks one of these is skipped, unless it failed.

        Raises:
            BadInputError: A line is not a record of this format.
        """
        known: dict[Bitmap, Evaluation] = {}
        for number, line in enumerate(read_whole_lines(self.path), start=1):
            entry = self._parse(number, line)
            if "measurement" in entry:
                continue
            if entry["fingerprint"] == fingerprint and entry["limit"] == limit:
                found = Evaluation.from_json(entry["evaluation"])
                if found.failure or all(name in found.metrics for name in metrics):
                    known[Bitmap.from_json(entry["bitmap"], sites)] = found
        return known

    def measurements(self, fingerprint: str) -> dict[str, Taken]:
        """Return the measurements that were taken of a model and task, by their keys.

        Raises:
            BadInputError: A line is not a record of this format.
        """
        entries = (self._parse(number, line) for number, line in enumerate(read_whole_lines(self.path), start=1))
        return {
            entry["measurement"]: entry["taken"]
            for entry in entries
            if "measurement" in entry and entry["fingerprint"] == fingerprint
        }

    def add_measurement(self, fingerprint: str, key: str, taken: Taken) -> None:
        """Append the result of one measurement and flush it to disk.

        Raises:
            DiskError: The disk is full; the earlier record stays.
        """
        entry = {"version": FORMAT_VERSION, "fingerprint": fingerprint, "measurement": key, "taken": taken}
        append_lines(self.path, [json.dumps(entry, default=float)])

    def add(self, fingerprint: str, limit: int | None, bitmap: Bitmap, evaluation: Evaluation) -> None:
        """Append one evaluation and flush it to disk, unless it is a failure that may not happen again.

        Raises:
            DiskError: The disk is full; the earlier record stays.
        """
        if not is_kept(evaluation):
            return
        entry = {
            "version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "limit": limit,
            "bitmap": bitmap.to_json(),
            "evaluation": evaluation.to_json(),
        }
        append_lines(self.path, [json.dumps(entry, default=float)])

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            version = entry["version"]
        except (ValueError, TypeError, KeyError):
            raise BadInputError(
                f"a record must hold one evaluation per line: line {number} of {self.path} does not; "
                "give another file, or delete that line"
            ) from None
        if version not in _READABLE:
            raise BadInputError(
                f"record {self.path} must have a version from 1 to {FORMAT_VERSION}: got {version!r}; update QaLoF"
            )
        assert isinstance(entry, dict)
        return entry


@contextmanager
def record_at(storage: str | Path | None) -> Iterator[EvaluationRecord | None]:
    """Yield the record in the file ``storage``, locked against other searches; None without a file.

    Raises:
        BadInputError: Another search uses the file, or its place cannot be written.
    """
    if storage is None:
        yield None
        return
    path = expanded(storage)
    check_file(path, "storage")
    with held(path, "storage"):
        yield EvaluationRecord(path)
