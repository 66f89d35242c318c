"""Reading one cell of a table from the run directory of its step; :mod:`orchestrate.document.table_config` lists what
there is.

A drop is the mean over the chosen units of what lowering each alone loses; its interval is a bootstrap over examples
of the per-example means, since every unit was scored on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.attack.cells import attack_cell
from orchestrate.jobs.search.cells import search_cell
from orchestrate.jobs.sensitivity.cells import drop_cell
from orchestrate.jobs.shared.cells import score_cell
from orchestrate.jobs.train.cells import parameters_cell, training_loss_cell
from qalof.errors import BadInputError


def read_cell(place: Place, step: PlannedStep) -> Cell:
    """The number at ``place`` in the finished run of ``step``.

    Raises:
        BadInputError: a file is missing or damaged, or does not hold it.
    """
    try:
        return _reader(place, step)(place, step)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInputError(
            f"{step.folder} must hold {place.of}/{place.metric} for the table: {type(error).__name__}: {error}; "
            "delete it and run the step again"
        ) from None


def _reader(place: Place, step: PlannedStep) -> Callable[[Place, PlannedStep], Cell]:
    if step.command == "train" and place.of in _OF_TRAINING:
        return _OF_TRAINING[place.of]
    return _READERS.get(step.command, score_cell)


_OF_TRAINING: Mapping[str, Callable[[Place, PlannedStep], Cell]] = {
    "training": training_loss_cell,
    "parameters": parameters_cell,
}

_READERS: Mapping[str, Callable[[Place, PlannedStep], Cell]] = {
    "sensitivity": drop_cell,
    "search": search_cell,
    "attack": attack_cell,
}
