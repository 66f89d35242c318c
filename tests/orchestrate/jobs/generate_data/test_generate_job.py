"""``generate-data`` on a pool: the same bytes for any number of actors and batch size, and after a kill."""

import json
import sys

import pytest

from orchestrate.cli.app import main
from orchestrate.jobs.generate_data.job import GenerateConfig
from orchestrate.jobs.run import execute
from qalof.errors import BadInputError


def config(model, root, actors=1, batch=4):
    return GenerateConfig.model_validate(
        {
            "model": {"source": model},
            "generation": {"count": 22, "max_length": 24},
            "shard_size": 5,
            "batch_size": batch,
            "workers": {"count": actors, "threads": 1},
            "tracking": {"root": str(root)},
        }
    )


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words), "--json"])
    main()
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.ray
def test_neither_actors_nor_batches_nor_a_kill_change_a_byte(ray_session, random_model, tmp_path):
    one = execute("generate-data", config(random_model, tmp_path), tmp_path / "one")
    two = execute("generate-data", config(random_model, tmp_path, actors=2, batch=3), tmp_path / "two")
    data = tmp_path / "two" / "data"
    assert content(tmp_path / "one" / "data") == content(data)
    assert (one["texts"], one["shards"], one["kind"]) == (22, 5, "texts")
    assert {k: one[k] for k in one if k not in ("data", "seconds")} == {
        k: two[k] for k in two if k not in ("data", "seconds")
    }
    # as a kill leaves it: no result, no seal, two shards missing
    whole = content(data)
    for name in ("manifest.json", "train/shard-00001.jsonl", "train/shard-00004.jsonl"):
        (data / name).unlink()
    (tmp_path / "two" / "result.json").unlink()
    kept = (data / "train" / "shard-00000.jsonl").stat().st_mtime_ns
    execute("generate-data", config(random_model, tmp_path, actors=1, batch=7), tmp_path / "two")
    assert content(data) == whole
    assert (data / "train" / "shard-00000.jsonl").stat().st_mtime_ns == kept
    # a shard that is there but was cut is not taken for good
    (tmp_path / "two" / "result.json").unlink()
    shard = data / "train" / "shard-00002.jsonl"
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(BadInputError, match=r"shard-00002.jsonl must hold samples 10 to 14: it holds 3 lines"):
        execute("generate-data", config(random_model, tmp_path), tmp_path / "two")


@pytest.mark.ray
def test_a_model_learns_from_its_own_texts_by_distillation_alone(
    ray_session, random_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    steps = 12
    pipeline = {
        "title": "LLM-QAT",
        "workers": {"count": 1, "threads": 1},
        "tracking": {"root": str(tmp_path)},
        "steps": [
            {
                "name": "generate",
                "command": "generate-data",
                "config": {
                    "model": {"source": random_model},
                    "generation": {"count": 60, "max_length": 24},
                    "shard_size": 30,
                },
            },
            {
                "name": "train",
                "command": "train",
                "config": {
                    "model": {"source": random_model},
                    "task": {
                        "name": "language-modeling",
                        "settings": {
                            "data": "step:generate/data",
                            "validation_data": "tiny",
                            "max_length": 24,
                            "stride": 24,
                        },
                    },
                    "adapters": {"widths": [8, 3]},
                    "switch": {"policy": "none"},
                    "objective": {
                        "name": "self_distillation",
                        "bitmaps": [32, 8, 3],
                        "temperature": 1.0,
                        "ce_weight": 0,
                        "feature_weight": 0,
                    },
                    "training": {"steps": steps, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": steps},
                    "evaluation": {"bitmaps": [32, 3], "limit": 4},
                },
            },
        ],
    }
    path = tmp_path / "pipeline.json"
    path.write_text(json.dumps(pipeline))
    call(monkeypatch, capsys, "run", "--config", path, "--output", tmp_path / "run")
    lines = (tmp_path / "run" / "train" / "losses.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"] for line in lines]
    assert len(losses) == steps
    assert {name for line in losses for name in line} == {"32", "8", "3"}
    rows = {
        row["bitmap"]: row for row in json.loads((tmp_path / "run/train/result.json").read_text())["result"]["rows"]
    }
    assert rows["32"]["examples"] == 4
    # the teacher has no adapter: it is the pretrained model still, and its adapters are those that were asked for
    assert sorted(p.name for p in (tmp_path / "run/train/checkpoint/adapters").iterdir()) == ["3", "8"]
    call(monkeypatch, capsys, "evaluate", "--checkpoint", tmp_path / "run/train/checkpoint", "--bitmap", "8", "limit=2",
         "workers.count=1", "--output", tmp_path / "evaluated")  # fmt: skip


def test_validate_says_how_many_texts_there_would_be(monkeypatch, capsys, tmp_path, random_model):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sweep.yaml"
    path.write_text(f"command: generate-data\nmodel: {{source: {random_model}}}\ngeneration: {{max_length: 64}}\n")
    monkeypatch.setattr(sys, "argv", ["qalof", "validate", "--config", str(path)])
    main()
    assert "4,629 texts by vocab_sweep, up to 64 tokens, 2 actors" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generation.strat=bos", "generation.strat"),
        ("generation.start=vocab_swep", "vocab_swep"),
        ("generation.max_length=400", "must fit the model's 128 positions: got 400"),
        ("generation.start=bos", "say how many"),
        ("generation={start: prompts, data: /no/such, max_length: 64}", "/no/such"),
        ("generation={start: prompts, data: tiny, max_length: 20, max_new_tokens: 16}", "room for a context"),
        ("model.source=/no/such/model", "/no/such/model"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(monkeypatch, capsys, tmp_path, random_model, override, said):
    monkeypatch.chdir(tmp_path)
    words = ["qalof", "generate-data", f"model.source={random_model}", "generation.max_length=64", override]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    assert said in error
    assert not list(tmp_path.iterdir())
