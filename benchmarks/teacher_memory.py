"""Peak memory of a cascade's step when teachers' logits are kept at answer positions alone, and at all positions.

    python benchmarks/teacher_memory.py > benchmarks/results/teacher_memory.json

One step of the product's own loop on a random GPT-2 with the real vocabulary, on a batch of the shipped completion
data, taken again and again at a learning rate of 0 by both variants in turn; a step's peak is the largest resident set
that Linux saw during it, less the one just before.  ``all_positions`` keeps every teacher's whole logits until the
step is over, besides the answers' rows, and learns from the rows alike: the losses of both are the same numbers.
Either runs the head at all positions in each forward pass, which a step without this benchmark's hook does not; what
differs is only what is kept from one to the next.
"""

from __future__ import annotations

import argparse
import gc
import re
from pathlib import Path
from typing import Any

import torch
from measure import environment, ratios, report, summary
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.bitmap import Bitmap
from qalof.model.adapters import AdapterSpec
from qalof.model.language_head import language_head
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel
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
    model = SwitchableModel.of(base, BaseModel("random GPT2Config()", HeadKind.CAUSAL_LM), specs)
    bitmaps = [Bitmap.uniform(model.site_names, bits) for bits in widths]
    objective = SwitchablePrecision(bitmaps, model.sites, Distillation())
    return Trainer(model, work, objective, TrainSettings(1, batch, learning_rate=0.0))


class WholeLogits:
    """Keeps the logits of the first ``teachers`` forward passes of a step at all positions, while it is ``on``."""

    def __init__(self, loop: Trainer, teachers: int) -> None:
        self.on, self.kept = False, list[torch.Tensor]()
        self._teachers = teachers
        head = language_head(loop.model)
        assert head is not None
        head.register_forward_hook(self._keep)  # a head that is watched runs at all positions

    def _keep(self, head: nn.Module, inputs: Any, logits: torch.Tensor) -> None:
        if self.on and len(self.kept) < self._teachers:
            self.kept.append(logits.detach())


def resident(what: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` the most since :func:`peak_of` began."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def peak_of(loop: Trainer) -> tuple[int, dict[str, float]]:
    """Take the first step; bytes at its peak over those before it, and its losses."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is resident now
    before, loop.step = resident("VmRSS"), 0
    losses = loop.train_step().losses
    return resident("VmHWM") - before, losses


def predicted(loop: Trainer) -> dict[str, int]:
    """Bytes of the logits that one teacher leaves for the step's batch."""
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
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loop, teachers = trainer(options.widths, options.batch, options.layers, options.width), len(options.widths) - 1
    whole = WholeLogits(loop, teachers)
    expected = peak_of(loop)[1]  # which does not count: it also makes the optimizer's state
    peaks: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name in VARIANTS:
            whole.on = name == "all_positions"
            over, losses = peak_of(loop)
            if losses != expected:
                raise RuntimeError(f"every step must have the same losses: got {losses} and {expected}")
            peaks[name].append(over)
            kept = sum(logits.untyped_storage().nbytes() for logits in whole.kept)
            whole.kept.clear()
    saved = [every - rows for rows, every in zip(*(peaks[name] for name in VARIANTS), strict=True)]
    shape = {name: getattr(options, name) for name in ("widths", "batch", "layers", "width", "rounds")}
    result = {"benchmark": "teacher_memory", **shape, "environment": environment(), "teachers": teachers}
    result |= {"logit_bytes_a_teacher": predicted(loop), "whole_logit_bytes_kept": kept}
    result |= {"peak_bytes": {name: summary(values) for name, values in peaks.items()}, "saved_bytes": summary(saved)}
    report(result | {"all_over_answers": ratios(peaks, "all_positions", "answer_positions"), "losses": expected})


if __name__ == "__main__":
    main()
