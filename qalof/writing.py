"""What the system says against writing, as an error of ours."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from qalof.errors import BadInputError, DiskError, QalofError

#: What the system says of a disk that takes no more: full, over a quota or a size limit, read-only, or broken.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


#: What the system says of a place where this user cannot write, whatever room the disk has.
_PLACE = (
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT
)  # fmt: skip


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
    """What the system's error over writing ``target`` means to a user; None for any other error."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number in DISK:
        return DiskError(str(target), os.strerror(number))
    unwritable = number in _PLACE or (type(error) is ValueError and "null byte" in str(error))
    if not unwritable:
        return None
    reason = str(error) if number is None else os.strerror(number)
    return BadInputError(f"{target} must be a place that can be written: {reason}; name another, or make it writable")
