"""Whatever a command is told to write where nothing can be: one line, exit code 2, and everything as it was."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrate.cli.app import app, main
from orchestrate.jobs.export.config import ExportFormat
from orchestrate.jobs.registry import JOBS
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.files import write_json
from qalof.writing import check_file, check_folder, check_writable
from tests.orchestrate.report.test_report_tools import CONFIGS, RESULTS, TASK, write_step
from tests.ordinary import ordinary_user

WRITING = {"bitmap", "register", "sync", "run", "demo", "report"}
"""Commands other than jobs that write."""
READING = {"validate", "ui", "ls", "show", "submit"}
LEAST = {
    **CONFIGS,
    "train": {"task": TASK, "objective": {"name": "spnet"}},
    "sensitivity": {"checkpoint": "c"},
    "search": {"checkpoint": "c"},
    "attack": {"checkpoint": "c", "bitmaps": [8]},
    "export": {"checkpoint": "c", "bitmap": 8},
}
"""The least config of each job."""
NO_FOLDER = ["a file", "below a file", "too long", "long beside", "without permission", "read-only", "nowhere", "loop"]
NO_FILE = ["a folder", *NO_FOLDER[1:6]]


@pytest.fixture
def places(tmp_path, monkeypatch) -> Iterator[dict[str, Path]]:
    """Places where nothing can be written, by what is wrong with them, below a folder that is the current one."""
    here = tmp_path / "here"
    closed = here / "closed"
    closed.mkdir(parents=True)
    (here / "file").write_text("kept")
    (here / "dangling").symlink_to(here / "nowhere" / "at all")
    (here / "loop").symlink_to(here / "loop")
    (here / "folder").mkdir()
    (here / "folder" / "other").write_text("kept")
    closed.chmod(0o555)
    monkeypatch.chdir(here)
    with ordinary_user():
        yield {
            "a file": here / "file",
            "a folder": here / "folder",
            "below a file": here / "file" / "run",
            "too long": here / "new" / ("x" * 300),
            "long beside": here / "new" / ("x" * 250),
            "without permission": closed / "new" / "run",
            "read-only": Path("/proc/new/run"),
            "nowhere": here / "dangling",
            "loop": here / "loop" / "run",
            "other things": here / "folder",
        }
    closed.chmod(0o755)


def refusal(monkeypatch, capsys, *words: object) -> str:
    """The line that a command ends with, once it is seen that nothing else has happened."""
    before = tree(Path.cwd())
    monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("error: "), said.err
    assert tree(Path.cwd()) == before
    return said.err


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.fixture
def stand_in(job_of, monkeypatch):
    """Puts a job of the same name and config in a command's place, which may not be asked to do anything."""

    def put(command: str, check=None) -> None:
        def never(*given: object) -> None:
            raise AssertionError("a bad place is refused before anything is loaded")

        made = job_of(command, JOBS[command].config, check or never, never)
        monkeypatch.setitem(JOBS, command, made)

    return put


@pytest.fixture
def config_of(tmp_path):
    """Writes the least config of a command, with more settings; returns the file."""

    def write(command: str, **more: object) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**LEAST[command], **more}))
        return path

    return write


@pytest.mark.parametrize("kind", NO_FOLDER)
def test_a_record_of_models_that_cannot_be_made_is_refused_before_anything_is_loaded(kind, places, monkeypatch, capsys):
    words = ["register", "--checkpoint", "nowhere", "--name", "m", "--bitmap", "8", "--root", places[kind]]
    assert "tracking.root" in refusal(monkeypatch, capsys, *words)


def test_every_command_is_known_here_as_one_that_writes_or_one_that_does_not():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == {*JOBS, *WRITING, *READING}


@pytest.mark.parametrize("wrong", [*NO_FOLDER, "other things"])
@pytest.mark.parametrize("command", JOBS)
def test_a_job_refuses_an_output_that_cannot_be_before_it_loads_anything(
    command, wrong, places, stand_in, config_of, monkeypatch, capsys
):
    stand_in(command)
    said = refusal(monkeypatch, capsys, command, "--config", config_of(command), "--output", places[wrong])
    assert str(places[wrong]) in said


@pytest.mark.parametrize("wrong", NO_FOLDER)
@pytest.mark.parametrize("command", JOBS)
def test_a_job_refuses_a_place_for_its_record_that_cannot_be_and_makes_no_run(
    command, wrong, places, stand_in, config_of, monkeypatch, capsys
):
    stand_in(command)
    path = config_of(command, tracking={"root": str(places[wrong])})
    said = refusal(monkeypatch, capsys, command, "--config", path, "--output", "run")
    assert "tracking.root" in said
    assert str(places[wrong]) in said


