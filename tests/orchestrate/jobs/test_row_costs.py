"""Every row of every command has every line of the cost, the bytes of adapters and of the whole among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrate.config.loader import validate
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import load
from qalof.cost import MODEL_COSTS, cost_of

SPAN = {"name": "squad-span", "settings": {"max_length": 96, "stride": 16, "train_split": "train[:4]",
                                           "validation_split": "validation[:2]"}}  # fmt: skip
OBSERVED = {"activation": {"quantizer": {"method": "symmetric", "granularity": "tensor"}, "observer": "ema"}}
"""Quantizers whose ranges are observed, which a packed model holds too."""
CONFIGS: dict[str, dict[str, Any]] = {
    "train": {
        "task": SPAN,
        "objective": {"name": "spnet"},
        "switch": {"quantization": OBSERVED},
        "training": {"steps": 1, "batch_size": 2},
    },
    "evaluate": {"bitmaps": [8, 4], "limit": 2},
    "search": {"max_evaluations": 2, "strategy": "random", "limit": 2, "space": {"group": "block"}},
    "profile": {"bitmaps": [8, 4], "measures": ["size"]},
    "ptq": {
        "bitmaps": ["w8a8", "w4a8"],
        "limit": 2,
        "calibration": {"examples": 2},
        "methods": [{"name": "nearest"}, {"name": "static", "quantization": OBSERVED}],
    },
}


@pytest.mark.parametrize("command", CONFIGS)
def test_every_row_has_every_line_of_the_cost(command, tmp_path, empty_store, random_model, span_checkpoint):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    start = {"model": {"source": random_model}} if command == "train" else {"checkpoint": str(span_checkpoint)}
    here = {"workers": {"count": 1, "in_process": True}, "tracking": {"root": str(tmp_path)}}
    config = validate(JOBS[command].config, {**here, **start, **CONFIGS[command]}, command)
    result = execute(command, config, tmp_path / "run")
    rows = [row.get("cost", row) for row in result.get("rows", result.get("front"))]
    assert rows
    assert all(set(MODEL_COSTS) <= set(row) for row in rows)
    for row in result.get("rows", []):
        folder = made_of(command, row, tmp_path / "run", span_checkpoint)
        model = load(folder)
        expected = cost_of(Bitmap.parse(row["bitmap"], model.site_names), model.sites, rest=model.rest).to_json()
        assert {name: row["cost"][name] for name in MODEL_COSTS} == expected


def made_of(command: str, row: dict[str, Any], folder: Path, checkpoint: Path) -> Path:
    """The checkpoint that a row is of."""
    if command == "train":
        return folder / "checkpoint"
    return folder / "methods" / row["method"] / "checkpoint" if command == "ptq" else checkpoint
