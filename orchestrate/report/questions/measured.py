"""What the answers read: the steps of the runs with their sections, and what others published."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import yaml

from orchestrate.config.shipped import CONFIGS
from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Commands, Plot, Section, Statement, Table
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import TableConfig

Found = tuple[bool, list[Statement], list[Block]]
"""Whether a question is answered at all, the sentences, and the tables and figures."""


@dataclass(frozen=True)
class Measured:
    """A step and its section in the report."""

    record: Record
    step: Step
    section: Section
    statements: Sequence[Statement]
    """The sentences of the summary on this step."""

    @property
    def objective(self) -> str:
        """The training objective; empty for a step that does not train."""
        named = self.step.config.get("objective") if self.step.command == "train" else None
        return str(named.get("name", "")) if isinstance(named, dict) else ""

    def plots(self, *names: str) -> list[Block]:
        """Return the section's figures whose names begin with one of ``names``."""
        return [one for one in self.section.blocks if isinstance(one, Plot) and one.name.startswith(names)]

    def said(self, most: int) -> list[Statement]:
        """Return the first sentences of the summary on this step, with its name, and none of those that only limit
        them.
        """
        sure = [one for one in self.statements if not one.caution]
        return [Statement(f"{self.step.name}: {one.text}") for one in sure[:most]]


def made_by(found: Sequence[Measured]) -> list[Block]:
    """Return the commands that make what was just shown."""
    lines = list(dict.fromkeys(one.section.repeat for one in found if one.section.repeat))
    return [Commands("Made by", lines)] if lines else []


def published(filled: Collection[str], *names: str) -> list[Block]:
    """Show the numbers that a reference printed, with the command that makes ours.

    Args:
        filled: the captions of the tables that the runs have filled, which show these numbers already.
        names: names of shipped configs, such as ``s1/cpt``.
    """
    blocks: list[Block] = []
    for name in names:
        with CONFIGS.joinpath(f"{name}.yaml").open(encoding="utf-8") as file:
            table = TableConfig.model_validate(yaml.safe_load(file)["table"])
        if caption_of(table.title, table.source) not in filled:
            blocks += [_reference(table), Commands("Makes ours", [f"qalof run --config configs/{name}.yaml"])]
    return blocks


def caption_of(title: str, source: str) -> str:
    """Return the caption of a reference's table."""
    return f"{title} ({source})"


def _reference(table: TableConfig) -> Table:
    printed = [row for row in table.rows if row.reference is not None]
    given = [
        index
        for index in range(len(table.columns))
        if any(row.reference is not None and row.reference[index] is not None for row in printed)
    ]
    rows = []
    for row in printed:
        numbers = [] if row.reference is None else [row.reference[index] for index in given]
        texts = [formats.DASH if number is None else formats.as_given(number) for number in numbers]
        rows.append([Cell(row.name), *map(Cell, texts)])
    return Table(
        f"As published: {caption_of(table.title, table.source)}",
        ["", *(table.columns[index].name for index in given)],
        rows,
        "The reference's numbers, without intervals; these runs have not made this table.",
    )


def not_run(text: str, *commands: str) -> Found:
    """Say that a question was not run, and what would answer it."""
    return False, [Statement(text, caution=True)], [Commands("Would answer it", commands)]