@pytest.mark.parametrize("content", [None, "no data base"])
def test_a_record_that_is_no_data_base_is_refused_before_the_run_is_made(
    content, places, stand_in, config_of, monkeypatch, capsys
):
    record = places["a folder"] / "mlflow.db"
    record.mkdir() if content is None else record.write_text(content)
    (places["a folder"] / ".mlflow.db.lock").touch()
    stand_in("evaluate", check=lambda config: None)
    path = config_of("evaluate", tracking={"root": str(record.parent)})
    assert "mlflow.db" in refusal(monkeypatch, capsys, "evaluate", "--config", path, "--output", "run")


@pytest.mark.parametrize("wrong", NO_FOLDER)
@pytest.mark.parametrize("what", ["output", "record"])
def test_a_pipeline_refuses_places_that_cannot_be_before_its_first_step(
    what, wrong, places, stand_in, tmp_path, monkeypatch, capsys
):
    stand_in("train")
    steps = [{"name": "a", "command": "train", "config": LEAST["train"]}]
    record = {"tracking": {"root": str(places[wrong])}} if what == "record" else {}
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"command": "run", "title": "t", "steps": steps, **record}))
    output = places[wrong] if what == "output" else "run"
    assert str(places[wrong]) in refusal(monkeypatch, capsys, "run", "--config", path, "--output", output)


@pytest.mark.parametrize("wrong", NO_FOLDER)
def test_the_demo_refuses_an_output_that_cannot_be(wrong, places, monkeypatch, capsys):
    assert str(places[wrong]) in refusal(monkeypatch, capsys, "demo", "scale=tiny", "--output", places[wrong])


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        *(
            (form, wrong)
            for form in ("packed", "gguf-lora", "compressed-tensors")
            for wrong in [*NO_FOLDER, "other things"]
        ),
        *(("gguf", wrong) for wrong in [*NO_FILE, *NO_FOLDER]),
    ],
)
def test_an_export_refuses_a_target_that_cannot_be_before_it_loads_anything(form, wrong, places, monkeypatch, capsys):
    assert {"packed", "gguf-lora", "gguf", "compressed-tensors"} == set(ExportFormat)
    target = places[wrong]
    if form == "gguf" and wrong not in ("too long", "long beside"):
        named = target.with_name(f"{target.name}.gguf")
        if target.exists() or target.is_symlink():
            named.symlink_to(target)
        target = named
    elif form == "gguf":
        target = target.with_name(f"{target.name[5:]}.gguf")
    words = ["--checkpoint", "none", "--bitmap", "8", "--format", form, "--output", target]
    assert str(target) in refusal(monkeypatch, capsys, "export", *words)


@pytest.mark.parametrize("wrong", NO_FILE)
def test_a_picture_that_cannot_be_is_refused(wrong, places, tmp_path, monkeypatch, capsys):
    spec = tmp_path / "bitmap.json"
    write_json(spec, Bitmap.uniform(["h.0.attn", "h.1.attn"], 8).to_json())
    target = places[wrong].with_name(f"{places[wrong].name[5:] if 'x' * 200 in places[wrong].name else 'p'}.png")
    if wrong == "a folder":
        target.mkdir()
    assert str(target) in refusal(monkeypatch, capsys, "bitmap", spec, "--picture", target)


def test_a_report_that_cannot_be_written_is_refused(places, tmp_path, monkeypatch, capsys):
    run = places["a folder"].parent / "run"
    write_step(run, "range-test", RESULTS["range-test"])
    (run / "report.html").mkdir()
    assert "report.html" in refusal(monkeypatch, capsys, "report", run)
    (run / "report.html").rmdir()
    run.chmod(0o555)
    assert "report.html" in refusal(monkeypatch, capsys, "report", run)
    run.chmod(0o755)


def test_seeing_whether_a_place_can_be_written_leaves_nothing(places, tmp_path):
    good = tmp_path / "here" / "new" / "deep" / "run"
    before = tree(tmp_path)
    for check in (check_writable, lambda p: check_file(p, "it"), lambda p: check_folder(p, "it")):
        check(good)
        assert tree(tmp_path) == before
    for wrong in NO_FOLDER:
        with pytest.raises(BadInputError):
            check_folder(places[wrong], "it")
        assert tree(tmp_path) == before
    good.mkdir(parents=True)
    check_folder(good, "it")
    assert not list(good.iterdir())
