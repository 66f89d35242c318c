"""Makes the core's objects of configs.

The driver builds once to find bad input before any worker starts; every worker and actor then builds its own from the
same plain config, so nothing large is ever sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from orchestrate.config.base import BitmapSpec
from orchestrate.config.build_objective import make_objective, objective_widths, parse_bitmaps
from orchestrate.config.objective import CptObjective, ObjectiveConfig
from orchestrate.config.sections import AdaptersConfig
from orchestrate.config.train import TrainConfig, TrainingConfig
from qalof.bitmap import FULL_PRECISION, check_width
from qalof.errors import BadInputError
from qalof.model import positions
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import SwitchableModel, build
from qalof.site import Site
from qalof.tasks.base import Task
from qalof.tasks.factory import make_task
from qalof.training.loop import Trainer, TrainSettings, World
from qalof.training.objectives import Objective

__all__ = [
    "TrainComponents",
    "adapter_specs",
    "build_training",
    "check_length",
    "make_objective",
    "parse_bitmaps",
    "trained_widths",
]


@dataclass(frozen=True)
class TrainComponents:
    """What a training run is made of."""

    model: SwitchableModel
    task: Task
    objective: Objective

    def trainer(self, settings: TrainSettings, device: torch.device | str, world: World | None = None) -> Trainer:
        """Make a trainer of these on ``device``; ``world`` holds the other workers, and is None for a worker alone."""
        self.model.to(device)
        return Trainer(self.model, self.task, self.objective, settings, world)


def build_training(config: TrainingConfig) -> TrainComponents:
    """Build model, task and objective of a training run.

    Raises:
        BadInputError: something in the config cannot be had or does not fit the model.
    """
    task = make_task(config.task.name, config.task.settings, config.model.source)
    base = BaseModel(config.model.source, task.head, config.model.seed, task.labels)
    pretrained = base.load()
    training, switch = config.training, config.switch
    if training.full_finetune:
        switch = replace(switch, full_finetune=True)
    sites = switch.sites_of(pretrained)
    specs = adapter_specs(config.adapters, config.objective, sites)
    check_length(task, pretrained)
    model = build(base, specs, switch, seed=config.training.seed, pretrained=pretrained)
    objective = make_objective(config.objective, model.sites, training.steps, training.seed)
    return TrainComponents(model, task, objective)


def check_length(task: Task, model: Any) -> None:
    """Check that no sequence of ``task`` is longer than the transformers model ``model`` has positions for.

    Raises:
        BadInputError: ``max_length`` is above the model's positions.
    """
    wanted = getattr(task.settings, "max_length", None)  # type: ignore[attr-defined]
    if wanted is not None:
        positions.check_length(model, wanted, f"task {task.name}: max_length")


def trained_widths(model: SwitchableModel, config: TrainConfig) -> list[BitmapSpec]:
    """Return the widths to score after training, from high to low: full precision and all that were trained."""
    return [FULL_PRECISION, *(spec for spec in trained_bitmaps(config, model.sites) if spec != FULL_PRECISION)]


def trained_bitmaps(config: TrainConfig, sites: Sequence[Site]) -> list[BitmapSpec]:
    """Return the bitmaps of the widths that are trained, from high to low: those of CPT, of the adapters or of the
    objective; full precision is one of them only where it is trained.
    """
    if isinstance(config.objective, CptObjective):
        return list(config.objective.trained)
    return [*sorted(set(config.adapters.widths or objective_widths(config.objective, sites)), reverse=True)]


def adapter_specs(config: AdaptersConfig, objective: ObjectiveConfig, sites: Sequence[Site]) -> dict[str, AdapterSpec]:
    """Specify one adapter per trained width, named by it; one shared adapter for CPT; none where ``widths`` is
    empty.
    """
    if config.widths == []:
        return {}
    beginning = (config.dropout, config.rslora, config.init)
    if isinstance(objective, CptObjective):
        return {SHARED: AdapterSpec(config.rank, config.alpha, *beginning)}
    widths = config.widths or objective_widths(objective, sites)
    for width in {*config.rank_by_width, *config.alpha_by_width} - set(widths):
        raise BadInputError(f"adapters.rank_by_width and alpha_by_width must name trained widths {widths}: got {width}")
    return {
        str(check_width(width, "adapters.widths")): AdapterSpec(
            config.rank_by_width.get(width, config.rank), config.alpha_by_width.get(width, config.alpha), *beginning
        )
        for width in widths
    }
