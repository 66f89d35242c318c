"""``sensitivity`` with scores of tables: files that a search can use, heat maps, correlations, and what it refuses."""

import sys
from io import StringIO
from typing import get_args

import pytest
from rich.console import Console

from orchestrate.cli.app import main
from orchestrate.document.blocks import Table
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.sensitivity.config import TABLE_SCORES, SensitivityConfig, TableScore
from orchestrate.jobs.sensitivity.table_view import heat, table_blocks, table_statements
from orchestrate.runs.directory import read_result
from qalof.checkpoint.opening import OpenCheckpoint
from search.scores.compute import SCORES, compute
from search.scores.table import ScoreTable

HERE = ["workers.count=1", "workers.in_process=true", "limit=4"]
WORDS = ["--score", "fisher", "--score", "mse", "weight=[3,4,8]", "kv=[4]", *HERE]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, lm_checkpoint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words):
        given = ["qalof", "sensitivity", "--checkpoint", str(lm_checkpoint), "--output", "run", *words]
        monkeypatch.setattr(sys, "argv", given)
        main()
        return capsys.readouterr().out

    return run


def test_the_command_knows_every_score():
    assert {*TABLE_SCORES, "metric"} == set(SCORES)
    assert get_args(TableScore) == TABLE_SCORES


def test_the_tables_are_those_of_the_model_and_several_are_compared(call, tmp_path, lm_checkpoint):
    shown = call(*WORDS)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(text in shown for text in ("█", "fisher (nats), weights", "rank correlation"))
    opened, folder = OpenCheckpoint.of(lm_checkpoint), tmp_path / "run"
    result = read_result(folder / "result.json")
    choices = {"weight": ("3", "4", "8"), "kv": ("4",)}
    for score in ("fisher", "mse"):
        table = ScoreTable.load(folder / f"scores_{score}.json")
        expected = compute(opened.model, opened.task, score, choices, examples=4)
        assert (table.values, table.fingerprint) == (expected.values, expected.fingerprint)
    assert not list(folder.glob("*.partial*"))
    ranked = [row["damage"] for row in result["ranking"]]
    assert ranked == sorted(ranked)
    assert len(ranked) == 8 * 3 + 2
    assert {(row["role"], row["bits"]) for row in result["correlations"]} == {("weight", b) for b in "348"} | {
        ("kv", "4")
    }
    assert all(row["spearman"] is None or -1 <= row["spearman"] <= 1 for row in result["correlations"])

    found = JOBS["sensitivity"].findings(folder, read_result(folder / "result.json"))
    blocks = table_blocks(found, "scores")
    heats = [block for block in blocks if isinstance(block, Table) and block.look == "heat"]
    assert [len(block.rows) for block in heats] == [8, 2, 8, 2]
    assert any(cell.heat == 1 for row in heats[0].rows for cell in row[1:])
    assert len(blocks) == 5 + 4  # a picture of each map
    said = " ".join(statement.text for statement in table_statements(found))
    assert "By fisher, weights at 3 bits do the most damage at" in said
    assert "fisher and mse rank the sites" in said


def test_the_sheet_of_a_large_model_says_where_the_rest_is(tmp_path):
    many = {"weight": {f"model.layers.{i}.mlp.down_proj": {"4": 1e-3 * i} for i in range(210)}}
    ScoreTable("fisher", "nats", "model:0", many).save(tmp_path / "scores_fisher.json")
    console = Console(file=StringIO(), width=80)
    for sheet in JOBS["sensitivity"].terminal({"score": ["fisher"], "correlations": []}, tmp_path):
        console.print(sheet)
    shown = console.file.getvalue()
    assert "rows between them are not shown; all of them are in" in " ".join(shown.split())
    assert len(shown.splitlines()) < 60


def test_a_rerun_goes_on_from_the_parts(call, tmp_path, monkeypatch):
    from search.scores import measures

    done = []
    original = measures.OneAtATime.do

    def stopping(self, index):
        done.append(index)
        if len(done) == 4:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(measures.OneAtATime, "do", stopping)
    words = ["--score", "kl", "weight=[4]", *HERE]
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        call(*words)
    call(*words)
    assert done == [0, 1, 2, 3, *range(3, 8)]
    assert len(ScoreTable.load(tmp_path / "run" / "scores_kl.json").values["weight"]) == 8


def test_a_shade_fades_over_three_orders_of_magnitude():
    assert heat(1.0, 1.0) == 1
    assert heat(1e-3, 1.0) == pytest.approx(0)
    assert heat(10**-1.5, 1.0) == pytest.approx(0.5)
    assert heat(0, 1.0) == heat(-1, 1.0) == heat(1e-9, 1.0) == heat(0, 0) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--score", "fischer"], "score must be one of metric, output_error, fisher"),
        (["score=[fisher,metric]"], "got 'metric'"),
        (["score=[fisher,fisher]"], "different names"),
        (["score=[]"], "at least one"),
        (["--score", "fisher", "reduced=[3]"], "weight, activation and kv hold its choices"),
        (["--score", "fisher", "unit=block"], "unit must be site"),
        (["--score", "fisher", "metric=loss"], "metric has no place with the score fisher"),
        (["--score", "fisher", "weight=[]"], "needs choices"),
        (["--score", "fisher", "weight=[4g]"], "must read like"),
        (["--score", "fisher", "weight=[4,4]"], "must be different"),
        (["--score", "hessian", "kv=[4]"], "weights alone"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(call, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        call(*words, *HERE)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_config_has_its_choices_by_role():
    config = SensitivityConfig(checkpoint="c", score="fisher", weight=[4, "4g32"], kv=[8])
    assert config.choices == {"weight": [4, "4g32"], "kv": [8]}
    assert config.tables == ("fisher",)
    assert SensitivityConfig(checkpoint="c").tables == ()
