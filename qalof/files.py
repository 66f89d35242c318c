"""Files are never left half-written, and damage of folders is noticed.

A file or folder is written next to its place under a temporary name, flushed to disk and renamed.  A sealed folder
carries ``manifest.json`` with the size and SHA-256 of each of its files, so a cut or flipped byte is an error on
reading and not a wrong result.  A record of lines only grows, and a line that a kill or a full disk tore is cut off
before the next is added.

A disk that takes no more is a :class:`~qalof.errors.DiskError`: what was there before stays, and nothing half is left.
A kill has no time to clean up; what it leaves is hidden (its name begins with a dot) until :func:`tidy` removes it.

No maintained library does this: the author of ``atomicwrites`` has given it up, and it wrote single files only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError
from qalof.reading import exists, is_folder, parse_json, read_lines, read_text
from qalof.writing import DISK, check_folder, disk_errors

MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` next to ``path`` and rename it into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` next to ``path`` and rename it into place.

    Raises:
        DiskError: the disk takes no more; an older file is as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a record and flush it; a torn last line, which lacks its newline, is cut off first.

    Raises:
        DiskError: the disk takes no more; the record is as long as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered, for a buffer would be written once more on closing
        with path.open("ab+", buffering=0) as file:
            whole = _whole_bytes(file.seek(0, os.SEEK_END), file)
            file.truncate(whole)
            left = memoryview("".join(f"{line}\n" for line in lines).encode())
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise


def read_whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a record, without their newlines; a missing file has none.

    A line counts once its newline is there: what a kill tore off, or another process is writing at this moment, is
    left out.  Only ``\\n`` ends a line.
    """
    try:
        *whole, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return whole


def _whole_bytes(size: int, file: Any) -> int:
    """Return how many of ``size`` bytes are whole lines."""
    at = size
    while at > 0:
        start = max(0, at - 4096)
        file.seek(start)
        if (found := file.read(at - start).rfind(b"\n")) >= 0:
            return int(start + found + 1)
        at = start
    return 0


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def json_ready(data: Any) -> Any:
    """Return ``data`` with None for every number that is not finite, since JSON has neither NaN nor infinity."""
    if isinstance(data, Mapping):
        return {key: json_ready(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [json_ready(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file.

    Raises:
        BadInputError: missing, not to be read, or not JSON; ``what`` names it in the message.
    """
    return parse_json(read_text(path, what), f"{what} {path}")


def read_json_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines with their line numbers, from 1; blank lines are skipped.

    Raises:
        BadInputError: missing, not UTF-8, or a line that is no JSON object, with its number.
    """
    for number, line in read_lines(path, what):
        if not line.strip():
            continue
        data = parse_json(line, f"{what} {path} line {number}")
        if not isinstance(data, dict):
            raise BadInputError(f"{what} {path} line {number} must be a JSON object: got {type(data).__name__}")
        yield number, data


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def sealed_folder(target: Path, header: Mapping[str, Any]) -> Iterator[Path]:
    """Fill a new folder that appears at ``target`` whole, with a manifest, or not at all.

    Args:
        target: the folder; an older one there is replaced at the end.
        header: what the manifest says in addition to the files, as JSON.

    Raises:
        DiskError: the disk takes no more; an older folder is as it was.
    """
    with disk_errors(target), _replacement(target) as beside:
        yield beside
        seal(beside, header)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder so that it appears at ``target`` whole or not at all; an older one there is replaced.

    Raises:
        DiskError: the disk takes no more; an older folder is as it was.
    """
    with disk_errors(target), _replacement(target) as beside:
        try:
            shutil.copytree(source, beside, dirs_exist_ok=True)
        except shutil.Error as error:  # copytree goes on after an error, and lists texts
            number = next((n for n in DISK for entry in error.args[0] if f"[Errno {n}]" in str(entry[2])), None)
            raise (OSError(number, os.strerror(number)) if number else error) from error


@contextmanager
def _replacement(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which is renamed to ``target`` at the end of the block, or removed if the block fails."""
    check_folder(target, "output")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new."))
    try:
        yield beside
        beside.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            target.replace(old / "old")
            beside.replace(target)
            shutil.rmtree(old)
        else:
            beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def seal(folder: Path, header: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that is complete."""
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST}
    for path in files.values():
        _flush(path)
    listed = {name: {"bytes": p.stat().st_size, "sha256": digest(p)} for name, p in files.items()}
    write_json(folder / MANIFEST, {**header, "files": listed})


def tidy(target: Path) -> None:
    """Remove what a kill left next to ``target``; an older folder, caught between two renames, is restored."""
    for left in target.parent.glob(f".{target.name}.old.*"):
        if (left / "old").is_dir() and not target.exists():
            (left / "old").replace(target)
        shutil.rmtree(left)
    for left in target.parent.glob(f".{target.name}.new.*"):
        shutil.rmtree(left)


def _flush(path: Path) -> None:
    """Flush a file to the disk, so its content survives a power cut after the renaming."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_sealed(folder: Path, what: str, version: int, oldest: int | None = None) -> dict[str, Any]:
    """Check a sealed folder and return its manifest.

    Args:
        folder: as :func:`sealed_folder` left it.
        what: names it in messages.
        version: the newest format version that the caller reads.
        oldest: the oldest one, None for ``version`` alone.

    Raises:
        BadInputError: missing, of a format version outside these, or a file that is missing, cut or changed.
    """
    if not is_folder(folder):
        wrong = "must be a folder: it is a file" if exists(folder) else "does not exist"
        raise BadInputError(f"{what} {folder} {wrong}; give the folder that it was written to")
    if not exists(folder / MANIFEST):
        raise BadInputError(f"{what} {folder} must hold a {MANIFEST}: it does not exist; give the folder that has one")
    manifest: Any = read_json(folder / MANIFEST, f"manifest of {what}")
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    readable = range(version if oldest is None else oldest, version + 1)
    if isinstance(found, bool) or found not in readable:
        law = " or ".join(str(number) for number in readable)
        raise BadInputError(
            f"{what} {folder} must have format version {law}: got {found!r}; use the QaLoF that wrote it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(f, dict) and {"bytes", "sha256"} <= set(f) for f in files.values()
    ):
        raise BadInputError(f"{what} {folder} is damaged: its manifest lists no files; restore it from a copy")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BadInputError(f"{what} {folder} is damaged: {name} is missing; restore it from a copy or train again")
        if path.stat().st_size != expected["bytes"] or digest(path) != expected["sha256"]:
            raise BadInputError(
                f"{what} {folder} is damaged: {name} does not match its checksum; restore it or train again"
            )
    checked: dict[str, Any] = manifest
    return checked
