"""A superuser who may not pass over permissions, as others may not."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522
_PASSES_OVER = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Within the block permissions count for this thread, though it is the superuser's."""
    if os.geteuid() != 0:
        yield
        return
    system = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()

    def call(function: str) -> None:
        if getattr(system, function)(header, sets):
            raise OSError(ctypes.get_errno(), function)

    call("capget")
    before = sets[0]
    sets[0] = before & ~_PASSES_OVER
    call("capset")
    try:
        yield
    finally:
        sets[0] = before
        call("capset")
