"""Tables in Markdown, and numbers with their intervals in them."""

from __future__ import annotations

from collections.abc import Sequence


def three(values: Sequence[float], digits: int, signed: bool = False) -> str:
    """An estimate with its interval."""
    estimate, low, high = values
    sign = "+" if signed else ""
    return f"{estimate:{sign}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
