"""What is done to the pretrained model: fine-tuning by each method, scores, sensitivity, search, speed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import qalof
import search
from qalof import build
from qalof.bitmap import Bitmap
from qalof.checkpoint.trainer import load_checkpoint, save_checkpoint
from qalof.cost import average_bits
from qalof.evaluation.result import Evaluation
from qalof.files import read_json, write_json
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import SwitchableModel
from qalof.statistics import paired_difference
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import CyclicPrecisionTraining, Distillation, Objective, SwitchablePrecision
from qalof.training.objectives.precision_schedule import CyclicPrecision
from study.clock import Clock
from study.data import PreparedSpanTask
from study.scales import Scale

METHODS = ("full_precision", "static8", "spnet", "cascade", "cpt")
WIDTHS = (32, 8, 7, 6, 5, 4, 3)
KEEP_EVERY = 100


def objective(method: str, model: SwitchableModel, steps: int) -> Objective:
    """S1's set-ups: static at 8 bits, SP at 8 and 4, CPT from 4 to 8 in 32 cycles; and plain LoRA at 32."""
    if method == "cpt":
        return CyclicPrecisionTraining(model.sites, CyclicPrecision(4, 8, min(32, steps), steps))
    widths = {"full_precision": [32], "static8": [8], "spnet": [8, 4], "cascade": [8, 4]}[method]
    bitmaps = [Bitmap.uniform(model.site_names, bits) for bits in widths]
    return SwitchablePrecision(bitmaps, model.sites, Distillation() if method == "cascade" else None)


def new_model(method: str, base: Path, task: PreparedSpanTask) -> SwitchableModel:
    """Rank 8 and alpha 16 for each width, or once where widths share an adapter."""
    names = {"full_precision": ["32"], "static8": ["8"], "cpt": [SHARED]}.get(method, ["8", "4"])
    return build(BaseModel(str(base), task.head), {name: AdapterSpec(8, 16) for name in names}, seed=0)


def fine_tune(
    method: str, base: Path, place: Path, task: PreparedSpanTask, scale: Scale, device: torch.device, clock: Clock
) -> dict[str, Any] | None:
    """Train until done or out of time; a checkpoint every :data:`KEEP_EVERY` steps and at the end of the time."""
    model = new_model(method, base, task).to(device)
    settings = TrainSettings(
        steps=scale.steps, batch_size=scale.batch, micro_batch_size=scale.micro_batch,
        learning_rate=2e-3 if method == "cpt" else scale.learning_rate,
    )  # fmt: skip
    trainer = Trainer(model, task, objective(method, model, scale.steps), settings)
    checkpoint, progress = place / "checkpoint", place / "progress.json"
    seconds = 0.0
    if checkpoint.exists():
        load_checkpoint(trainer, checkpoint)
        seconds = read_json(progress, "progress")["seconds"]
    began, losses = time.monotonic(), {}
    while trainer.step < scale.steps and not clock.out:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = trainer.train_step().losses
        if trainer.step % KEEP_EVERY == 0:
            print(f"{method} {trainer.step}/{scale.steps}  {losses}", file=sys.stderr)
    seconds += time.monotonic() - began
    save_checkpoint(trainer, checkpoint, {})
    write_json(progress, {"seconds": seconds})
    if trainer.step < scale.steps:
        return None
    return {"losses": losses, "seconds": round(seconds, 1), "seconds_per_step": round(seconds / scale.steps, 4)}


