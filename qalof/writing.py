"""The system's errors on writing become errors of this project."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from qalof.errors import BadInputError, DiskError, QalofError
from qalof.reading import exists, is_folder

#: What the system says of a disk that takes no more: full, over a quota or a size limit, or broken.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


#: What the system says of a place where this user cannot write, whatever room the disk has.
_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ELOOP, errno.ENOENT,
)  # fmt: skip

#: What is put round the name of a file or folder while it is made: ``.NAME.new.`` and eight characters.
_BESIDE = ".{}.new.12345678"


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what the system says against writing ``target`` into an error of ours; other errors pass.

    safetensors writes in Rust and hands the system's error number on in its text alone.

    Raises:
        DiskError: the disk takes no more.
        BadInputError: a place that cannot be written, such as a folder without permission, or below a file.
    """
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        if (ours := writing_error(error, target)) is None:
            raise
        raise ours from error


def writing_error(error: Exception, target: Path | str) -> QalofError | None:
    """Return the error for a user that corresponds to the system's error on writing ``target``; None for other
    errors.
    """
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number in DISK:
        return DiskError(str(target), os.strerror(number))
    unwritable = number in _PLACE or (type(error) is ValueError and "null byte" in str(error))
    if not unwritable:
        return None
    reason = str(error) if number is None else os.strerror(number)
    return BadInputError(f"{target} must be a place that can be written: {reason}; name another, or make it writable")


def check_writable(target: Path) -> None:
    """See whether a file or folder ``target`` can be made, or something be written in the folder that it is.

    Its missing folders are made within a hidden folder with a unique name, next to the first of them, and all are taken
    away again, so nothing is left, and processes that do the same at the same time do not meet.

    Raises:
        DiskError: the disk takes no more.
        BadInputError: a place that cannot be written, a link that leads nowhere, or a name that is too long.
    """
    with disk_errors(target):
        path = target.absolute()
        if is_folder(path):
            _try(path)
        missing = [path]
        while not exists(missing[-1].parent):
            missing.append(missing[-1].parent)
        _try(missing[-1].parent, [_BESIDE.format(path.name), *(each.name for each in missing[1:])])
        nowhere = next((each for each in missing if each.is_symlink() and not exists(each)), None)
    if nowhere is not None:
        raise BadInputError(f"{target} must be a place that can be written: the link {nowhere} leads nowhere; mend it")


def check_file(target: Path, what: str) -> None:
    """Check a file as :func:`check_writable` does; ``what`` names it in messages.

    Raises:
        BadInputError: a folder, or as there.
    """
    if is_folder(target):
        raise BadInputError(f"{what} must be a file: {target} is a folder; name a file in it, or another")
    check_writable(target)


def check_folder(target: Path, what: str) -> None:
    """Check a folder as :func:`check_writable` does; ``what`` names it in messages.

    Raises:
        BadInputError: a file, or as there.
    """
    if exists(target) and not is_folder(target):
        raise BadInputError(f"{what} must be a folder: {target} is a file; name another")
    check_writable(target)


def _try(folder: Path, names: Sequence[str] = ()) -> None:
    """Make folders ``names`` within a new folder in ``folder``, and take all away again."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".qalof.") as tried:
        for name in names:
            (Path(tried) / name).mkdir()
