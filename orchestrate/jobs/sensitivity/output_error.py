"""``sensitivity`` with ``score: output_error``: how far each site's output moves when the site alone is rounded (S2).

An item of work is a batch of training examples; every batch gives sums, which are added up in the order of the batches.
So the numbers are the same for any number of workers.  ``sensitivity.json`` holds all of them, and greedy search takes
it as its order (``strategy_options.sensitivity``).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap import FULL_PRECISION
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.files import write_json
from qalof.layer_bits import LayerBits
from qalof.post_training.gptq import calibration_batches
from search.scores.output_error import SENSITIVITY_JSON, Sums, added, error_sums, to_json

EXAMPLES = 64
"""How many training examples' inputs are seen unless ``limit`` says otherwise."""
BATCH = 8
"""How many examples a batch has; this is a constant, since sums in another order end in other last bits."""


@dataclass(frozen=True)
class ErrorPlan:
    """What is measured."""

    checkpoint: OpenCheckpoint
    """The checkpoint whose sites are rounded."""
    names: dict[LayerBits, str]
    """The layer bits to round to, as the config writes them."""
    examples: int
    """How many training examples are seen."""


class ErrorActor:
    """Holds a checkpoint's model and the batches of inputs."""

    def __init__(self, plan: ErrorPlan, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._model, self._widths = plan.checkpoint.model, list(plan.names)
        self._model.to(device)
        self._batches = calibration_batches(plan.checkpoint.task, plan.examples, batch_size=BATCH)

    def do(self, index: int) -> Sums:
        """Compute the sums of one batch."""
        device = self._model.device
        batch = {name: tensor.to(device) for name, tensor in self._batches[index].items()}
        return error_sums(self._model, batch, self._widths)


def plan_of(config: SensitivityConfig, checkpoint: OpenCheckpoint) -> ErrorPlan:
    """Find what is to be measured.

    Raises:
        BadInputError: layer bits round nothing, or are named twice.
    """
    names: dict[LayerBits, str] = {}
    for spec in config.reduced:
        bits = LayerBits.parse(spec)
        if bits in names or bits == LayerBits.of(FULL_PRECISION):
            raise BadInputError(f"reduced must hold different widths below {FULL_PRECISION}: got {config.reduced}")
        names[bits] = str(spec)
    found = len(checkpoint.task.train_features())
    return ErrorPlan(checkpoint, names, min(config.limit or EXAMPLES, found))


def output_errors(config: SensitivityConfig, plan: ErrorPlan, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Measure all sites, and return rows from the least to the largest mean squared error."""
    count = -(-plan.examples // BATCH)
    workers = config.workers
    arguments = (plan, threads_of(workers), workers.device)
    pool = pool_of(ErrorActor, workers, *arguments, size=min(workers.count, count))
    with closing(pool), progress_bar("output errors", count) as progress:
        sums = added(pool.map(list(range(count)), lambda *_: progress.advance()))
    errors = to_json(sums, plan.names)
    write_json(directory.path / SENSITIVITY_JSON, errors)
    run.artifact(directory.path / SENSITIVITY_JSON)
    rows: list[dict[str, Any]] = [
        {"unit": site, "bits": bits, **each} for site, by_width in errors.items() for bits, each in by_width.items()
    ]
    for bits in plan.names.values():
        at = [row["rel"] for row in rows if row["bits"] == bits]
        run.log_metrics({f"output_error.rel.{bits}": sum(at) / len(at)})
    rows.sort(key=lambda row: float(row["mse"]))
    return {
        "score": config.score,
        "examples": plan.examples,
        "ranking": rows,
        "file": str(Path(directory.path) / SENSITIVITY_JSON),
    }
