"""Tokenized examples, cached on disk by content.

The key is the digest of the texts, the tokenizer and the settings, so equal inputs share a cache file, also between
workers, and a stale one is never read. ``datasets`` writes a temporary file and renames it.

Where the texts are local files, the digest of the files stands for them. It is kept between processes
(:mod:`qalof.digests`), so a second run reads no text at all (:func:`cached_features`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from qalof.cache import cache_dir
from qalof.files import read_json, write_json
from qalof.locks import held
from qalof.tasks.base import TrainingData
from qalof.writing import disk_errors

SMALL = 20_000
"""The number of rows below which a map in memory is faster than a file."""

BATCH = 1_000
"""This many rows are tokenized together."""


class StoredRows(Sequence[dict[str, Any]]):
    """Rows of a file, which are read on access: a training of 8 steps reads 8 batches out of 87,599 examples."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return self._data[index]

    def column(self, name: str) -> list[Any]:
        """Return one value of every row."""
        values: list[Any] = self._data.data.column(name).to_pylist()
        return values


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """Return one value of every row that :func:`map_cached` returned."""
    return rows.column(name) if isinstance(rows, StoredRows) else [row[name] for row in rows]


def cached_features(key: str, make: Callable[[], TrainingData]) -> TrainingData:
    """Return features and what was counted while they were made; ``make`` is called only if the cache lacks either.

    Args:
        key: the digest of everything that the features depend on.
        make: makes both, the features by :func:`map_cached` under the same ``key``.
    """
    file, counted = _file(key), _file(key).with_suffix(".json")
    if file.is_file() and counted.is_file():
        return TrainingData(_stored(file), read_json(counted, "counts of features"))
    made = make()
    if isinstance(made.features, StoredRows):
        write_json(counted, made.counts)
    return made


def map_cached(
    rows: Sequence[dict[str, Any]], encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]], key: str
) -> Sequence[dict[str, Any]]:
    """Apply ``encode`` (columns to columns; may return more or fewer rows) to ``rows``; equal keys give equal results.

    From :data:`SMALL` rows on the result is a file and needs ``datasets``; if the file exists, nothing is encoded.
    """
    if len(rows) < SMALL:
        batches = (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))
        return [row for batch in batches for row in _rows(encode(_columns(batch)))]
    import datasets

    file = _file(key)
    # the first process tokenizes, the others read
    with held(file, "the file of tokenized examples", wait=True), disk_errors(file):
        if file.is_file():
            return _stored(file)
        datasets.disable_progress_bars()
        raw = datasets.Dataset.from_list(list(rows))
        mapped = raw.map(
            encode,
            batched=True,
            batch_size=BATCH,
            remove_columns=raw.column_names,
            cache_file_name=str(file),
            new_fingerprint=key[:32],
        )
    return StoredRows(mapped)


def _file(key: str) -> Path:
    return cache_dir() / "features" / f"{key}.arrow"


def _stored(file: Path) -> StoredRows:
    import datasets

    return StoredRows(datasets.Dataset.from_file(str(file)))


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _rows(columns: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
