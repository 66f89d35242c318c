"""Scores of models at bitmaps, kept bitmap by bitmap."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.cost import cost_of
from qalof.evaluation.result import Evaluation
from qalof.files import append_lines, read_whole_lines
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel, build
from qalof.post_training.gptq import calibration_batches, compensate
from study.data import text_task, zero_shot_tasks
from study.methods import MIXED, WIDTHS, Method, form
from study.place import FULL, Place
from study.training import CHECKPOINT

SCORES = "scores.jsonl"
GROUPS: dict[str, Any] = {"method": "symmetric", "granularity": "group", "scale_dtype": "float16"}
BASELINES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "per channel": (
        "default",
        (FULL, *(f"w{bits}a{other}kv{other}" for other in (16, 8) for bits in (8, 6, 5, 4, 3)), "w16a8kv8"),
    ),
    "groups of 32": ("grouped", ("w4a16kv16", "w3a16kv16", "w4a8kv8")),
    "groups of 128": (
        {"weight": {"quantizer": GROUPS | {"group_size": 128}}}, ("w4a16kv16", "w3a16kv16", "w4a8kv8"),
    ),
    "asymmetric": (
        {"weight": {"quantizer": {"method": "asymmetric", "granularity": "channel"}}},
        ("w8a16kv16", "w4a16kv16", "w3a16kv16", "w4a8kv8"),
    ),
    "GPTQ": ("default", ("w4a16kv16", "w3a16kv16", "w4a8kv8")),
    "GPTQ, groups of 32": ("grouped", ("w4a16kv16", "w3a16kv16", "w4a8kv8")),
    "NF4": ("nf4", ("w4a16kv16", "w4a8kv8")),
    "GGUF Q4_0 and Q8_0": ("gguf", ("w8a16kv16", "w4a16kv16", "w4a8kv8")),
}  # fmt: skip
"""Scheme and bitmaps.  These weights went through Q4_1 once: 4 bits asymmetric in groups of 32 would give them back."""


def baseline_stage(scheme: str) -> str:
    """The name of the stage that scores a scheme."""
    return f"baseline_{scheme.replace(', ', '_').replace(' ', '_')}"


def pretrained(place: Place, quantization: Any = "default", **settings: Any) -> SwitchableModel:
    """The pretrained model, switchable, without adapters."""
    base = BaseModel(place.source, HeadKind.CAUSAL_LM)
    return build(base, {}, SwitchSettings(quantization=quantization, **settings)).to(place.device).eval()


def trained(place: Place, stage: str) -> SwitchableModel:
    """The model of a training."""
    return qalof.load(place.folder(stage) / CHECKPOINT).to(place.device).eval()


def known_scores(place: Place, stage: str) -> dict[str, Any]:
    """The rows by bitmap's name that were scored so far."""
    return {row["name"]: row for row in map(json.loads, read_whole_lines(place.path(stage) / SCORES))}


@torch.no_grad()
def kept_scores(
    place: Place, stage: str, model: SwitchableModel, specs: Mapping[str, Any], score: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The evaluations by task at each of ``specs`` (name -> bitmap), those that are known included.

    Raises:
        OutOfTimeError: what is scored is kept.
    """
    file, known = place.folder(stage) / SCORES, known_scores(place, stage)
    for name, spec in specs.items():
        if name in known:
            continue
        place.clock.check()
        read = Bitmap.from_json if isinstance(spec, dict) else Bitmap.parse
        bitmap = model.set_bitmap(read(spec, model.site_names), quiet=True)
        with place.products():
            found = {task: evaluation.to_json() for task, evaluation in score().items()}
        cost = cost_of(bitmap, model.sites)
        row = {
            "name": name, "bitmap": str(bitmap), "average_bits": cost.average_bits, "weight_bytes": cost.weight_bytes,
            "kv_bytes_per_token": cost.kv_bytes_per_token, "evaluations": found,
        }  # fmt: skip
        append_lines(file, [json.dumps(row)])
        for switch in model.switches:  # many processes share a device's memory
            switch.linear.forget()
        known[name] = row
        metrics = {task: {k: round(v, 3) for k, v in each["metrics"].items()} for task, each in found.items()}
        print(f"{stage} {name} {json.dumps(metrics)}", file=sys.stderr, flush=True)
    return {name: known[name] for name in specs}


def score_trained(place: Place, stage: str, of: str, method: Method) -> dict[str, Any]:
    """Every static width, and mixed bitmaps, of a trained model."""
    model, task = trained(place, of), place.judge()
    specs: dict[str, Any] = {str(bits): form(bits) for bits in WIDTHS}
    if method.mixed:
        specs |= MIXED
    texts = {"text": text_task(place.data, place.source, place.scale)} if method.data == "generated" else {}

    def score() -> dict[str, Evaluation]:
        return {"squad": task.evaluate(model)} | {
            name: text.evaluate(model, limit=place.scale.text_windows) for name, text in texts.items()
        }

    return kept_scores(place, stage, model, specs, score)


def score_untrained(place: Place, stage: str) -> dict[str, Any]:
    """The pretrained model itself on the questions."""
    model, task = pretrained(place), place.judge()
    specs = {str(bits): form(bits) for bits in WIDTHS}
    return kept_scores(place, stage, model, specs, lambda: {"squad": task.evaluate(model)})


def score_baseline(place: Place, stage: str, name: str) -> dict[str, Any]:
    """Perplexity and zero-shot accuracy under one scheme; nothing is trained."""
    scheme, specs = BASELINES[name]
    model = pretrained(place, scheme)
    text = text_task(place.data, place.source, place.scale)
    if name.startswith("GPTQ"):
        with place.products():
            batches = calibration_batches(text, place.scale.gptq_examples, batch_size=4)
            moved = [{key: value.to(place.device) for key, value in batch.items()} for batch in batches]
            compensate(model, moved, [4, 3])
    tasks = {"text": text, **zero_shot_tasks(place.data, place.source, place.scale)}
    limits = {"text": place.scale.text_windows}
    return kept_scores(
        place, stage, model, {spec: spec for spec in specs},
        lambda: {task: each.evaluate(model, limit=limits.get(task)) for task, each in tasks.items()},
    )  # fmt: skip