@torch.no_grad()
def score(
    place: Path, task: PreparedSpanTask, scale: Scale, device: torch.device, clock: Clock
) -> dict[str, Any] | None:
    """Exact match and F1 on the dev set at every width, and what 8 bits lose to no rounding, paired by question."""
    model = qalof.load(place / "checkpoint").to(device).eval()
    file = place / "evaluations.json"
    kept: dict[str, Any] = read_json(file, "evaluations") if file.exists() else {}
    for bits in WIDTHS:
        if str(bits) in kept:
            continue
        if clock.out:
            return None
        kept[str(bits)] = _evaluate(model, task, str(bits), device).to_json()
        write_json(file, kept)
    scores = {bits: Evaluation.from_json(evaluation) for bits, evaluation in kept.items()}
    rows = {bits: _row(evaluation) for bits, evaluation in scores.items()}
    lost = paired_difference(scores["32"].per_example["f1"], scores["8"].per_example["f1"])
    return {"widths": rows, "f1_lost_at_8_bits": lost.to_json()}


def explore(
    place: Path, task: PreparedSpanTask, scale: Scale, device: torch.device, clock: Clock, strategy: str
) -> dict[str, Any]:
    """One-at-a-time sensitivity or a greedy search from 8 bits down to 4, on the first dev questions.

    Raises:
        OutOfTimeError: what is scored stands in the record, from which the next call goes on.
    """
    model = qalof.load(place / "checkpoint").to(device).eval()
    space = search.BitmapSpace.of(model, weight=(4, 8), activation="same", kv="same")
    evaluator = _Autocast(model, task, device, scale.sensitivity_questions)
    result = search.run(
        space, evaluator, ("max:f1", "min:weight_bytes"), strategy,
        None if strategy == "one_at_a_time" else scale.search_evaluations,
        storage=place / f"{strategy}.jsonl", on_score=lambda score: clock.check(),
        options={"budget": 1.0} if strategy == "greedy" else {},
    )  # fmt: skip
    front = [{**point.as_row()} for point in result.front_points]
    return {"questions": scale.sensitivity_questions, "trace": list(result.trace), "front": front}


def confirm(
    place: Path, found: dict[str, Any], task: PreparedSpanTask, device: torch.device, budget: float
) -> dict[str, Any]:
    """The search's best bitmap within ``budget`` average bits, scored on the whole dev set."""
    model = qalof.load(place / "checkpoint").to(device).eval()
    within = [row for row in found["front"] if row["average_bits"] <= budget]
    if not within:
        return {"budget": budget, "feasible": False}
    spec = max(within, key=lambda row: row["f1"])["bitmap"]
    evaluation = _evaluate(model, task, spec, device)
    average = average_bits(Bitmap.parse(spec, model.site_names), model.sites)
    return {"budget": budget, "feasible": True, "bitmap": spec, "average_bits": average, **_row(evaluation)}


@torch.no_grad()
def speed(place: Path, scale: Scale, device: torch.device) -> dict[str, Any]:
    """Tokens a second of a forward at 16 sequences, and the peak of memory, by bitmap."""
    model = qalof.load(place / "checkpoint").to(device).eval()
    length = min(scale.max_length, 128)
    ids = torch.randint(0, 50_000, (16, length), device=device)
    rows = {}
    for spec in ("32", "8", "4", "striped84"):
        model.set_bitmap(spec)
        times = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(8):
            began = time.monotonic()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                model(ids)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        median = sorted(times[2:])[len(times[2:]) // 2]
        rows[spec] = {"tokens_per_second": round(16 * length / median), "peak_bytes": peak}
    return rows


class _Autocast(search.LocalEvaluator):
    """A local evaluator under bf16 where there is a GPU."""

    def __init__(self, model: SwitchableModel, task: PreparedSpanTask, device: torch.device, limit: int) -> None:
        super().__init__(model, task, limit)
        self.device = device

    def evaluate(self, bitmaps: Sequence[Bitmap], limit: int | None = None) -> list[Evaluation]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return super().evaluate(bitmaps, limit)


def _evaluate(model: SwitchableModel, task: PreparedSpanTask, spec: str, device: torch.device) -> Evaluation:
    model.set_bitmap(spec)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return task.evaluate(model)


def _row(evaluation: Evaluation) -> dict[str, Any]:
    named = {name: evaluation.interval(name).to_json() for name in evaluation.metrics}
    return {**named, "questions": evaluation.examples}
