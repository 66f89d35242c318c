"""What each step of a pipeline would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrate.config.loader import read_yaml, to_plain, validate
from orchestrate.config.sections import JobConfig
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import Estimate
from orchestrate.document.planned_step import PlannedStep, owner_of
from orchestrate.jobs.registry import JOBS
from orchestrate.runs.layout import CONFIG
from qalof.bitmap_file import file_of, names_file
from qalof.quantization.options import HIGHEST_BITS


def estimate_alone(command: str, config: JobConfig, output: Path) -> Estimate | None:
    """Estimate what a single run would cost; None where the config that trained its checkpoint is not beside it.

    Raises:
        BadInputError: the model's sizes cannot be had.
    """
    trained = config if isinstance(config, TrainConfig) else None
    checkpoint = getattr(config, "checkpoint", None)
    if trained is None and checkpoint is not None:
        beside = Path(checkpoint).parent / CONFIG
        maker = read_yaml(beside) if beside.is_file() else {}
        trained = validate(TrainConfig, maker, str(beside)) if maker.get("command") == "train" else None
    found: Estimate | None = JOBS[command].estimate(PlannedStep(output.name, command, config, output), trained)
    return found


def foreseen(step: PlannedStep, steps: Sequence[PlannedStep]) -> PlannedStep:
    """Return ``step`` with another bitmap in place of every one whose file an earlier step has yet to write.

    Different bitmaps stay different, and any costs as many passes as another.
    """
    if not step.waits:
        return step
    folders, found = [other.folder for other in steps], dict[str, str]()

    def known(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: known(item) for key, item in value.items()}
        if isinstance(value, list):
            return [known(item) for item in value]
        to_come = isinstance(value, str) and names_file(value) and not file_of(value).exists()
        if to_come and any(file_of(value).is_relative_to(folder) for folder in folders):
            rows, column = divmod(len(found), HIGHEST_BITS - 1)
            return found.setdefault(value, f"w8a{HIGHEST_BITS - column}kv{HIGHEST_BITS - rows}")
        return value

    config = validate(JOBS[step.command].config, known(to_plain(step.config)), f"step {step.name}")
    return replace(step, config=config)


def estimate(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """Estimate what a step would cost; None where it cannot be known, as on a checkpoint that no step trains."""
    step = foreseen(step, steps)
    owner = owner_of(step, steps)
    trained = foreseen(owner, steps).config if owner is not None else None
    assert trained is None or isinstance(trained, TrainConfig)
    found: Estimate | None = JOBS[step.command].estimate(step, trained)
    return found
