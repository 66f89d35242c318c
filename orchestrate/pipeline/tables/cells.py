"""Reading one cell of a table from the run directory of its step; :mod:`orchestrate.document.table_config` lists what
there is.
"""

from __future__ import annotations

from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.registry import JOBS
from qalof.errors import BadInputError


def read_cell(place: Place, step: PlannedStep) -> Cell:
    """Read the number at ``place`` in the finished run of ``step``.

    Raises:
        BadInputError: a file is missing or damaged, or does not hold the number.
    """
    try:
        found: Cell = JOBS[step.command].cell(place, step)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInputError(
            f"{step.folder} must hold {place.of}/{place.metric} for the table: {type(error).__name__}: {error}; "
            "delete it and run the step again"
        ) from None
    return found
