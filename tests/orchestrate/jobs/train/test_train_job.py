"""Training on Ray: any number of workers, any kill, the same weights."""

from pathlib import Path

import pytest
import torch

import qalof
from orchestrate.config.sections import KeepBestConfig
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.run import execute
from orchestrate.jobs.train.storage import kept_checkpoints
from qalof.bitmap import Bitmap
from qalof.checkpoint.manifest import read_manifest
from qalof.errors import NonFiniteLossError

pytestmark = pytest.mark.ray


def config(source, root, **changes):
    data = {
        "model": {"source": source},
        "task": {
            "name": "squad-span",
            "settings": {
                "max_length": 96,
                "stride": 16,
                "train_split": "train[:48]",
                "validation_split": "validation[:8]",
            },
        },
        "adapters": {"rank": 2, "dropout": 0.1},
        "objective": {"name": "cascade", "bitmaps": [8, 4]},
        "training": {"steps": 8, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": 2, "seed": 3},
        "workers": {"count": 2, "threads": 1},
        "evaluation": {"bitmaps": [8]},
        "tracking": {"root": str(root)},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        data[section] = {**data[section], name: value}
    return TrainConfig.model_validate(data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted((folder / "checkpoint").rglob("*.safetensors"))
    assert files
    return {f"{path.relative_to(folder)}/{name}": t for path in files for name, t in load_file(path).items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **(tolerance or {"atol": 0, "rtol": 0}), msg=name)


def losses(folder: Path) -> dict[int, dict[str, float]]:
    import json

    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {line["step"]: line["losses"] for line in lines}


@pytest.mark.slow
def test_eight_workers_train_the_tiny_model_with_the_losses_of_one(ray_session, tmp_path):
    # unrounded activations: a rounding step turns the last bit of a sum into a whole level
    changes = {
        "objective__bitmaps": ["w8a32kv32", "w4a32kv32"],
        "training__batch_size": 16,
        "training__steps": 4,
        "adapters__dropout": 0.0,
    }
    eight = config("tiny", tmp_path, workers__count=8, **changes)
    one = config("tiny", tmp_path, workers__count=1, workers__in_process=True, **changes)
    execute("train", eight, tmp_path / "eight")
    execute("train", one, tmp_path / "one")
    ours, theirs = losses(tmp_path / "eight"), losses(tmp_path / "one")
    assert len(ours) == 4
    for step, values in ours.items():
        assert values == pytest.approx(theirs[step], rel=1e-4)


def test_a_loss_that_is_not_finite_names_step_and_bitmap_and_keeps_the_last_checkpoint(
    ray_session, random_model, tmp_path
):
    exploding = config(random_model, tmp_path, training__learning_rate=1e30, training__checkpoint_every=1)
    with pytest.raises(NonFiniteLossError) as caught:
        execute("train", exploding, tmp_path / "run")
    assert caught.value.step == 1
    assert str(caught.value.bitmap) in ("8", "4")
    assert not (tmp_path / "run" / "result.json").exists()
    manifest = read_manifest(tmp_path / "run" / "checkpoint")
    assert manifest["extra"]["step"] == 1, manifest["extra"]


def test_the_best_checkpoint_is_kept_besides_the_last_and_watching_changes_no_weight(
    ray_session, random_model, tmp_path
):
    # a step this large spoils the model in the end
    changes = {"training__learning_rate": 0.05, "training__checkpoint_every": 3, "workers__count": 1}
    completion = {"max_length": 128, "train_split": "train[:48]", "validation_split": "validation[:8]"}
    changes |= {"task__name": "squad-completion", "task__settings": completion}
    plain = config(random_model, tmp_path, **changes)
    watching = plain.model_copy(update={"keep_best": KeepBestConfig(metric="min:loss", bitmaps=[8, 4], limit=6)})
    best = execute("train", watching, tmp_path / "run")["best"]
    assert execute("train", plain, tmp_path / "plain")["best"] is None
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "checkpoint_best").exists()
    manifest = read_manifest(tmp_path / "run" / "checkpoint_best")
    assert best["step"] == manifest["extra"]["step"] in (3, 6, 8)
    model, task = qalof.load(tmp_path / "run" / "checkpoint_best"), qalof.task_of(tmp_path / "run" / "checkpoint_best")
    values = []
    for bitmap in best["bitmaps"]:
        model.set_bitmap(Bitmap.parse(bitmap, model.site_names))
        values.append(task.evaluate(model, limit=6).metrics["loss"])
    assert best["value"] == pytest.approx(sum(values) / 2, rel=1e-12)
    others = [-kept.score for kept in kept_checkpoints(tmp_path / "run" / "ray" / "train")]
    assert best["value"] == min(others)
