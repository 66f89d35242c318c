"""What ``sensitivity`` found with tables of scores: its findings, heat maps, sentences, and its sheet in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Plot, Statement, Table, cells
from orchestrate.document.formats import count_of
from orchestrate.document.sheet import Sheet
from orchestrate.runs.layout import SCORE_TABLE
from search.scores.table import ScoreTable

DECADES = 3.0
"""How many powers of ten lie between a full shade and none: damages differ by orders of magnitude, not by shares."""
SHADES = " ░▒▓█"
"""The shades of a terminal, from no damage to the most."""
ROLE = {"weight": "weights", "activation": "inputs", "kv": "keys and values"}


@dataclass(frozen=True)
class Correlation:
    """How alike two scores rank the sites at one choice; ``spearman`` is None where nothing can be said."""

    first: str
    second: str
    role: str
    bits: str
    spearman: float | None


@dataclass(frozen=True)
class TableScores:
    """The ``tables`` in the order in which they were asked for, and the ``correlations`` of each pair."""

    tables: Sequence[ScoreTable]
    correlations: Sequence[Correlation]


def table_findings(folder: Path, result: Mapping[str, Any]) -> TableScores:
    """Read the tables of a run directory.

    Raises:
        BadInputError: a table is missing or damaged.
    """
    tables = [ScoreTable.load(folder / SCORE_TABLE.format(score=name)) for name in result["score"]]
    return TableScores(tables, [Correlation(**row) for row in result["correlations"]])


def heat(value: float, most: float) -> float:
    """Return how strongly a damage is shaded, from 0 to 1: by its order of magnitude against the largest."""
    if value <= 0 or most <= 0:
        return 0.0
    return max(0.0, 1.0 + math.log10(value / most) / DECADES)


def table_blocks(found: TableScores, prefix: str) -> list[Block]:
    """Make a picture and a table of sites by choices for each score and role, and the correlations."""
    blocks: list[Block] = []
    for number, table in enumerate(found.tables):
        for role in table.values:
            blocks += _picture(table, role, f"{prefix}-heat{number}-{role}")
            blocks.append(_heat_map(table, role))
    if found.correlations:
        rows = [
            cells(f"{one.first}, {one.second}", one.role, one.bits, _rho(one.spearman)) for one in found.correlations
        ]
        note = "Spearman's rank correlation across sites: 1 where two scores rank them alike, 0 where they do not."
        blocks.append(Table("How alike the scores rank the sites", ["Scores", "Role", "Choice", "Rho"], rows, note))
    return blocks


def _picture(table: ScoreTable, role: str, identifier: str) -> list[Block]:
    from orchestrate.document.heat import heat_map, sites_by_choice

    sites = table.values[role]
    if len(sites) < 2:
        return []
    unit = f" ({table.unit})" if table.unit else ""
    titles = {choice: f"{choice} bits" for choice in table.choices(role)}
    ordered = {site: sites[site] for site in sorted(sites, key=formats.natural)}
    panels = sites_by_choice(ordered, formats.two_digits, titles)
    said = "; ".join(one.text for one in _most_damaged(table, role))
    svg = heat_map(panels, f"{table.score}{unit}", identifier, said, decades=DECADES)
    caption = f"{table.score}{unit} of each site alone, {ROLE[role]} rounded, by block and kind of layer"
    return [Plot(svg, f"{caption}; colors go by orders of magnitude", f"sensitivity-{table.score}-{role}")]


def _heat_map(table: ScoreTable, role: str) -> Table:
    choices, sites = table.choices(role), table.values[role]
    most = max(value for by_choice in sites.values() for value in by_choice.values())
    rows = [
        [Cell(site), *(Cell(formats.two_digits(by_choice[c]), heat=heat(by_choice[c], most)) for c in choices)]
        for site, by_choice in sites.items()
    ]
    unit = f" in {table.unit}" if table.unit else ""
    note = (
        f"A shade fades to nothing over {DECADES:.0f} powers of ten. Each site alone is rounded, by its {ROLE[role]}."
    )
    return Table(f"{table.score}{unit}, {ROLE[role]}: sites by choice", ["Site", *choices], rows, note, look="heat")


def table_statements(found: TableScores) -> list[Statement]:
    """Say where each score sees the most damage, and how alike scores rank the sites."""
    said = []
    for table in found.tables:
        for role in table.values:
            said += _most_damaged(table, role)
    for one in found.correlations:
        if one.spearman is not None:
            text = f"{one.first} and {one.second} rank the sites with a correlation of {_rho(one.spearman)}"
            said.append(Statement(f"{text} ({ROLE[one.role]} at {one.bits} bits)."))
    return said


def _most_damaged(table: ScoreTable, role: str) -> list[Statement]:
    sites, lowest = table.values[role], table.choices(role)[0]
    ranked = sorted(sites, key=lambda site: -sites[site][lowest])
    total = sum(sites[site][lowest] for site in sites)
    top = ranked[0]
    share = f", {100 * sites[top][lowest] / total:.0f} % of all" if total else ""
    text = f"By {table.score}, {ROLE[role]} at {lowest} bits do the most damage at {top}{share}"
    return [Statement(f"{text}, and the least at {ranked[-1]}, of {count_of(len(sites), 'site')}.")]


def table_sheets(result: Mapping[str, Any], folder: Path) -> list[Sheet]:
    """Show each table as a heat map of 80 columns, and the correlations."""
    found = table_findings(folder, result)
    sheets = []
    for table in found.tables:
        whole = str(folder / SCORE_TABLE.format(score=table.score))
        for role, sites in table.values.items():
            choices = table.choices(role)
            most = max(value for by_choice in sites.values() for value in by_choice.values())
            rows = [[site, *(_shaded(by_choice[c], most) for c in choices)] for site, by_choice in sites.items()]
            unit = f" ({table.unit})" if table.unit else ""
            sheets.append(Sheet(["site", *choices], rows, title=f"{table.score}{unit}, {ROLE[role]}", whole=whole))
    if found.correlations:
        rows = [[f"{one.first}, {one.second}", one.role, one.bits, _rho(one.spearman)] for one in found.correlations]
        sheets.append(Sheet(["scores", "role", "at", "rank correlation"], rows))
    return sheets


def _shaded(value: float, most: float) -> str:
    shade = SHADES[round(heat(value, most) * (len(SHADES) - 1))]
    return f"{shade}{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def _rho(value: float | None) -> str:
    return formats.DASH if value is None else formats.signed(value, 2)
