"""Tokenized examples, cached on disk by content.

The key is the digest of the texts, the tokenizer and the settings, so equal inputs share a cache file, also between
workers, and a stale one is never read. ``datasets`` writes a temporary file and renames it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from qalof.cache import cache_dir
from qalof.locks import held
from qalof.writing import disk_errors

if TYPE_CHECKING:
    pass


SMALL = 20_000
"""Below this many rows a map in memory is faster than a file."""

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

    folder = cache_dir() / "features"
    file = folder / f"{key}.arrow"
    # the first process tokenizes, the others read
    with held(file, "the file of tokenized examples", wait=True), disk_errors(file):
        if file.is_file():
            return StoredRows(datasets.Dataset.from_file(str(file)))
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


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _rows(columns: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
