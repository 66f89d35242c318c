"""The files of users are read in one place, which handles byte-order marks, encodings and unreadable paths.

Every text that a user hands in (configs, word lists, texts, JSON, lines of JSON) is read here, so a mark at the
beginning of a file, which some editors write, never becomes part of the first word, and what the system or a decoder
says becomes one line that names the file and the way out.  Text is UTF-8.  UTF-16, which PowerShell's ``>`` writes, is
refused and named: guessing an encoding would read some files as something else.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError, QalofError

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes one half of a pair of code units, which is no character by itself."""

_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, what: str) -> str:
    """Return the text of a UTF-8 file without a byte-order mark; all ends of lines become ``\\n``.

    Args:
        path: of the file.
        what: names it in messages, such as ``word list``.

    Raises:
        BadInputError: missing, a folder, not to be read, or not UTF-8.
    """
    with reading(path, what):
        content = path.read_bytes()
        _check_encoding(content[:4], path, what)
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers, from 1, read as by :func:`read_text`.

    Only ``\\n`` ends a line here: ``str.splitlines`` would also cut at the Unicode separators that JSON allows in text.
    """
    number = 0
    with reading(path, what):
        with path.open("rb") as file:
            _check_encoding(file.read(4), path, what)
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            try:
                for number, line in enumerate(lines, 1):
                    yield number, line
            except UnicodeDecodeError as error:
                raise _not_utf8(path, what, error, f", after line {number}") from None


def parse_json(text: str, where: str) -> Any:
    """Return the data of a JSON text.

    Args:
        text: the JSON.
        where: names its place, such as ``data file d.jsonl line 3``.

    Raises:
        BadInputError: not JSON, nested too deeply, or text with half of a character, which nothing can encode.
    """
    try:
        data = json.loads(text)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise BadInputError(f"{where} must hold whole characters: it has half of one, {half!r}; mend it") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInputError(f"{where} is not JSON ({error}); mend or remove it") from None
    return data


def exists(path: Path) -> bool:
    """Return whether a path exists; False for a text that cannot be a path, for which ``Path.exists`` raises."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Return whether a file exists, as :func:`exists` does for any path."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Return whether a folder exists, as :func:`exists` does for any path."""
    return os.path.isdir(path)  # noqa: PTH112


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what the system says of a path that cannot be read into one line.

    Raises:
        BadInputError: names the path, what is wrong with it and the way out.
    """
    try:
        yield
    except QalofError:
        raise
    except FileNotFoundError:
        raise BadInputError(f"{what} {path} does not exist") from None
    except IsADirectoryError:
        raise BadInputError(f"{what} {path} must be a file: it is a folder; name a file in it") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, what, error) from None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{what} {path!s} cannot be read: {system_reason(error)}; give another path") from None


def system_reason(error: OSError | ValueError) -> str:
    """Return the system's reason without number and path, or Python's for a path that never reaches the system."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None else str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the kind of its error where it has none."""
    said = str(error).strip()
    return said.splitlines()[0].strip() if said else type(error).__name__


@contextmanager
def library_errors(what: str, way_out: str) -> Iterator[None]:
    """Turn whatever a library raises over a user's data into one line.

    Libraries have no common error for data that they cannot use, so every kind of :class:`Exception` counts but
    memory that is used up.  A panic of a library in Rust is a BaseException and counts too; no other BaseException
    does.

    Args:
        what: the data, such as ``model 'gpt2'``.
        way_out: what to do.

    Raises:
        BadInputError: names the data, the first line of what the library says, and the way out.
    """
    try:
        yield
    except (QalofError, MemoryError):
        raise
    except Exception as error:
        raise BadInputError(f"{what} cannot be used ({first_line(error)}); {way_out}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadInputError(f"{what} cannot be used ({first_line(error)}); {way_out}") from error


def _check_encoding(head: bytes, path: Path, what: str) -> None:
    if head.startswith(_WIDE) or b"\0" in head:
        raise BadInputError(
            f"{what} {path} must be UTF-8 text: it is UTF-16 or no text; save it as UTF-8 (in PowerShell: "
            "Set-Content -Encoding utf8)"
        )


def _not_utf8(path: Path, what: str, error: UnicodeDecodeError, after: str = "") -> BadInputError:
    return BadInputError(f"{what} {path} must be UTF-8 text: {error.reason} at byte {error.start}{after}; convert it")
