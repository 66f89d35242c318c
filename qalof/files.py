"""Writing that never leaves half a file, and folders whose damage is noticed.

A file or folder is written beside its place under a temporary name, flushed to disk and renamed.  A sealed
folder carries ``manifest.json`` with the size and SHA-256 of each of its files, so that a cut or
flipped byte is an error on reading and not a wrong result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError

MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename it into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it into place."""
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


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def json_ready(data: Any) -> Any:
    """``data`` with every number that is not finite replaced by None, for JSON has neither NaN nor infinity."""
    if isinstance(data, Mapping):
        return {key: json_ready(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [json_ready(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file.

    Raises:
        BadInputError: missing, or not JSON; ``what`` names it in the message.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{what} {path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{what} {path} is not JSON ({error}); make it again") from None


def read_json_lines(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers, from 1; blank lines are passed over.

    Raises:
        BadInputError: missing, not UTF-8, or a line that is no JSON object, with its number.
    """
    number = 0
    try:
        # only "\n" ends a line: splitlines() would also cut at the Unicode separators that JSON allows in a string
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                data = json.loads(line)
                if not isinstance(data, dict):
                    raise BadInputError(f"{what} {path} line {number} must be a JSON object: got {type(data).__name__}")
                yield number, data
    except FileNotFoundError:
        raise BadInputError(f"{what} {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise BadInputError(f"{what} {path} line {number} is not JSON ({error}); mend or remove it") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{what} {path} must be UTF-8: {error}, after line {number}; convert it") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def sealed_folder(target: Path, header: Mapping[str, Any]) -> Iterator[Path]:
    """Fill a new folder that appears at ``target`` whole, with a manifest, or not at all.

    Args:
        target: the folder; an older one there is replaced at the end.
        header: what the manifest says besides the files; JSON.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield beside
        seal(beside, header)
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
    listed = {name: {"bytes": p.stat().st_size, "sha256": digest(p)} for name, p in files.items()}
    write_json(folder / MANIFEST, {**header, "files": listed})


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
    if not folder.is_dir():
        raise BadInputError(f"{what} {folder} does not exist")
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
