"""The losses of a training run on disk, in which no kill makes a gap.

``losses.jsonl`` is the driver's; it is written as the workers' losses come in.  Those on their way when the driver is
killed never arrive, while workers may train on for a while and leave checkpoints.  So before each checkpoint rank 0
writes the losses since the one before into a separate file next to it, and whoever goes on from that checkpoint adds
what the record lacks.  (Losses in the checkpoint itself were rejected: earlier checkpoints are
removed, and with them would go the losses between two that are left.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from qalof.files import read_whole_lines, write_text
from qalof.training.loop import StepMetrics

"""The file has one line per step: step, learning_rate, losses (cross entropy by bitmap), objective (the optimized
loss).

A resumed run repeats steps; the last line of a step counts.
"""
SHARE = 10
"""The last tenth of the steps stands for the end of a training: a single step's loss is that of its batch."""
_START = b'{"step"'


def lines_of(posts: Sequence[StepMetrics]) -> list[str]:
    """Write one line of JSON per step, as in :data:`LOSSES`."""
    return [json.dumps(asdict(post)) for post in posts]


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a record as they stand; there are none where there is no file.

    A piece of a line that a kill left is dropped, at the end or where a whole line follows right behind it.

    Raises:
        ValueError: another line is not JSON.
    """
    for line in read_whole_lines(path):
        yield json.loads(line[max(0, line.rfind(_START)) :])


def by_step(path: Path) -> dict[int, dict[str, Any]]:
    """Return the entry of each step that counts, in order."""
    found = {int(entry["step"]): entry for entry in entries(path)}
    return {step: found[step] for step in sorted(found)}


def training_loss(path: Path, steps: int) -> dict[str, float | int | None]:
    """Say how a training of ``steps`` steps ended: means over the last tenth of them, in nats per label row.

    ``cross_entropy`` is the mean over all bitmaps that ran; ``objective`` that of the optimized loss, or None where it
    is not on record; ``over`` says how many steps the means are of.

    Raises:
        ValueError: no step is on record.
    """
    last = list(by_step(path).values())[-max(1, steps // SHARE) :]
    if not last:
        raise ValueError(f"{path} must hold a step: it holds none")
    objectives = [entry.get("objective") for entry in last]
    known = [float(value) for value in objectives if value is not None]
    return {
        "cross_entropy": fmean(fmean(entry["losses"].values()) for entry in last),
        "objective": fmean(known) if len(known) == len(last) else None,
        "over": len(last),
    }


def keep_losses(storage: Path, posts: Sequence[StepMetrics]) -> None:
    """Write the losses since the last checkpoint next to the checkpoints; call this before the next one is saved.

    There is one file per checkpoint, whole or not at all: a worker that outlives its controller may write the same one.
    """
    write_text(storage / f"losses-{posts[-1].step + 1:06d}.jsonl", "".join(f"{line}\n" for line in lines_of(posts)))


def unrecorded(record: Path, storage: Path, before: int) -> list[StepMetrics]:
    """Find the steps before a checkpoint that a record of losses lacks, each once and in order.

    Args:
        record: the driver's file.
        storage: the folder into which :func:`keep_losses` wrote.
        before: the checkpoint's number of steps; later steps are trained again.
    """
    known = {int(entry["step"]) for entry in entries(record)}
    kept = {int(entry["step"]): entry for path in sorted(storage.glob("losses-*.jsonl")) for entry in entries(path)}
    return [StepMetrics(**kept[step]) for step in sorted(kept) if step < before and step not in known]
