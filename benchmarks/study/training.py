"""One training, which goes on from its last checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from qalof.checkpoint.trainer import load_checkpoint, save_checkpoint
from qalof.files import read_json, write_json
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.tasks.base import Task
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.synthetic_data import GenerationSettings, TextSource, generate, writer_for
from study.clock import OutOfTimeError
from study.data import GeneratedTexts, text_settings
from study.methods import Method
from study.place import Place

CHECKPOINT = "checkpoint"


def train(place: Place, stage: str, method: Method) -> dict[str, Any]:
    """Train to the end of the passes.

    Raises:
        OutOfTimeError: a checkpoint is kept, from which the next call goes on.
    """
    folder, scale = place.folder(stage), place.scale
    task = _task(place, method)
    settings = SwitchSettings(policy=method.policy)
    model = build(BaseModel(place.source, task.head), method.adapters(), settings, seed=method.seed).to(place.device)
    steps = method.steps(scale.passes)
    trainer = Trainer(
        model, task, method.objective(model, method.widths, steps),
        TrainSettings(
            steps, scale.batch, learning_rate=scale.learning_rate, warmup_steps=steps // 20,
            precision="bf16" if scale.precision == "bf16" else "fp32", seed=method.seed,
        ),
    )  # fmt: skip
    progress: dict[str, Any] = {"seconds": 0.0, "losses": []}
    if (folder / CHECKPOINT).exists():
        load_checkpoint(trainer, folder / CHECKPOINT)
        progress = read_json(folder / "progress.json", "progress")
    began, spent = time.monotonic(), progress["seconds"]
    while trainer.step < steps:
        if place.clock.out:
            break
        metrics = trainer.train_step()
        progress["losses"].append({name: round(loss, 4) for name, loss in metrics.losses.items()})
        progress["seconds"] = round(spent + time.monotonic() - began, 2)
        if trainer.step % scale.checkpoint_every == 0 and trainer.step < steps:
            print(f"{stage} {trainer.step}/{steps} {json.dumps(progress['losses'][-1])}", file=sys.stderr, flush=True)
            _keep(trainer, folder, progress)
    _keep(trainer, folder, progress)
    if trainer.step < steps:
        raise OutOfTimeError
    losses = progress["losses"]
    return {
        "steps": steps, "passes": scale.passes, "learning_rate": scale.learning_rate, "seed": method.seed,
        "adapters": list(method.adapters()), "last_losses": _mean(losses[-max(1, steps // 10) :]),
        "curve": [_mean(losses[at : at + max(1, steps // 20)]) for at in range(0, steps, max(1, steps // 20))],
        "seconds": progress["seconds"], "examples": len(trainer.features),
    }  # fmt: skip


def _keep(trainer: Trainer, folder: Path, progress: dict[str, Any]) -> None:
    """Replace the checkpoint and the progress; the losses of later steps than the checkpoint's are dropped."""
    progress["losses"] = progress["losses"][: trainer.step]
    beside = folder / f"{CHECKPOINT}.next"
    shutil.rmtree(beside, ignore_errors=True)
    save_checkpoint(trainer, beside, {})
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    write_json(folder / "progress.json", progress)
    beside.rename(folder / CHECKPOINT)


def _mean(losses: list[dict[str, float]]) -> dict[str, float]:
    """The mean loss by bitmap over some steps."""
    names = {name: [row[name] for row in losses if name in row] for row in losses for name in row}
    return {name: round(sum(values) / len(values), 4) for name, values in names.items()}


def _task(place: Place, method: Method) -> Task:
    if method.data == "squad":
        return place.judge()
    settings = text_settings(place.data, place.scale)
    return GeneratedTexts(place.done["generated_texts"]["ids"], place.source, settings)


@torch.no_grad()
def write_texts(place: Place) -> dict[str, Any]:
    """Texts that the unrounded model writes, from drawn first tokens, for the data-free training (LLM-QAT)."""
    scale = place.scale
    settings = GenerationSettings("uniform", count=scale.generated_texts, max_length=scale.generated_length)
    base = BaseModel(place.source, place.judge().head)
    model = base.load().to(place.device).eval()
    source = TextSource(settings, load_tokenizer(place.source), None)
    file = place.folder("generated_texts") / "ids.json"
    kept: list[list[int]] = read_json(file, "texts") if file.exists() else []
    writer, size = writer_for(model, source), 128
    for at in range(len(kept), source.count, size):
        place.clock.check()
        kept += [row["ids"] for row in generate(writer, source, range(at, min(at + size, source.count)), size)]
        write_json(file, kept)
    return {"ids": kept, "texts": len(kept), "tokens": sum(map(len, kept))}
