"""Work in this very process, without Ray; profiles; and evaluation on another task than the checkpoint's."""

import json
import sys
from pathlib import Path
from statistics import fmean

import pytest
import ray

from orchestrate.cli.app import main
from orchestrate.config.sections import WorkersConfig
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.job import check_search
from orchestrate.jobs.train import in_process as train_in_process
from orchestrate.jobs.train.storage import keep_best
from qalof.checkpoint.manifest import read_manifest
from qalof.checkpoint.opening import load
from qalof.errors import BadInputError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
HERE = ["workers.count=1", "workers.in_process=true"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, since making MLflow's tables takes longer than any of them."""
    return tmp_path_factory.mktemp("here")


@pytest.fixture
def call(monkeypatch, capsys, place):
    monkeypatch.chdir(place)

    def run(*words) -> dict:
        started = ray.is_initialized()
        monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words), *HERE, "--json"])
        main()
        assert ray.is_initialized() == started
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def refusal(call, capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        call(*words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_profile_has_sizes_and_speed_at_each_bitmap_and_none_of_what_cannot_be(call, span_checkpoint):
    quick = ["sequences=1", "tokens=8", "repeats=1", "bitmaps=[8,w4]"]
    found = call("profile", "--checkpoint", span_checkpoint, *quick)
    eight, four = (row["metrics"] for row in found["rows"])
    assert four["packed_bytes"][0] < eight["packed_bytes"][0]
    assert eight["prefill_tokens_per_second"][0] > 0
    assert "decode_tokens_per_second" not in eight, "a span model generates nothing"
    assert found == call("profile", "--checkpoint", span_checkpoint, *quick), "a finished run is taken as it stands"


def test_a_search_takes_the_latencies_that_a_profile_measured(call, span_checkpoint, place):
    words = ["measures=[latency]", "repeats=2", "bitmaps=[8,4]", "--output", place / "timed"]
    found = call("profile", "--checkpoint", span_checkpoint, *words)
    eight, four = (row["metrics"]["latency_seconds"][0] for row in found["rows"])
    given = {"checkpoint": str(span_checkpoint), "latency": str(place / "timed" / "latency.json")}
    limits = {"latency_seconds": (eight + four) / 2}
    checked = check_search(SearchConfig.model_validate({**given, "space": {"weight": [4, 8]}, "limits": limits}))
    uniform = {str(bitmap): checked.space.cost(bitmap).latency_seconds for bitmap in checked.space.uniform()}
    assert uniform == {"8" if eight < four else "4": min(eight, four)}
    with pytest.raises(BadInputError, match="a latency table must have every choice"):
        check_search(SearchConfig.model_validate({**given, "space": {"weight": [3, 8]}}))


def test_a_bad_profile_is_one_line(call, capsys, span_checkpoint):
    assert "measures" in refusal(call, capsys, "profile", "--checkpoint", span_checkpoint, "measures=[sise]")
    assert "/no/such" in refusal(call, capsys, "profile", "--checkpoint", "/no/such")


def test_a_checkpoint_is_scored_on_another_task_of_its_head_alone(call, capsys, span_checkpoint):
    other = 'task={name: squad-span, settings: {max_length: 96, stride: 16, validation_split: "validation[:3]"}}'
    found = call("evaluate", "--checkpoint", span_checkpoint, "bitmaps=[8]", other)
    assert found["rows"][0]["examples"] == 3
    wrong = refusal(call, capsys, "evaluate", "--checkpoint", span_checkpoint, "task={name: language-modeling}")
    assert "causal-lm head" in wrong


def test_a_checkpoint_is_scored_under_random_precision_besides_its_bitmaps(call, span_checkpoint):
    few = 'task={name: squad-span, settings: {max_length: 96, stride: 16, validation_split: "validation[:3]"}}'
    words = ["evaluate", "--checkpoint", span_checkpoint, "bitmaps=[8,4]", few, "--random-precision", "8"]
    alone = call(*words)
    assert set(alone["random_precision"]["metrics"]) == {"exact_match", "f1"}
    assert alone["random_precision"]["metrics"] == alone["rows"][0]["metrics"], "a set of one is that bitmap"
    both = call(*words, "--random-precision", "4", "random_precision.draws=3")["random_precision"]
    low, high = both["spread"]["f1"]
    assert low <= both["metrics"]["f1"][0] <= high
    assert (both["draws"], both["examples"], both["defense"]["granularity"]) == (3, 3, "request")
    layer = call(*words, "--random-precision", "4", "random_precision={granularity: layer, draws: 2}")
    assert layer["random_precision"]["defense"]["granularity"] == "layer"
    assert layer["rows"] == alone["rows"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("random_precision={bitmaps: []}", "at least 1"),
        ("random_precision={bitmaps: [8], granularity: tokens}", "granularity"),
        ("random_precision={bitmaps: [8], granularity: token}", "from left to right"),
        ("random_precision={bitmaps: [8], batch_size: 4}", "needs granularity batch"),
        ("random_precision={bitmaps: [8], probability: 0.5}", "needs a baseline"),
        ("random_precision={bitmaps: [1]}", "1"),
        ("random_precision={bitmaps: [8], draws: 0}", "draws"),
    ],
)
def test_random_precision_that_cannot_be_scored_is_refused_in_one_line(call, capsys, span_checkpoint, override, said):
    words = refusal(call, capsys, "evaluate", "--checkpoint", span_checkpoint, "bitmaps=[8]", override)
    assert said in words
    assert "Traceback" not in words


def test_searches_and_sensitivities_need_no_ray(call, span_checkpoint):
    ranked = call("sensitivity", "--checkpoint", span_checkpoint, "limit=2", "unit=block")
    assert len(ranked["ranking"]) == 2
    small = ["limit=2", "space.weight=[4,8]", "space.group=block", "max_evaluations=3", "strategy=random"]
    assert call("search", "--checkpoint", span_checkpoint, *small)["evaluations"] == 3


def test_in_process_is_one_worker():
    assert WorkersConfig(count=1, in_process=True).in_process
    with pytest.raises(ValueError, match="count 1: got 2"):
        WorkersConfig(in_process=True)


FALLING_LOSS = [
    'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:16]"}}',
    "objective={name: spnet}", "training={steps: 8, batch_size: 4, checkpoint_every: 3, learning_rate: 0.03}",
    "evaluation.limit=2", "keep_best={metric: worst:train_loss}",
]  # fmt: skip


def test_the_best_checkpoint_is_kept_in_process_too_and_a_kill_does_not_lose_it(call, monkeypatch, random_model, place):
    config = [*FALLING_LOSS, f"model.source={random_model}"]
    best = call("train", *config, "--output", place / "whole")["best"]
    reports = [json.loads(line)["losses"].values() for line in (place / "whole" / "losses.jsonl").open()]
    means = [sum(losses) / len(losses) for losses in reports]
    scores = {end: fmean(means[start:end]) for start, end in ((0, 3), (3, 6), (6, 8))}
    assert best["value"] == max(scores.values())
    assert best["step"] == max(scores, key=scores.__getitem__) != 8, "the last is not the best here"
    assert read_manifest(place / "whole" / "checkpoint_best")["extra"]["step"] == best["step"]
    assert read_manifest(place / "whole" / "checkpoint")["extra"]["step"] == 8

    def killed(found, target):
        """Between the best checkpoint and its copy."""
        if found and found[-1].step == best["step"]:
            raise RuntimeError("killed")
        return keep_best(found, target)

    monkeypatch.setattr(train_in_process, "keep_best", killed)
    with pytest.raises(RuntimeError, match="killed"):
        call("train", *config, "--output", place / "cut")
    assert read_manifest(place / "cut" / "checkpoint")["extra"]["step"] == best["step"]
    monkeypatch.setattr(train_in_process, "keep_best", keep_best)
    again = call("train", *config, "--output", place / "cut")["best"]
    assert again | {"checkpoint": ""} == best | {"checkpoint": ""}
    ours, theirs = (load(place / name / "checkpoint_best") for name in ("cut", "whole"))
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert one.equal(other), name


@pytest.mark.ray
def test_training_in_process_gives_the_weights_of_one_worker_on_ray(ray_session, call, monkeypatch, capsys, tmp_path):
    config = [
        "task={name: squad-span, settings: {max_length: 96, stride: 16}}", "objective={name: spnet}",
        "training={steps: 2, batch_size: 2, checkpoint_every: 1}", "evaluation.limit=2", "workers.threads=1",
    ]  # fmt: skip
    call("train", *config, "--output", tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["qalof", "train", *config, "workers.count=1", "--output", str(tmp_path / "ray")])
    main()
    here, there = (load(tmp_path / name / "checkpoint") for name in ("here", "ray"))
    for (name, ours), (_, theirs) in zip(here.named_parameters(), there.named_parameters(), strict=True):
        assert ours.equal(theirs), name


@pytest.fixture
def loads(monkeypatch):
    """Each time that pretrained weights are loaded, or all of them hashed."""
    from qalof.model import origin, pretrained

    seen = {"loaded": 0, "hashed": 0}

    def counted(name, original):
        def call(*arguments, **named):
            seen[name] += 1
            return original(*arguments, **named)

        return call

    monkeypatch.setattr(pretrained, "load_pretrained", counted("loaded", pretrained.load_pretrained))
    monkeypatch.setattr(origin, "weights_digest", counted("hashed", origin.weights_digest))
    return seen


def test_an_evaluation_in_process_loads_and_hashes_its_model_once(call, span_checkpoint, loads):
    call("evaluate", "--checkpoint", span_checkpoint, "limit=2", "--bitmap", "4", "--output", "runs/loads_once")
    assert loads == {"loaded": 1, "hashed": 1}


def test_a_training_in_process_assembles_its_model_once_and_loads_it_once_to_score_it(call, loads):
    config = CONFIGS / "train" / "sp_tiny.yaml"
    small = [
        "training.steps=1",
        "training.batch_size=2",
        "training.warmup_steps=0",
        "evaluation.limit=2",
        "evaluation.bitmaps=[4]",
    ]
    call("train", "--config", config, "--output", "runs/trained_once", *small)
    assert loads == {"loaded": 2, "hashed": 2}
