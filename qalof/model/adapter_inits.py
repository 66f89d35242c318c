"""The names of the ways in which an adapter can begin; :mod:`qalof.model.initialization` computes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qalof.errors import BadInputError, nearest_hint

DRAWN: Mapping[str, bool | str] = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}
"""The inits that PEFT draws itself: the name here -> PEFT's ``init_lora_weights``."""

PISSA = re.compile(r"pissa(?:_niter_([1-9][0-9]?))?$")
"""The name of PiSSA; its group is the number of subspace iterations."""

_KNOWN = (*DRAWN, "loftq", "olora", "pissa", "pissa_niter_4")


def check_init(init: str, rank: int) -> None:
    """Refuse an init that does not exist, or that this rank cannot have.

    Raises:
        BadInputError: The init is refused; the message names those that exist.
    """
    if init not in _KNOWN and not PISSA.match(init):
        raise BadInputError(f"no adapter init {init!r}; {nearest_hint(init, _KNOWN)}")
    if init == "orthogonal" and rank % 2:
        raise BadInputError(f"init orthogonal needs an even rank: got {rank}; {rank + 1} would do")


def takes_from_weight(init: str) -> bool:
    """Return whether the initial product of the adapter is subtracted from the frozen weight."""
    return init == "olora" or bool(PISSA.match(init))
