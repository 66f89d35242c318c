"""The command line on bad input: exit code 2, one line, and no worker started."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import ray
import yaml

from orchestrate.cli.app import main
from orchestrate.cli.jobs import share_of
from orchestrate.config.renamed import RENAMED
from orchestrate.jobs import run as jobs
from qalof.errors import BadInputError
from search import SearchResult

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TRAIN = ["train", "--config", str(CONFIGS / "train" / "sp_tiny.yaml")]


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), (" 0.02", 0.02), ("2 %", 0.02), ("2 % ", 0.02)])
def test_a_share_is_read_in_percent_or_as_a_number(text, share):
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "two", "2%%", "% 2", "2 % of"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(BadInputError, match="--resolve must be a share, such as 2%"):
        share_of(text)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; returns its exit code and what it wrote to standard error."""
    monkeypatch.chdir(tmp_path)
    started = ray.is_initialized()

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ray.is_initialized() == started, "bad input must be found before any worker starts"
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def refused(outcome: tuple[int, str], *parts: str) -> None:
    code, error = outcome
    assert code == 2, error
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error


def test_a_stop_from_the_keyboard_is_no_success_and_says_how_to_go_on(call, monkeypatch):
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "execute", stopped)
    code, error = call(*TRAIN)
    assert code == 1
    assert error.strip().endswith("error: stopped; the same command goes on from here")


def test_a_misspelled_key_command_or_option(call):
    refused(call(*TRAIN, "training.stesp=3"), "training.stesp", "steps")
    refused(call("trian"), "trian")
    refused(call("train", "--confg", "x.yaml"), "--confg")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objective.bitmaps=[8,17]", ("17", "2", "16")),
        ("objective.bitmaps=[8,striped]", ("striped",)),
        ("objective.bitmaps=[[8,4,4]]", ("list", "3")),
        ("workers.count=3", ("workers.count", "3", "32")),
        ("task.settings.data=/no/such/folder", ("/no/such/folder",)),
        ("model.source=/no/such/model", ("/no/such/model",)),
        ("evaluation.bitmaps=[1]", ("1", "2")),
        ("workers.min_count=3", ("min_count", "3", "2")),
        ("keep_best={metric: max:f2}", ("f2", "f1")),
        ("keep_best={metric: min:weight_bytes}", ("weight_bytes", "cost")),
        ("keep_best={bitmaps: [17]}", ("17",)),
    ],
)
def test_what_a_training_run_cannot_use(call, random_model, override, parts):
    refused(call(*TRAIN, f"model.source={random_model}", override), *parts)
    assert not Path("runs").exists(), "bad input must leave nothing behind"


