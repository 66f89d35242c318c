"""What the shipped tiny model can do, and what quantization costs it: one JSON object on standard output.

    python benchmarks/tiny_model.py > benchmarks/results/tiny_model.json

Fine-tunes the span head with LoRA at full precision, rounds that model to 8, 4 and 3 bits (weights, activations and
cache) without any more training, and fine-tunes once more by switchable precision with cascade distillation and
an adapter for each width.  ``recovered_at_4_bits`` is the share of what 4 bits lost that the second run wins back.
Intervals are 95 % percentile bootstraps over the validation questions; losses are paired by question.
Core only: no Ray, no MLflow.  About five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch

from qalof import Bitmap, build
from qalof.evaluation.result import Evaluation
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import SwitchableModel
from qalof.statistics import Interval, paired_difference
from qalof.tasks.base import Task
from qalof.tasks.factory import task
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import Distillation, SwitchablePrecision

METRIC = "exact_match"
STEPS, BATCH = 200, 32
SETTINGS = {"max_length": 128, "stride": 32}


def main() -> None:
    """Measure, and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1, help="of torch; part of what decides the last digits")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    found = measure(arguments.seed)
    settings = {"steps": STEPS, "batch_size": BATCH, "threads": arguments.threads, "seed": arguments.seed}
    print(json.dumps({"settings": settings, **found, "seconds": round(time.monotonic() - started)}, indent=2))


def measure(seed: int) -> dict[str, Any]:
    """All numbers, each with its interval."""
    span = task("squad-span", **SETTINGS)
    full = fine_tune(span, [32], seed)
    before = evaluate(full, span, [32, 8, 4, 3])
    switchable = fine_tune(span, [32, 8, 4], seed)
    after = evaluate(switchable, span, [32, 8, 4, 3])
    reviews = task("classification", max_length=64)
    classifier = evaluate(fine_tune(reviews, [32], seed, steps=100), reviews, [32])
    lost = before[32].metrics[METRIC] - before[4].metrics[METRIC]
    return {
        "parameters": sum(p.numel() for p in full.base.load().parameters()),
        "metric": METRIC,
        "full_precision_fine_tuning": table(before),
        "lost_by_rounding": {str(b): asdict(difference(before[32], before[b])) for b in (8, 4, 3)},
        "switchable_precision": table(after),
        "recovered_at_4_bits": (after[4].metrics[METRIC] - before[4].metrics[METRIC]) / lost,
        "review_accuracy": table(classifier, "accuracy")["32"],
    }


def fine_tune(work: Task, widths: list[int], seed: int, steps: int = STEPS) -> SwitchableModel:
    """LoRA and head at every width on every batch; lower widths are distilled from higher ones."""
    base = BaseModel("tiny", work.head, labels=work.labels)
    model = build(base, {str(bits): AdapterSpec(8, 16) for bits in widths}, seed=seed)
    maps = [Bitmap.uniform(model.site_names, bits) for bits in widths]
    objective = SwitchablePrecision(maps, model.sites, Distillation() if len(maps) > 1 else None)
    settings = TrainSettings(steps, BATCH, learning_rate=3e-3, warmup_steps=10, seed=seed)
    trainer = Trainer(model, work, objective, settings)
    for step in range(steps):
        report = trainer.train_step()
        if step % 20 == 0 or step == steps - 1:
            print(f"{work.name} {widths} step {step}: {report.losses}", file=sys.stderr, flush=True)
    return model.eval()


def evaluate(model: SwitchableModel, work: Task, widths: list[int]) -> dict[int, Evaluation]:
    """The whole validation split at each width."""
    scored = {}
    for bits in widths:
        model.set_bitmap(bits)
        scored[bits] = work.evaluate(model)
        print(f"{work.name} at {bits}: {scored[bits].metrics}", file=sys.stderr, flush=True)
    return scored


def table(scored: dict[int, Evaluation], metric: str = METRIC) -> dict[str, dict[str, float]]:
    """Width -> estimate and bounds."""
    return {str(bits): asdict(evaluation.interval(metric)) for bits, evaluation in scored.items()}


def difference(higher: Evaluation, lower: Evaluation) -> Interval:
    """What the second is below the first, paired by question."""
    return paired_difference(higher.per_example[METRIC], lower.per_example[METRIC])


if __name__ == "__main__":
    main()
