"""How a split of a data set is named: by its name, or by its name and how many of its first examples are taken."""

from __future__ import annotations

import re

from qalof.errors import BadInputError

_SLICED = re.compile(r"([\w.-]+)(?:\[:(\d+)\])?$")


def sliced(split: str) -> tuple[str, int | None]:
    """Read ``test[:512]`` as (``test``, 512).

    Raises:
        BadInputError: The form is another one.
    """
    match = _SLICED.match(split)
    if match is None:
        raise BadInputError(f"a split must read like test or test[:512]: got {split!r}")
    return match[1], int(match[2]) if match[2] else None
