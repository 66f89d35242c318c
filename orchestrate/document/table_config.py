"""The ``table`` section of a pipeline: rows, columns, and where each cell's number comes from.

A cell names a step and what of it: ``step/bitmap/metric``.  A column gives the pattern, with ``{key}`` for what a row
fills in, so most tables are a dozen lines::

    columns: [{name: Loss, of: "sp/{bits}/loss"}]
    rows: [{name: 4 bits, keys: {bits: w4}, reference: [1.054]}]

============  ========================================  =====================================================
step of       in the middle                             metric
============  ========================================  =====================================================
train,        a bitmap, written as in the step          the task's; a cost of :mod:`qalof.cost`
evaluate
train         ``training``                              ``loss``: cross entropy, mean of all widths;
                                                        ``objective``: the loss that is optimized; both means of
                                                        the last tenth of the steps
train         ``parameters``                            ``total``, ``trainable``, ``frozen``
profile       a bitmap                                  see :mod:`orchestrate.jobs.profile.job`
sensitivity   units: ``late`` (last third of the        ``METRIC_drop``: mean over the units
              blocks), ``rest``, or patterns with
              ``|`` between; ``A minus B``
sensitivity   units ``at`` a width as the step writes   ``mse``, ``mae``, ``rel``: mean over the units of their
(output       it: ``*.mlp.c_fc at w4``                  output errors
error)
search        ``start``, ``final``                      as of train; of the last step that greedy kept
search        ``trace``                                 ``tried``, ``kept``
attack        see :mod:`orchestrate.jobs.attack.cells`
============  ========================================  =====================================================

A column with several patterns holds their mean::

    columns: [{name: Average, of: ["{model}-boolq/{bits}/acc", "{model}-hellaswag/{bits}/acc"]}]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrate.config.base import BaseConfig
from qalof.errors import BadInputError
from qalof.laws import Finite, Law


class ColumnConfig(BaseConfig):
    """What a column's cells hold."""

    name: str
    """The heading of the column."""
    of: str | list[str] = Field(min_length=1)
    """The pattern of the cells; where there are several, a cell holds their mean."""
    independent: bool = True
    """Whether the patterns of a mean come from different examples, in which case their errors cancel in part."""
    comparable: bool = True
    """Whether a difference from the reference's number means anything."""


class RowConfig(BaseConfig):
    """A row: what fills the columns' patterns, and what the reference printed there."""

    name: str
    """The heading of the row."""
    keys: dict[str, str | Annotated[int, Law()] | Finite] = Field({})
    """The values that fill the columns' patterns, by name."""
    reference: list[Annotated[float, Law(off="null for none")] | None] | None = None
    """The published numbers, in the columns' order, with null where there is none; null where the row has none at all.
    """
    absent: dict[str, str] = Field({})
    """The columns in which this row has no cell, each with the reason."""


class TableConfig(BaseConfig):
    """A table of a reference, which the steps of a pipeline fill."""

    title: str
    """The heading of the table."""
    source: str
    """Where the reference prints the table."""
    columns: list[ColumnConfig] = Field(min_length=1)
    """The columns, from left to right."""
    rows: list[RowConfig] = Field(min_length=1)
    """The rows, from top to bottom."""
    notes: list[str] = Field([])
    """What a reader must know to compare the numbers."""


@dataclass(frozen=True)
class Place:
    """Where a cell's number is: a step's name, a part of it, and the metric."""

    step: str
    of: str
    metric: str

    def __str__(self) -> str:
        return f"{self.step}/{self.of}/{self.metric}"


def places_of(column: ColumnConfig, row: RowConfig) -> list[Place]:
    """Find where a cell's numbers are, one per pattern of the column; there are none where the row says so.

    Raises:
        BadInputError: the row lacks a key, or a path has another form.
    """
    if column.name in row.absent:
        return []
    patterns = [column.of] if isinstance(column.of, str) else column.of
    return [_place(pattern, column, row) for pattern in patterns]


def _place(pattern: str, column: ColumnConfig, row: RowConfig) -> Place:
    try:
        path = pattern.format_map(row.keys)
    except KeyError as error:
        raise BadInputError(
            f"table row {row.name!r} must have the key {error} that column {column.name!r} needs: it has "
            f"{sorted(row.keys)}"
        ) from None
    step, _, rest = path.partition("/")
    of, _, metric = rest.rpartition("/")
    if not (step and of and metric):
        raise BadInputError(f"a cell must read step/bitmap/metric: got {path!r} in column {column.name!r}")
    return Place(step, of, metric)
