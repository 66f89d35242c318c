"""Peak memory of a cascade's step when teachers' logits are kept at answer positions alone, and at all positions.

    python benchmarks/teacher_memory.py > benchmarks/results/teacher_memory.json

One step of the product's own loop on a random GPT-2 with the real vocabulary, on a batch of the shipped completion
data.  Each variant runs in processes of its own, in turn with the other; a step's peak is the process's largest
resident set, less what it held just before the step.  ``all_positions`` keeps every teacher's whole logits until the
step is over, besides the answers' rows, and learns from the rows alike: the losses of both are the same numbers.
Either runs the head at all positions in each forward pass; what differs is only what is kept from one to the next.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import psutil
import torch
from measure import environment, ratios, report, summary
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.bitmap import Bitmap
from qalof.model.adapters import AdapterSpec
from qalof.model.switchable import BaseModel, HeadKind, SwitchableModel
from qalof.tasks.factory import task
from qalof.training.loop import Trainer, TrainSettings, batch_indices
from qalof.training.objectives import Distillation, SwitchablePrecision

VARIANTS = ("answer_positions", "all_positions")
LENGTH, LOGIT_BYTES = 128, 4


def trainer(widths: list[int], batch: int, layers: int, width: int) -> Trainer:
    """The product's loop, before its first step."""
    work = task("squad-completion", max_length=LENGTH)
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=width, n_head=width // 32))
    specs = {str(bits): AdapterSpec(8, 16) for bits in widths}
    model = SwitchableModel(base, BaseModel("random GPT2Config()", HeadKind.CAUSAL_LM), specs)
    bitmaps = [Bitmap.uniform(model.site_names, bits) for bits in widths]
    objective = SwitchablePrecision(bitmaps, model.sites, Distillation())
    return Trainer(model, work, objective, TrainSettings(1, batch))


def keep_whole(loop: Trainer, teachers: int) -> list[torch.Tensor]:
    """Have the logits of the first ``teachers`` forward passes kept at all positions."""
    kept: list[torch.Tensor] = []
    rows = loop.task.label_rows

    def label_rows(outputs: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if len(kept) < teachers:
            kept.append(outputs.logits.detach())
        return rows(outputs, batch)

    loop.task.label_rows = label_rows  # type: ignore[method-assign]
    return kept


def process(variant: str, options: argparse.Namespace) -> None:
    """One step in this process; prints its bytes and losses."""
    torch.set_num_threads(1)
    loop = trainer(options.widths, options.batch, options.layers, options.width)
    kept = keep_whole(loop, len(options.widths) - 1) if variant == "all_positions" else []
    before = psutil.Process().memory_info().rss
    losses = loop.train_step().losses
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = sum(logits.untyped_storage().nbytes() for logits in kept)
    found = {"over_before": peak - before, "whole_logits": whole, "losses": losses, "a_teacher": predicted(loop)}
    print(json.dumps(found))


def predicted(loop: Trainer) -> dict[str, int]:
    """Bytes of the logits that one teacher leaves for the first step's batch."""
    chosen = batch_indices(len(loop.features), loop.settings.batch_size, 0, loop.settings.seed)
    labels = loop.task.collate([loop.features[index] for index in chosen])["labels"]
    row = int(loop.model.model.config.vocab_size) * LOGIT_BYTES
    return {"answer_positions": int((labels >= 0).sum()) * row, "all_positions": labels.numel() * row}


def main() -> None:
    """Measure, and print the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 6, 4])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--process", choices=VARIANTS, help="be one process of a variant; used by this script alone")
    options = parser.parse_args()
    if options.process:
        process(options.process, options)
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name, runs in found.items():
            words = [sys.executable, __file__, "--process", name, *sys.argv[1:]]
            runs.append(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    if len({json.dumps(run["losses"]) for runs in found.values() for run in runs}) != 1:
        raise RuntimeError(f"all variants must have the same losses: got {found}")
    peaks = {name: [float(run["over_before"]) for run in runs] for name, runs in found.items()}
    saved = [whole - rows for rows, whole in zip(*(peaks[name] for name in VARIANTS), strict=True)]
    shape = {name: getattr(options, name) for name in ("widths", "batch", "layers", "width", "rounds")}
    report(
        {
            "benchmark": "teacher_memory",
            **shape,
            "environment": environment(),
            "logit_bytes_a_teacher": found["answer_positions"][0]["a_teacher"],
            "teachers": len(options.widths) - 1,
            "whole_logits_kept": found["all_positions"][0]["whole_logits"],
            "peak_bytes_of_the_step": {name: summary(values) for name, values in peaks.items()},
            "saved_bytes": summary(saved),
            "all_over_answers": ratios(peaks, "all_positions", "answer_positions"),
            "losses": found["answer_positions"][0]["losses"],
        }
    )


if __name__ == "__main__":
    main()
