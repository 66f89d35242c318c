"""Digests identify the content of files and folders, whatever their paths.

A large file is read once: its digest is kept in the cache folder, with the size and the times that the file had, and
taken from there as long as it has them.  A file that was changed within the last seconds is read again, since a clock
may be too coarse to distinguish two changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalof.cache import cache_dir
from qalof.errors import QalofError
from qalof.files import digest, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGE = 2**20
"""The digest of a file is kept from this many bytes on."""

SETTLED = 2.0
"""The times of a file can be trusted after this many seconds without a change."""

_OURS = ("run.json", "pipeline.json", "mlflow.db")
"""What the folder of a run, a pipeline or a record holds."""


def path_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's bytes, or of the names and bytes of all files in a folder.

    Links are followed.  In a folder hidden files and locks do not count, nor do folders of runs and records below it:
    whoever works where the data lies would otherwise change it by every run.
    """
    if not path.is_dir():
        return file_digest(path)
    listed = [[name, file_digest(file)] for name, file in sorted(_files(path, "", frozenset()))]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, which is kept for large files that no longer change."""
    stat = path.stat()
    if stat.st_size < LARGE or abs(time.time() - stat.st_mtime) < SETTLED:
        return digest(path)
    seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    kept = cache_dir() / "digests" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"
    found = _kept(kept, seen)
    if found is None:
        found = digest(path)
        with contextlib.suppress(OSError, QalofError):  # a cache that cannot be written only costs time
            write_json(kept, {"seen": seen, "sha256": found})
    return found


def _kept(path: Path, seen: list[int]) -> str | None:
    """Return the digest that was kept of a file with the present size and times."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return str(stored["sha256"]) if stored["seen"] == seen else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path, below: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """Yield the relative name and the path of each file that counts; ``above``: the folders that lead here, so links
    end.
    """
    stat = folder.stat()
    place = (stat.st_dev, stat.st_ino)
    if place in above:
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name.endswith(".lock"):
            continue
        if path.is_file():
            yield f"{below}{path.name}", path
        elif path.is_dir() and not any((path / name).is_file() for name in _OURS):
            yield from _files(path, f"{below}{path.name}/", above | {place})


def content_digest(*parts: Any) -> str:
    """Return the SHA-256, in hex, of parts that JSON can represent."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256, in hex, of what the tokenizer makes of texts: its definition and its special tokens.

    Truncation and padding are left out: transformers sets them in the tokenizer at every call, as that call wants them,
    so the tokenizer of a task that has been used says something else than a fresh one.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {key: value for key, value in definition.items() if key not in ("truncation", "padding")}
    return content_digest(kept, tokenizer.special_tokens_map)