def test_an_unreachable_hub(call, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(call(*TRAIN, "model.source=openai-community/gpt2"), "openai-community/gpt2", "hub")


def test_a_missing_or_damaged_checkpoint(call, span_checkpoint, tmp_path):
    refused(call("evaluate", "--checkpoint", "/no/such/checkpoint"), "/no/such/checkpoint")
    damaged = tmp_path / "damaged"
    shutil.copytree(span_checkpoint, damaged)
    weights = next((damaged / "adapters").rglob("*.safetensors"))
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for command in ("evaluate", "sensitivity", "search", "attack"):
        refused(call(command, "--checkpoint", damaged), str(damaged), "damaged")


@pytest.mark.parametrize(
    ("spec", "part"),
    [("h.0.nowhere=4", "nowhere"), ("8,4,4", "3"), ("9.5", "9.5"), ("eight", "eight"), ("w4a99", "99")],
)
def test_a_bitmap_that_does_not_fit(call, span_checkpoint, spec, part):
    refused(call("evaluate", "--checkpoint", span_checkpoint, "--bitmap", spec), part)


def test_a_bitmap_file_with_an_unknown_site(call, span_checkpoint, tmp_path):
    path = tmp_path / "map.json"
    path.write_text('{"version": 1, "sites": {"h.9.attn.c_attn": 4}}')
    refused(call("evaluate", "--checkpoint", span_checkpoint, "--bitmap", path), "h.9.attn.c_attn")


def test_a_budget_that_no_bitmap_of_the_space_meets(call, span_checkpoint):
    refused(
        call("search", "--checkpoint", span_checkpoint, "space.weight=[4,8]", "limits={average_bits: 3}"),
        "average_bits",
        "3",
        "4",
    )


def test_budgets_of_the_command_line_get_their_best_bitmaps_and_further_ones_measure_nothing_again(
    monkeypatch, capsys, span_checkpoint, tmp_path
):
    here = ["limit=4", "space={weight: [4, 8], group: block}", "max_evaluations=12", "strategy_options.rounds=0",
            "workers={count: 1, threads: 1, in_process: true}", f"tracking.root={tmp_path}/m", "--json"]  # fmt: skip
    words = ["qalof", "search", "--checkpoint", str(span_checkpoint), "--output", str(tmp_path / "s"), *here]

    def found(*budgets: str) -> tuple[dict, list[dict]]:
        monkeypatch.setattr(sys, "argv", [*words, *(word for budget in budgets for word in ("--budget", budget))])
        main()
        lines = (tmp_path / "s" / "search.jsonl").read_text().splitlines()
        return json.loads(capsys.readouterr().out.splitlines()[-1]), [json.loads(line) for line in lines]

    result, record = found("5", "6.5")
    assert result["strategy"] == "guided"
    bits = {point.cost.average_bits for point in SearchResult.load(tmp_path / "s").points}
    assert bits == {4.0, 6.0, 8.0}
    result, more = found("5", "6.5", "7")
    assert more[: len(record)] == record
    assert not [line for line in more[len(record) :] if "measurement" in line]


def test_searches_and_attacks_that_cannot_start(call, span_checkpoint):
    refused(call("search", "--checkpoint", span_checkpoint, "strategy=tpee"), "tpee", "tpe")
    refused(call("search", "--checkpoint", span_checkpoint, "objectives=[max:f2]"), "f2", "f1")
    refused(call("attack", "--checkpoint", span_checkpoint), "classifier")
    refused(call("sensitivity", "--checkpoint", span_checkpoint, "reduced=[8]"), "reduced", "8")
    refused(call("sensitivity", "--checkpoint", span_checkpoint, "lowered=[4]"), "it is named reduced now")


def test_an_address_where_no_cluster_is(call, span_checkpoint):
    refused(call("evaluate", "--checkpoint", span_checkpoint, "--address", "127.0.0.1:9"), "127.0.0.1:9")


def test_a_run_folder_that_holds_other_things(call, span_checkpoint, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    refused(call("evaluate", "--checkpoint", span_checkpoint, "--output", tmp_path / "thesis"), "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "words"


def test_a_pipeline_without_config_and_a_pipeline_with_a_bad_step(call, tmp_path):
    refused(call("run"), "--config")
    demo = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    demo["steps"][3]["config"]["limts"] = {}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(demo))
    refused(call("run", "--config", path), "step search", "limts", "limits")


@pytest.mark.parametrize("name", ["train/sp_tiny", "train/cpt_tiny", "train/classifier_tiny", "demo"])
def test_validate_says_what_would_run_and_runs_nothing(monkeypatch, capsys, random_model, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS / f"{name}.yaml"
    source = [] if name == "demo" else [f"model.source={random_model}"]
    monkeypatch.setattr(sys, "argv", ["qalof", "validate", "--config", str(config), *source])
    main()
    said = capsys.readouterr().out
    assert "steps of 32 sequences on 2 workers" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_whoever_writes_the_old_name_of_a_command_is_told_the_new_one(call, tmp_path, old, new):
    path = tmp_path / "old.yaml"
    step = {"name": "a", "command": old, "config": {"checkpoint": "x"}}
    for text, command in (
        ({"command": old}, "validate"),
        ({"command": old, "checkpoint": "x"}, new),
        ({"command": "run", "steps": [step]}, "run"),
    ):
        path.write_text(yaml.safe_dump(text))
        refused(call(command, "--config", path), f"{old} is named {new} now")
    refused(call(old), f"{old} is named {new} now")


def test_what_validate_says_fits_80_columns_loses_no_word_and_cuts_no_path(monkeypatch, capsys):
    said = "\n".join(["a title of a pipeline", "  cost: " + "many words of what it costs, " * 9, "/a/path" * 20])
    monkeypatch.setattr("orchestrate.pipeline.describe.describe_config", lambda *given: said)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["qalof", "validate", "--config", "any.yaml"])
    main()
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines.pop() == "/a/path" * 20
    assert max(map(len, lines)) <= 80
    assert "".join(shown.split()) == "".join(said.split())
    assert shown.startswith("a title of a pipeline\n  cost: many")
