"""Scores of models at bitmaps, kept bitmap by bitmap."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
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
from study.data import ZERO_SHOT, text_task, zero_shot_tasks
from study.methods import MIXED, Method, form
from study.place import FULL, Place
from study.training import CHECKPOINT

SCORES = "scores.jsonl"
CPU_GPTQ = 8
Score = Callable[[], Evaluation]
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

AGAIN = (("per channel", FULL), ("per channel", "w4a16kv16"), ("groups of 32", "w4a16kv16"))
"""What is scored once more, since another machine may have scored it the first time."""


def baseline_stage(scheme: str) -> str:
    """The name of the stage that scores a scheme."""
    return f"baseline_{scheme.replace(', ', '_').replace(' ', '_')}"


def zero_shot_stage(scheme: str) -> str:
    """The name of the stage that scores the zero-shot tasks under a scheme."""
    return baseline_stage(scheme).replace("baseline", "zero_shot", 1)


def pretrained(place: Place, quantization: Any = "default", **settings: Any) -> SwitchableModel:
    """The pretrained model, switchable, without adapters."""
    base = BaseModel(place.source, HeadKind.CAUSAL_LM)
    return build(base, {}, SwitchSettings(quantization=quantization, **settings)).to(place.device).eval()


def trained(place: Place, stage: str) -> SwitchableModel:
    """The model of a training."""
    return qalof.load(place.folder(stage) / CHECKPOINT).to(place.device).eval()


def scores_of(place: Place, *stages: str) -> dict[str, Any]:
    """The rows of several stages, of which a later one adds tasks to the bitmaps of an earlier one."""
    return _merged(line for stage in stages for line in read_whole_lines(place.path(stage) / SCORES))


def _merged(lines: Iterable[str]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for row in map(json.loads, lines):
        earlier = rows.get(row["name"], {"evaluations": {}, "machines": {}})
        machines = earlier["machines"] | dict.fromkeys(row["evaluations"], row.get("machine"))
        rows[row["name"]] = row | {"evaluations": earlier["evaluations"] | row["evaluations"], "machines": machines}
    return rows


@torch.no_grad()
def kept_scores(
    place: Place,
    stage: str,
    model: SwitchableModel,
    specs: Mapping[str, Any],
    tasks: Mapping[str, Score],
    after: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The evaluations by task at each of ``specs`` (name -> bitmap), those that are known included.

    The first task is evaluated at all bitmaps before the second one is, and each evaluation is kept by itself.

    Args:
        place: where and of what.
        stage: this stage's name.
        model: the model.
        specs: name -> bitmap.
        tasks: name -> what evaluates it at the model's bitmap.
        after: earlier stages, whose evaluations of the same bitmaps are taken over.

    Raises:
        OutOfTimeError: what is scored is kept.
    """
    file, known = place.folder(stage) / SCORES, scores_of(place, *after, stage)
    for task, score in tasks.items():
        for name, spec in specs.items():
            if task in known.get(name, {"evaluations": ()})["evaluations"]:
                continue
            place.clock.check()
            began = time.monotonic()
            bitmap = model.set_bitmap(Bitmap.parse(spec, model.site_names), quiet=True)
            with place.products():
                found = score().to_json()
            cost = cost_of(bitmap, model.sites)
            row = {
                "name": name, "bitmap": str(bitmap), "average_bits": cost.average_bits,
                "weight_bytes": cost.weight_bytes, "kv_bytes_per_token": cost.kv_bytes_per_token,
                "machine": place.machine, "evaluations": {task: found},
            }  # fmt: skip
            append_lines(file, [json.dumps(row)])
            for switch in model.switches:  # many processes share a device's memory
                switch.linear.forget()
            known = scores_of(place, *after, stage)
            told = json.dumps({metric: round(value, 3) for metric, value in found["metrics"].items()})
            print(f"{stage} {name}, {task} {told}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return {name: known[name] for name in specs}


def score_trained(place: Place, stage: str, of: str, method: Method) -> dict[str, Any]:
    """The static widths of the scale, and its mixed bitmaps, of a trained model."""
    model, task = trained(place, of), place.judge()
    specs: dict[str, Any] = {str(bits): form(bits) for bits in place.scale.judged_at}
    if method.mixed:
        specs |= MIXED if place.scale.mixed is None else {name: MIXED[name] for name in place.scale.mixed}
    tasks: dict[str, Score] = {"squad": lambda: task.evaluate(model)}
    if method.data == "generated":
        tasks["text"] = perplexity_of(place, model)
    return kept_scores(place, stage, model, specs, tasks)


def score_untrained(place: Place, stage: str) -> dict[str, Any]:
    """The pretrained model itself on the questions."""
    model, task = pretrained(place), place.judge()
    specs = {str(bits): form(bits) for bits in place.scale.judged_at}
    return kept_scores(place, stage, model, specs, {"squad": lambda: task.evaluate(model)})


def perplexity_of(place: Place, model: SwitchableModel) -> Score:
    """What evaluates the perplexity of WikiText-2 at the model's bitmap."""
    text = text_task(place.data, place.source, place.scale)
    return lambda: text.evaluate(model, limit=place.scale.text_windows)


def score_baseline(place: Place, stage: str, scheme: str) -> dict[str, Any]:
    """Perplexity under one scheme; nothing is trained."""
    rows: dict[str, Any] = {}
    for model, specs in _models(place, stage, scheme, "text"):
        rows |= kept_scores(place, stage, model, specs, {"text": perplexity_of(place, model)})
    return rows


def score_again(place: Place, stage: str) -> dict[str, Any]:
    """Perplexities of :data:`AGAIN`: what machines differ by, and the other side of pairs on this machine."""
    rows: dict[str, Any] = {}
    for scheme, spec in AGAIN:
        model = pretrained(place, BASELINES[scheme][0])
        rows |= kept_scores(place, stage, model, {f"{scheme}, {spec}": spec}, {"text": perplexity_of(place, model)})
    return rows


def score_zero_shot(place: Place, stage: str, scheme: str) -> dict[str, Any]:
    """Zero-shot accuracy at the same bitmaps: it takes many times as long as perplexity, and tells less."""
    asked = zero_shot_tasks(place.data, place.source, place.scale)
    rows: dict[str, Any] = {}
    for model, specs in _models(place, stage, scheme, ZERO_SHOT[-1]):
        tasks: dict[str, Score] = {name: partial(task.evaluate, model) for name, task in asked.items()}
        rows |= kept_scores(place, stage, model, specs, tasks, after=(baseline_stage(scheme),))
    return rows


def _models(place: Place, stage: str, scheme: str, last: str) -> Iterator[tuple[SwitchableModel, dict[str, str]]]:
    """The pretrained model under a scheme, and the bitmaps to score; one per width under GPTQ, which finds its codes.

    Args:
        place: where and of what.
        stage: this stage's name.
        scheme: a name of :data:`BASELINES`.
        last: a width whose bitmaps all have this task needs no codes.
    """
    quantization, names = BASELINES[scheme]
    specs = {spec: spec for spec in names}
    if not scheme.startswith("GPTQ"):
        yield pretrained(place, quantization), specs
        return
    known = scores_of(place, stage)
    for bits in (4, 3):
        chosen = {spec: spec for spec in specs if spec.startswith(f"w{bits}")}
        model = pretrained(place, quantization)
        if any(last not in known.get(spec, {"evaluations": ()})["evaluations"] for spec in chosen):
            _compensate(place, scheme, model, bits)
        yield model, chosen


def _compensate(place: Place, scheme: str, model: SwitchableModel, bits: int) -> None:
    text = text_task(place.data, place.source, place.scale)
    with place.products():
        batches = calibration_batches(text, gptq_examples(place), batch_size=4)
        moved = [{key: value.to(place.device) for key, value in batch.items()} for batch in batches]
        compensate(model, moved, [bits], progress=partial(_told, place, scheme))


def gptq_examples(place: Place) -> int:
    """Windows that GPTQ is calibrated on; fewer on a CPU, where each block takes a pass over all of them."""
    examples = place.scale.gptq_examples
    return examples if place.device.type == "cuda" else min(examples, CPU_GPTQ)


def _told(place: Place, scheme: str, done: int, of: int) -> None:
    print(f"{scheme}: codes of {done} of {of} groups of layers", file=sys.stderr, flush=True)
    place.clock.check()
