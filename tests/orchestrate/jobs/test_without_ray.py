"""``workers.in_process``: no command starts Ray, and none writes into the home folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from orchestrate.cli.app import main
from orchestrate.jobs.registry import JOBS

HERE = ["workers.count=1", "workers.in_process=true", "workers.threads=1"]
SPAN = 'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:8]", '
SPANS = SPAN + 'validation_split: "validation[:2]"}}'
TRAINED = [SPANS, "training={steps: 2, batch_size: 2, checkpoint_every: 1}"]
RANGED = [SPANS, "training={batch_size: 2}", "lowest=3", "highest=4", "iterations=1", "window=1"]
SWEPT = {
    "task": {"name": "squad-span", "settings": {"max_length": 96, "stride": 16, "train_split": "train[:8]"}},
    "objective": {"name": "spnet"},
    "training": {"steps": 4, "batch_size": 2},
}


def words(command: str, model: str, span: Path, reviews: Path) -> list[str]:
    """A command's config, as small as it can be."""
    checkpoint = ["--checkpoint", str(span), "limit=2"]
    swept = json.dumps({**SWEPT, "model": {"source": model}})
    asha = ["scheduler=asha", "report_every=1", "metric=min:train_loss"]
    return {
        "train": [*TRAINED, "objective={name: spnet}", "evaluation.limit=2", f"model.source={model}"],
        "evaluate": [*checkpoint, "--bitmap", "8"],
        "sensitivity": [*checkpoint, "unit=block"],
        "search": [*checkpoint, "space.weight=[4,8]", "space.group=block", "max_evaluations=2", "strategy=random"],
        "range-test": [*RANGED, f"model.source={model}"],
        "sweep": [f"train={swept}", "space={adapters.rank: [2, 4]}", "limit=2", *asha],
        "attack": [
            "--checkpoint", str(reviews), "limit=1", "bitmaps=[8]",
            "method={name: gbda, settings: {iterations: 1, batch: 1, samples: 1}}",
        ],
        "ptq": [
            "--checkpoint", str(span), "limit=2", "bitmaps=[8]", "methods=[{name: nearest}]",
            "calibration={examples: 2, batch_size: 2}",
        ],
        "profile": ["--checkpoint", str(span), "sequences=1", "tokens=8", "repeats=1", "bitmaps=[8]"],
        "export": ["--checkpoint", str(span), "--bitmap", "8", "--output", "packed"],
        "generate-data": [
            "generation={start: uniform, count: 2, max_length: 8}", "batch_size=2", f"model.source={model}"
        ],
    }[command]  # fmt: skip


def here(command: str) -> list[str]:
    """What lets a command work in this process; an export does so anyway."""
    return [] if command == "export" else HERE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, since making MLflow's tables takes longer than any of them."""
    return tmp_path_factory.mktemp("without_ray")


@pytest.mark.parametrize("command", JOBS)
def test_no_command_in_process_starts_ray(
    command, place, monkeypatch, capsys, random_model, span_checkpoint, review_checkpoint
):
    def started(*args: object, **options: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.chdir(place)
    small = words(command, random_model, span_checkpoint, review_checkpoint)
    monkeypatch.setattr(sys, "argv", ["qalof", command, *small, *here(command), "--json"])
    main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_nothing_but_caches_is_written_into_the_home_folder(tmp_path, random_model, span_checkpoint, review_checkpoint):
    home = tmp_path / "home"
    lines = [[c, *words(c, random_model, span_checkpoint, review_checkpoint), *here(c), "--json"] for c in JOBS]
    script = "import json, sys\nfrom orchestrate.cli.app import main\nfor line in json.loads(sys.argv[1]):\n"
    script += "    sys.argv = ['qalof', *line]\n    main()\n"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "QALOF_", "MPL"))}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(lines)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = (
        {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()} if home.exists() else set()
    )
    assert written <= {".cache"}, "matplotlib keeps its list of fonts there; a token would lie in .ray"
