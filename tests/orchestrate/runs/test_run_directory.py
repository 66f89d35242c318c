import ast
import re
import time
from pathlib import Path

import pytest

from orchestrate.runs.directory import RunDirectory, read_moment, read_result
from qalof.errors import BadInputError
from qalof.files import write_json

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {"steps": 3, "workers": {"count": 2}, "tracking": {"root": "runs"}}


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_gives_its_result(tmp_path: Path):
    first = RunDirectory.open(tmp_path / "run", "train", CONFIG)
    (first.path / "half").write_text("kept")
    again = RunDirectory.open(tmp_path / "run", "train", CONFIG)
    assert again.result is None
    assert (again.path / "half").read_text() == "kept"
    again.finish({"f1": 1.5})
    assert RunDirectory.open(tmp_path / "run", "train", CONFIG).result == {"f1": 1.5}
    assert {"config.yaml", "environment.json", "result.json", "run.json"} <= {p.name for p in first.path.iterdir()}


def test_workers_and_tracking_do_not_make_another_run(tmp_path: Path):
    RunDirectory.open(tmp_path / "run", "train", CONFIG).finish({"f1": 1.5})
    other = CONFIG | {"workers": {"count": 8}, "tracking": {"root": "elsewhere"}}
    assert RunDirectory.open(tmp_path / "run", "train", other).result == {"f1": 1.5}


def test_another_config_or_input_moves_the_old_run_aside_and_loses_nothing(tmp_path: Path, capsys):
    RunDirectory.open(tmp_path / "run", "train", CONFIG, {"data": "1"}).finish({"f1": 1.5})
    assert RunDirectory.open(tmp_path / "run", "train", CONFIG | {"steps": 4}, {"data": "1"}).result is None
    assert "another config or input" in capsys.readouterr().err
    assert RunDirectory.open(tmp_path / "run", "train", CONFIG | {"steps": 4}, {"data": "2"}).result is None
    assert "another content of data" in capsys.readouterr().err.replace("\n", " ")
    assert read_result(tmp_path / "run.1" / "result.json") == {"f1": 1.5}
    assert (tmp_path / "run.2" / "config.yaml").is_file()


def test_what_an_input_is_called_does_not_make_another_run(tmp_path: Path):
    named = CONFIG | {"task": {"data": "here", "files": ["a"]}}
    inputs = {"task.data": "1", "task.files.0": "2"}
    RunDirectory.open(tmp_path / "run", "train", named, inputs).finish({"f1": 1.5})
    other = CONFIG | {"task": {"data": "./here/", "files": ["b"]}}
    assert RunDirectory.open(tmp_path / "run", "train", other, inputs).result == {"f1": 1.5}


def test_a_folder_of_other_things_is_not_written_into(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(BadInputError, match="new or a run's folder"):
        RunDirectory.open(tmp_path, "train", CONFIG)
    with pytest.raises(BadInputError, match="is a file"):
        RunDirectory.open(tmp_path / "thesis.tex", "train", CONFIG)


def test_a_run_keeps_the_clock_times_of_its_first_start_and_its_finish(tmp_path: Path):
    before = time.time() - 1
    RunDirectory.open(tmp_path / "run", "train", CONFIG)
    first = read_moment(tmp_path / "run" / "run.json", "started")
    RunDirectory.open(tmp_path / "run", "train", CONFIG).finish({"f1": 1.5})
    result = tmp_path / "run" / "result.json"
    assert before < first == read_moment(result, "started") <= read_moment(result, "finished") < time.time() + 1
    write_json(result, {"format_version": 1, "result": {}})
    assert read_moment(result, "finished") is None
    write_json(result, {"finished": "yesterday"})
    with pytest.raises(BadInputError, match="finished of .* must be a time"):
        read_moment(result, "finished")


@pytest.mark.parametrize("data", [[], "text", {"format_version": 1}, {"format_version": 1, "result": [1]}])
def test_a_result_file_of_another_form_is_bad_input(tmp_path: Path, data: object):
    write_json(tmp_path / "result.json", data)
    with pytest.raises(BadInputError, match=r"result\.json must hold an object with a result"):
        read_result(tmp_path / "result.json")


def test_a_result_of_a_newer_version_is_refused(tmp_path: Path):
    write_json(tmp_path / "result.json", {"format_version": 99, "result": {}})
    with pytest.raises(BadInputError, match="99"):
        read_result(tmp_path / "result.json")


def test_every_file_of_a_run_directory_is_named_in_its_layout():
    """What a command writes has its name from ``runs/layout.py``; the others are no files of a run directory."""
    others = {"search.jsonl", "bitmap.json", "checkpoint_manager_snapshot.json"}  # the API's default, MLflow's, Ray's
    named = {
        node.value
        for path in sorted((ROOT / "orchestrate" / "jobs").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {name for name in named if re.fullmatch(r"\w+\.(jsonl?|csv|png|svg|yaml|pdf|html)", name)} == others
