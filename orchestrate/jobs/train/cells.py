"""Cells of a table from a ``train`` step."""

from __future__ import annotations

from orchestrate.config.train import TrainConfig
from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.train.losses import training_loss
from orchestrate.runs.layout import CHECKPOINT, LOSSES
from qalof.checkpoint.opening import load

PARAMETERS = ("total", "trainable", "frozen")
OF_TRAINING = ("loss", "objective")


def training_loss_cell(place: Place, step: PlannedStep) -> Cell:
    """Read a loss of the end of training."""
    assert isinstance(step.config, TrainConfig)
    found = training_loss(step.folder / LOSSES, step.config.training.steps)
    value = found[{"loss": "cross_entropy"}.get(place.metric, place.metric)]
    return Cell.none("trained before this loss was kept; train again") if value is None else Cell.sure(value)


def parameters_cell(place: Place, step: PlannedStep) -> Cell:
    """Read how many parameters the trained model has."""
    model = load(step.folder / CHECKPOINT)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for group in model.trainable_groups().values() for p in group.values())
    return Cell.sure({"total": total, "trainable": trainable, "frozen": total - trainable}[place.metric])
