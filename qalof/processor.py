"""Which numbers a processor multiplies fast.

A CPU multiplies bfloat16 and int8 fast only with instructions for them.  Without, oneDNN computes the same numbers by
scalar code, tens of times slower (docs/experiments.md, "A training step of the real model").  So whoever has a choice
asks here first.

The answer depends on the processor alone. Timing a product was rejected: a choice that hangs on the load of the machine
would change the last bits of a result from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_BF16 = ("avx512_bf16", "amx_bf16")
_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")


def multiplies_bf16(device: str = "cpu") -> bool:
    """Return whether a type of device such as ``cpu`` multiplies bfloat16 faster than float32."""
    return _has_one_of(_BF16, device)


def multiplies_int8(device: str = "cpu") -> bool:
    """Return whether a type of device such as ``cpu`` multiplies int8 faster than float32."""
    return _has_one_of(_INT8, device)


def capabilities() -> Mapping[str, Any]:
    """Return what torch knows of this processor: its ``architecture``, and whether it has each extension, by name."""
    return torch.cpu.get_capabilities()


def _has_one_of(names: tuple[str, ...], device: str) -> bool:
    """Say whether an x86 processor has one of them; every other processor and device is believed to have what it is
    used for.
    """
    found = capabilities()
    return device != "cpu" or found.get("architecture") != "x86_64" or any(found.get(name) for name in names)
