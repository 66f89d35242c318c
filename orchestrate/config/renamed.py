"""Commands and settings that once had another name; whoever writes the old name reads the new one in the error."""

from __future__ import annotations

from collections.abc import Iterable

from qalof.errors import nearest_hint

RENAMED = {"baselines": "ptq", "footprint": "profile"}
"""The commands, by their old names."""
RENAMED_KEYS = {"lowered": "reduced"}
"""The keys of configs, by their old names."""


def command_hint(command: str, known: Iterable[str]) -> str:
    """Say what to write in place of a command that does not exist."""
    if command in RENAMED:
        return f"{command} is named {RENAMED[command]} now"
    return nearest_hint(command, known)


def key_hint(key: str, known: Iterable[str]) -> str:
    """Say what to write in place of a key that does not exist."""
    names = list(known)
    if RENAMED_KEYS.get(key) in names:
        return f"it is named {RENAMED_KEYS[key]} now"
    return nearest_hint(key, names)
