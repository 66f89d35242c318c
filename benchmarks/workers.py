"""Ray Train's time a step against the same loop under torchrun, and what a second worker brings.

    python benchmarks/workers.py > benchmarks/results/workers.json

The loop is the product's own (cascade at 8 and 4 bits on the shipped tiny model), one thread a worker, gloo.  Under Ray
each step's losses are posted to the board as in `qalof train`.  torchrun and Ray take turns; a run's time is the median
of its steps after the first ten, by the clock and in processor time of a worker: on shared cores the clock tells as
much of the neighbors as of the loop.  Scaling is one worker's time over two workers' for the same global batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import environment, ratios, report, summary

WARMUP = 10


def seconds_a_step(steps: int, batch: int, post: Callable[[Any], None]) -> tuple[float, float]:
    """In a worker whose process group stands: the medians over steps, by the clock and of processor time."""
    from qalof import build, task
    from qalof.bitmap import Bitmap
    from qalof.model.adapters import AdapterSpec
    from qalof.model.pretrained import BaseModel
    from qalof.training.loop import ProcessGroup, Trainer, TrainSettings
    from qalof.training.objectives import Distillation, SwitchablePrecision

    torch.set_num_threads(1)
    span = task("squad-span", max_length=128, stride=32)
    model = build(BaseModel("tiny", span.head), {"8": AdapterSpec(8, 16), "4": AdapterSpec(8, 16)}, seed=0)
    bitmaps = [Bitmap.uniform(model.site_names, bits) for bits in (8, 4)]
    objective = SwitchablePrecision(bitmaps, model.sites, Distillation())
    trainer = Trainer(model, span, objective, TrainSettings(steps + WARMUP, batch), ProcessGroup())
    clock, processor = [], []
    for _ in range(steps + WARMUP):
        began, worked = time.perf_counter(), time.process_time()
        done = trainer.train_step()
        if trainer.world.rank == 0:
            post(done)
        clock.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    return statistics.median(clock[WARMUP:]), statistics.median(processor[WARMUP:])


def under_torchrun(workers: int, steps: int, batch: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "seconds"
        words = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", __file__,
            "--steps", str(steps), "--batch", str(batch), "--write", str(target),
        ]  # fmt: skip
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        clock, processor = json.loads(target.read_text(encoding="utf-8"))
        return clock, processor


def under_ray(workers: int, steps: int, batch: int) -> tuple[float, float]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from orchestrate.cluster.connection import worker_environment
    from orchestrate.cluster.progress_queue import put, watched_queue

    def loop(settings: dict[str, Any]) -> tuple[float, float]:
        return seconds_a_step(steps, batch, lambda item: put(settings["queue"], item))

    with tempfile.TemporaryDirectory() as folder, watched_queue(lambda items: None) as queue:
        trainer = TorchTrainer(
            loop,
            train_loop_config={"queue": queue},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(storage_path=folder, worker_runtime_env={"env_vars": worker_environment(workers)}),
        )
        clock, processor = trainer.fit().return_value
        return clock, processor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--write", type=Path, help="be a worker of torchrun; used by this script alone")
    options = parser.parse_args()
    if options.write:
        torch.distributed.init_process_group("gloo")
        found = seconds_a_step(options.steps, options.batch, lambda done: None)
        if torch.distributed.get_rank() == 0:
            options.write.write_text(json.dumps(found), encoding="utf-8")
        torch.distributed.destroy_process_group()
        return
    from orchestrate.cluster.connection import connect, worker_environment

    names = [f"{how}_{workers}" for how in ("torchrun", "ray") for workers in (1, 2)]
    times: dict[str, list[float]] = {name: [] for name in names}
    worked: dict[str, list[float]] = {name: [] for name in names}
    with connect(None, 4, environment={**worker_environment(2), "PYTHONPATH": str(Path(__file__).parent)}):
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
            for workers in (1, 2):
                for how, run in (("torchrun", under_torchrun), ("ray", under_ray)):
                    clock, processor = run(workers, options.steps, options.batch)
                    times[f"{how}_{workers}"].append(clock)
                    worked[f"{how}_{workers}"].append(processor)
    result = {
        "benchmark": "workers",
        "what": "seconds a step, medians of runs",
        "global_batch": options.batch,
        "steps": options.steps,
        "rounds": options.rounds,
        "environment": environment(),
        "seconds": {name: summary(values) for name, values in times.items()},
        "processor_seconds": {name: summary(values) for name, values in worked.items()},
        "ray_over_torchrun": {f"{n}_workers": ratios(times, f"ray_{n}", f"torchrun_{n}") for n in (1, 2)},
        "processor_ray_over_torchrun": {f"{n}_workers": ratios(worked, f"ray_{n}", f"torchrun_{n}") for n in (1, 2)},
        "speed_up_of_two_workers": {k: ratios(times, f"{k}_1", f"{k}_2") for k in ("ray", "torchrun")},
    }
    report(json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
