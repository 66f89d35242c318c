"""The victims: classifiers on the language model, with adapters per width or trained at a random width per step."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from study.clock import Clock

from attack_study.place import CHECKPOINT, PROGRESS, TRAINED, Place, victim_folder
from attack_study.scales import WIDTHS, Scale
from qalof import build
from qalof.attacks.result import AttackExample
from qalof.bitmap import Bitmap
from qalof.checkpoint.trainer import load_checkpoint, save_checkpoint
from qalof.files import read_json, write_json
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.switchable import SwitchableModel
from qalof.tasks.classification import ClassificationSettings, ClassificationTask
from qalof.training.execution import runs_in_bf16
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import (
    AdversarialPrecision,
    EmbeddingAttack,
    Objective,
    RandomChoice,
    SwitchablePrecision,
)


def task_of(data: Path, name: str, model: Path, scale: Scale) -> ClassificationTask:
    """Return the task of a data set; its validation texts are those of ``dev.jsonl``."""
    train = "train" if scale.train_texts is None else f"train[:{scale.train_texts}]"
    settings = ClassificationSettings(
        data=str(data / name), train_split=train, validation_split=f"validation[:{scale.test_texts}]",
        max_length=scale.max_length, eval_batch_size=32,
    )  # fmt: skip
    return ClassificationTask(load_tokenizer(str(model)), settings)


def examples_of(task: ClassificationTask, count: int) -> list[AttackExample]:
    """Return the first ``count`` test texts, numbered."""
    return [AttackExample(index, each.text, each.label) for index, each in enumerate(task.validation[:count])]


def new_victim(victim: str, model: Path, task: ClassificationTask, scale: Scale) -> SwitchableModel:
    """Make a fresh victim: one adapter per width that it is trained at."""
    names = [str(Bitmap.parse(width, ["site"])["site"].weight) for width in WIDTHS[victim]]
    return build(
        BaseModel(str(model), HeadKind.CLASSIFIER, labels=task.labels),
        {name: AdapterSpec(scale.rank, 2 * scale.rank) for name in names}, seed=0,
    )  # fmt: skip


def with_products_of(scale: Scale, model: Any) -> Any:
    """Return ``model``, on a CPU, whose every forward pass takes its products in the scale's precision from now on."""
    if runs_in_bf16(scale.precision, torch.device("cpu")):
        # each pass by itself, since an attack on several texts has threads, which do not share an autocast
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


def _objective(victim: str, model: SwitchableModel) -> Objective:
    bitmaps = tuple(Bitmap.parse(width, model.site_names) for width in WIDTHS[victim])
    if victim == "sp":
        return SwitchablePrecision(bitmaps, model.sites, None)
    # Double-Win Quant's training: a width per step, attacked and updated at that width
    return AdversarialPrecision(RandomChoice(bitmaps, 1, 0), model.sites, EmbeddingAttack(0.03, share=0.5))


def train(data: str, victim: str, place: Place, clock: Clock) -> bool:
    """Train until done or out of time, and say whether it is done; goes on from its checkpoint."""
    folder, scale, device = victim_folder(place.state, data, victim), place.scale, place.device
    done = folder / TRAINED
    if done.is_file():
        return True
    task = task_of(place.data, data, place.model, scale)
    switchable = new_victim(victim, place.model, task, scale).to(device)
    # a width drawn per step learns as many steps per width as all widths at every step do
    steps = scale.own_steps.get(data, scale.steps) * (2 if victim == "rpt" else 1)
    settings = TrainSettings(
        steps=steps, batch_size=scale.batch, learning_rate=scale.learning_rate, warmup_steps=min(10, steps), seed=0,
        precision="bf16" if device.type == "cuda" else scale.precision,
    )  # fmt: skip
    trainer = Trainer(switchable, task, _objective(victim, switchable), settings)
    checkpoint, progress = folder / CHECKPOINT, folder / PROGRESS
    before = 0.0
    if checkpoint.exists():
        load_checkpoint(trainer, checkpoint)
        before = read_json(progress, "progress")["seconds"]
    began, losses = time.monotonic(), {}
    while trainer.step < steps and not clock.out:
        losses = trainer.train_step().losses
        if trainer.step % 20 == 0 or device.type == "cpu":
            print(f"{folder.name} {trainer.step}/{steps} {losses}", file=sys.stderr, flush=True)
    save_checkpoint(trainer, checkpoint, {})
    seconds = before + time.monotonic() - began
    write_json(progress, {"seconds": seconds})
    if trainer.step < steps:
        return False
    with torch.no_grad():
        with_products_of(scale, switchable.eval())
        accuracy = {}
        for width in WIDTHS[victim]:
            switchable.set_bitmap(width)
            accuracy[width] = task.evaluate(switchable).interval("accuracy").to_json()
    record: dict[str, Any] = {
        "losses": losses, "seconds": round(seconds, 1), "steps": steps, "test_texts": scale.test_texts,
        "accuracy": accuracy,
    }  # fmt: skip
    write_json(done, record)
    return True
