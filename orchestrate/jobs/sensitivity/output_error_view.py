"""What ``sensitivity`` found with ``score: output_error``: its findings, table and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrate.document.blocks import Block, Plot, Statement, Table, cells
from orchestrate.document.formats import count_of, natural, three_digits, two_digits
from qalof.statistics import from_nullable
from search.scores.output_error import OutputError

DECADES = 3.0
"""How many powers of ten lie between a full color and none."""


@dataclass(frozen=True)
class OutputErrors:
    """The ``rows`` hold site, width and errors, from the least mean squared error on; ``examples`` counts the examples
    seen.
    """

    examples: int
    rows: Sequence[tuple[str, str, OutputError]]


def output_errors(result: Mapping[str, Any]) -> OutputErrors:
    """Read the findings of a result."""
    rows = [
        (str(row["unit"]), str(row["bits"]), OutputError(*(from_nullable(row[name]) for name in ("mse", "mae", "rel"))))
        for row in result["ranking"]
    ]
    return OutputErrors(int(result["examples"]), rows)


def error_blocks(found: OutputErrors, prefix: str) -> list[Block]:
    """Draw the errors by site and width, and make the table, from the least error to the largest."""
    rows = [
        cells(site, bits, *map(three_digits, (error.mse, error.mae, error.rel))) for site, bits, error in found.rows
    ]
    note = (
        "Inputs are those of the full-precision model without adapters; the site alone is rounded. Across sites an "
        "output error says little about what rounding a site costs in quality."
    )
    caption = f"Output errors, least first, on {count_of(found.examples, 'training example')}"
    return [*_picture(found, prefix), Table(caption, ["Site", "Rounded to", "MSE", "MAE", "Relative MSE"], rows, note)]


def _picture(found: OutputErrors, prefix: str) -> list[Block]:
    from orchestrate.document.heat import heat_map, sites_by_choice

    moved: dict[str, dict[str, float]] = {}
    for site, bits, error in sorted(found.rows, key=lambda row: natural(row[0])):
        moved.setdefault(site, {})[bits] = error.rel
    if len(moved) < 2 or not any(math.isfinite(value) for row in moved.values() for value in row.values()):
        return []
    titles = {bits: f"rounded to {bits}" for _, bits, _ in found.rows}
    said = " ".join(one.text for one in error_statements(found))
    svg = heat_map(sites_by_choice(moved, two_digits, titles), "Relative MSE", f"{prefix}-heat", said, decades=DECADES)
    caption = "Relative squared error of each site's output, by block and kind of layer"
    return [Plot(svg, f"{caption}; colors go by orders of magnitude", "sensitivity")]


def error_statements(found: OutputErrors) -> list[Statement]:
    """Name the sites with the least and the largest error at each width."""
    statements = []
    for bits in dict.fromkeys(bits for _, bits, _ in found.rows):
        at = [(site, error) for site, width, error in found.rows if width == bits]
        (first, least), (last, most) = at[0], at[-1]
        ends = f"least at {first} (MSE {three_digits(least.mse)}) and most at {last} ({three_digits(most.mse)})"
        text = f"Rounded to {bits}, outputs move {ends}"
        statements.append(Statement(f"{text}, over {count_of(len(at), 'site')}."))
    return statements
