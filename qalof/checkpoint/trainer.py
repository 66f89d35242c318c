"""Checkpoints from which training resumes bit for bit: safetensors and JSON, and nothing pickled.

The folder is the model's own checkpoint (adapters that plain PEFT opens) with ``trainer.safetensors``, AdamW's moments
by parameter, alongside it, sealed by one manifest: it exists completely or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qalof.checkpoint.manifest import describe, read_manifest
from qalof.checkpoint.model import copy_parameters, save
from qalof.errors import BadInputError
from qalof.model.switchable import SwitchableModel
from qalof.training.loop import Trainer

STATE_FILE = "trainer.safetensors"


def save_checkpoint(trainer: Trainer, folder: str | Path, extra: Mapping[str, Any]) -> None:
    """Write model, optimizer and step.

    Args:
        trainer: a trainer after its step ``trainer.step - 1``.
        folder: the new folder, which appears complete or not at all.
        extra: JSON for the manifest, such as the resolved config; ``step`` is added.
    """
    folder = Path(folder)
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in _named(trainer.model).items()
        for key, value in trainer.optimizer.state[parameter].items()
    }

    def attach(beside: Path) -> None:
        save_file(tensors, beside / STATE_FILE)

    save(trainer.model, folder, {**extra, "step": trainer.step}, attach)


def load_checkpoint(trainer: Trainer, folder: str | Path) -> None:
    """Put a trainer that was just made from the same config into the state that :func:`save_checkpoint` saved.

    Raises:
        BadInputError: The checkpoint is damaged, or of another model or other adapters.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    model = trainer.model
    try:
        copy_parameters(model, describe(manifest, folder))
    except BadInputError as error:
        raise BadInputError(f"this run cannot go on from its checkpoint: {error}; or use a new output folder") from None
    if STATE_FILE not in manifest["files"] or "step" not in manifest["extra"]:
        raise BadInputError(
            f"a training goes on from a checkpoint with the optimizer's state: {folder} has none; give a "
            "checkpoint that `qalof train` wrote"
        )
    stored: dict[str, dict[str, torch.Tensor]] = {}
    for path, tensor in load_file(folder / STATE_FILE).items():
        name, _, key = path.rpartition("/")
        stored.setdefault(name, {})[key] = tensor
    for name, parameter in _named(model).items():
        if name in stored:
            # AdamW keeps its step count on the CPU, whatever the parameter's device, unless it is fused
            fused = trainer.optimizer.defaults["fused"]
            trainer.optimizer.state[parameter] = {
                key: tensor if key == "step" and not fused else tensor.to(parameter.device)
                for key, tensor in stored[name].items()
            }
    trainer.step = int(manifest["extra"]["step"])


def begin(trainer: Trainer, folder: str | Path | None) -> None:
    """Resume from the checkpoint in ``folder``; with None calibrate a new run.

    Raises:
        BadInputError: See :func:`load_checkpoint`.
    """
    folder = None if folder is None else Path(folder)
    if folder is not None:
        load_checkpoint(trainer, folder)
    else:
        trainer.calibrate()


def _named(model: SwitchableModel) -> dict[str, torch.nn.Parameter]:
    return {f"{group}/{path}": p for group, params in model.trainable_groups().items() for path, p in params.items()}
