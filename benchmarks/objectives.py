"""Which training objective pays: the tiny model at 8, 4 and 3 bits after equal work, by every objective.

    python benchmarks/objectives.py > benchmarks/results/objectives.json

Work is counted in batches that went forward and backward at one bitmap, so that an objective of three bitmaps a step
has a third of the steps of one that draws a single one.  ``mixed``: blocks at 8 and 3 bits in turn, which only
``layerwise`` has trained on.  Scores are exact match in per cent, means over seeds; intervals are 95 % bootstraps over
the questions of the seeds' mean, and differences from ``spnet`` are paired by question.  ``spread`` is the standard
deviation over seeds, which the intervals do not contain.  ``--record`` keeps finished trainings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import environment, report
from pydantic import TypeAdapter

from orchestrate.config.build import adapter_specs
from orchestrate.config.build_objective import make_objective
from orchestrate.config.objective import ObjectiveConfig
from orchestrate.config.sections import AdaptersConfig
from qalof import build, task
from qalof.bitmap import Bitmap
from qalof.files import append_lines
from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.quantization.scheme import QuantizationScheme
from qalof.statistics import bootstrap_mean, paired_difference
from qalof.training.loop import Trainer, TrainSettings

METRIC, REFERENCE, MIXED = "exact_match", "spnet", "mixed"
WIDTHS = (8, 4, 3)
BITMAPS = list(WIDTHS)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "spnet": {"name": "spnet", "bitmaps": BITMAPS},
    "cascade": {"name": "cascade", "bitmaps": BITMAPS},
    "self_distillation": {"name": "self_distillation", "bitmaps": BITMAPS},
    "contrastive": {"name": "contrastive", "bitmaps": BITMAPS},
    "sandwich": {"name": "sandwich", "bitmaps": BITMAPS, "middle": 1},
    "random": {"name": "random", "bitmaps": BITMAPS, "count": 1},
    "rpt_attacked": {"name": "rpt", "bitmaps": BITMAPS, "attack": {"epsilon": 0.1, "steps": 1}},
    "layerwise": {"name": "layerwise", "widths": BITMAPS, "count": 1, "always": BITMAPS},
    "curriculum": {"name": "curriculum", "bitmaps": BITMAPS},
    "cpt": {"name": "cpt", "lowest": 3, "highest": 8, "cycles": 8},
    **{f"static_{bits}": {"name": "static", "bitmap": bits} for bits in (4, 3)},
}


def train_and_score(name: str, seed: int, passes: int, batch: int) -> dict[str, list[float]]:
    """Exact match of each validation question at each bitmap that the objective can run at."""
    work = task("squad-span", max_length=128, stride=32)
    config = TypeAdapter(ObjectiveConfig).validate_python(OBJECTIVES[name])
    base = BaseModel("tiny", work.head)
    plain = build(base, {}, seed=seed)
    specs = adapter_specs(AdaptersConfig(rank=8, alpha=16), config, plain.sites)
    settings = SwitchSettings(quantization=QuantizationScheme(held="int8"))
    model = build(base, specs, settings, seed=seed)
    steps = steps_of(config, model.sites, passes, seed)
    objective = make_objective(config, model.sites, steps, seed)
    training = TrainSettings(steps, batch, learning_rate=3e-3, warmup_steps=steps // 10, seed=seed)
    trainer = Trainer(model, work, objective, training)
    for _ in range(steps):
        trainer.train_step()
    model.eval()
    found = {}
    for key, bitmap in bitmaps_of(name, model.site_names).items():
        model.set_bitmap(bitmap)
        found[key] = [float(value) for value in work.evaluate(model).per_example[METRIC]]
    return found


def steps_of(config: Any, sites: Any, passes: int, seed: int) -> int:
    """Steps that together run ``passes`` batches."""
    steps, done = 0, 0
    objective = make_objective(config, sites, passes, seed)
    while done < passes:
        done += len(objective.bitmaps(steps))
        steps += 1
    return steps


def bitmaps_of(name: str, sites: Sequence[str]) -> dict[str, Bitmap]:
    """What a model is scored at: one trained at one width, there alone."""
    if name.startswith("static_"):
        bits = name.removeprefix("static_")
        return {bits: Bitmap.parse(bits, sites)}
    return {str(bits): Bitmap.uniform(sites, bits) for bits in WIDTHS} | {MIXED: Bitmap.parse("striped83", sites)}


def table(scores: dict[tuple[str, int], dict[str, list[float]]], seeds: int) -> dict[str, Any]:
    """Scores and differences of every objective."""
    means: dict[str, dict[str, list[float]]] = {}
    rows: dict[str, Any] = {}
    for name in OBJECTIVES:
        runs = [scores[name, seed] for seed in range(seeds)]
        means[name] = {key: list(np.mean([run[key] for run in runs], axis=0)) for key in runs[0]}
        rows[name] = {}
        for key, values in means[name].items():
            reference = means[REFERENCE][key]
            rows[name][key] = {
                "score": asdict(bootstrap_mean(values)),
                "spread": round(statistics.stdev(statistics.mean(run[key]) for run in runs), 2),
                "minus_spnet": None if name == REFERENCE else asdict(paired_difference(values, reference)),
            }
    return rows


def main() -> None:
    """Train what is missing, and print the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=240)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--record", type=Path, default=Path("objectives.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores: dict[tuple[str, int], dict[str, list[float]]] = {}
    if options.record.exists():
        for line in options.record.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            scores[entry["objective"], entry["seed"]] = entry["scores"]
    for seed in range(options.seeds):
        for name in OBJECTIVES:
            if (name, seed) not in scores:
                print(f"{name}, seed {seed}", file=sys.stderr)
                found = train_and_score(name, seed, options.passes, options.batch)
                append_lines(options.record, [json.dumps({"objective": name, "seed": seed, "scores": found})])
                scores[name, seed] = found
    settings = {"metric": METRIC, "seeds": options.seeds, "passes": options.passes, "batch_size": options.batch}
    rows = table(scores, options.seeds)
    report({"benchmark": "objectives", **settings, "environment": environment(), "objectives": rows})


if __name__ == "__main__":
    main()
