"""Seconds to find GPTQ's codes of a real language model, with batches carried from block to block and in whole passes.

    make real-model
    QALOF_DATA=../shared/data python benchmarks/gptq.py > gptq.json

The model is SmolLM2-135M at 4 bits in groups of 32, on windows of WikiText-2 of 512 tokens.  The variants take turns,
and all must find the same errors.  ``seconds`` counts what else the machine does, ``cpu_seconds`` does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measure import environment, ratios, summary

from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.post_training import gptq
from qalof.post_training.carried_batches import CarriedBatches
from qalof.tasks.factory import task

SOURCE, BITS, LENGTH = "cache:SmolLM2-135M-Instruct", 4, 512


class WholePasses(CarriedBatches):
    """Batches that go through the whole model for every block, as they did before."""

    def _run(self, index: int, before: int) -> None:
        super()._run(index, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = str(options.data / "wikitext2")
    work = task("language-modeling", source=SOURCE, data=text, train_split="valid", max_length=LENGTH, stride=LENGTH)
    batches = gptq.calibration_batches(work, options.examples)
    settings = SwitchSettings(quantization={"scheme": "grouped"})
    variants = {"whole passes": WholePasses, "carried": CarriedBatches}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    found: list[Any] = []
    for number in range(options.rounds):
        for name, carrying in variants.items():
            model = build(BaseModel(SOURCE, work.head), settings=settings)
            began, began_cpu = time.perf_counter(), time.process_time()
            with mock.patch.object(gptq, "CarriedBatches", carrying):
                found.append(gptq.compensate(model, batches, [BITS]))
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - began_cpu)
            print(f"round {number + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    assert all(errors == found[0] for errors in found)
    result = {
        "benchmark": "gptq", "model": SOURCE, "bits": BITS, "examples": options.examples, "tokens": LENGTH,
        "seconds": {name: summary(each) for name, each in seconds.items()},
        "cpu_seconds": {name: summary(each) for name, each in cpu.items()},
        "cpu_over_whole_passes": ratios(cpu, "carried", "whole passes"), "environment": environment(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
