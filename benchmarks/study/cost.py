"""What a step costs, and a forward pass at each width."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel, build
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import SwitchablePrecision
from study.methods import ALPHA, RANK, form, uniform
from study.place import FULL, Place

STEPS = {"plain LoRA": ((32,), {}), "8 and 4 bits": ((8, 4), {}), "8 and 4 bits, int8": ((8, 4), {"held": "int8"})}
ROUNDS = 3


def cost(place: Place) -> dict[str, Any]:
    """Seconds per step by precision and set-up, peak memory, and tokens per second by width."""
    precisions = ["bf16", "fp32"] if place.device.type == "cuda" else [place.scale.precision]
    steps = {
        f"{name}, {precision}": _step(place, widths, scheme, precision)
        for name, (widths, scheme) in STEPS.items()
        for precision in precisions
    }
    return {"steps": steps, "forward": _forward(place), "batch": place.scale.batch, "rounds": ROUNDS}


def _step(place: Place, widths: tuple[int, ...], scheme: dict[str, Any], precision: Any) -> dict[str, Any]:
    model, task = _model(place, widths, scheme), place.judge()
    objective = SwitchablePrecision(uniform(model, widths), model.sites)
    trainer = Trainer(model, task, objective, TrainSettings(100, place.scale.batch, precision=precision))
    return _timed(place, trainer.train_step)


def _model(place: Place, widths: tuple[int, ...], scheme: dict[str, Any]) -> SwitchableModel:
    base = BaseModel(place.source, place.judge().head)
    adapters = {str(bits): AdapterSpec(RANK, ALPHA) for bits in widths}
    settings = SwitchSettings(quantization=scheme)
    return build(base, adapters, settings).to(place.device)


@torch.no_grad()
def _forward(place: Place) -> dict[str, Any]:
    model = _model(place, (8, 4), {}).eval()
    length = place.scale.max_length
    ids = torch.randint(0, model.model.config.vocab_size, (place.scale.batch, length), device=place.device)
    rows = {}
    for spec in (FULL, *(form(bits) for bits in place.scale.judged_at if bits < 16)):
        model.set_bitmap(spec, quiet=True)
        with place.products():
            timed = _timed(place, lambda: model(input_ids=ids, logits_to_keep=1))
        rows[spec] = {"tokens_per_second": round(ids.numel() / timed["seconds"]), **timed}
    return rows


def _timed(place: Place, run: Callable[[], Any]) -> dict[str, Any]:
    """The median of some calls after two that do not count, their spread, and the peak of memory."""
    cuda = place.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(ROUNDS + 2):
        began = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    counted = times[2:]
    row = {
        "seconds": round(statistics.median(counted), 4),
        "least": round(min(counted), 4), "most": round(max(counted), 4),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }  # fmt: skip
    print(f"cost {row}", file=sys.stderr, flush=True)
    return row
