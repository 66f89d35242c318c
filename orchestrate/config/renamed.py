"""Commands that had another name once, so that whoever writes the old one is told the new one."""

from __future__ import annotations

from collections.abc import Iterable

from qalof.errors import nearest_hint

RENAMED = {"baselines": "ptq", "footprint": "profile"}


def command_hint(command: str, known: Iterable[str]) -> str:
    """What to write in place of a command that does not exist."""
    if command in RENAMED:
        return f"{command} is named {RENAMED[command]} now"
    return nearest_hint(command, known)
