"""QaLoF's core: one model, one process.

    model = qalof.load("runs/sp/checkpoint")
    model.set_bitmap("striped84")
    qalof.task("squad-span", validation_split="validation[:512]").evaluate(model).metrics

The names below are imported on first use, so that asking for one small part stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Bitmap": "qalof.bitmap",
    "LayerBits": "qalof.bitmap",
    "RandomPrecision": "qalof.attacks.robustness.random_precision",
    "RandomPrecisionModel": "qalof.attacks.robustness.random_precision_model",
    "build": "qalof.model.switchable",
    "load": "qalof.checkpoint.opening",
    "save": "qalof.checkpoint.model",
    "task": "qalof.tasks.factory",
    "task_of": "qalof.checkpoint.opening",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'qalof' has no attribute {name!r}")
