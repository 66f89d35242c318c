"""Generated data in a report."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import Statement, Table, cells
from orchestrate.jobs.generate_data.findings import Generated


def generated_table(found: Generated) -> Table:
    """Show what was written."""
    row = cells(
        f"{found.texts:,}",
        f"{found.tokens:,}",
        formats.mean_count(found.tokens / found.texts),
        f"{found.ended:,} ({formats.percent(100 * found.ended / found.texts, 0)})",
        f"{found.empty:,}",
    )
    header = [formats.capital(found.kind), "Tokens", "Tokens each", "To their own end", "Empty"]
    return Table(f"Generated {found.kind}, begun from {found.start.replace('_', ' ')}", header, [row])


def generated_statement(found: Generated) -> Statement:
    """State how much was written."""
    ended = f"{found.ended:,} to their own end" + (f", {found.empty:,} of them empty" if found.empty else "")
    mean = f"{formats.mean_count(found.tokens / found.texts)} tokens on average ({found.tokens:,} tokens)"
    return Statement(f"The model wrote {found.texts:,} {found.kind} of {mean}, {ended}.")
