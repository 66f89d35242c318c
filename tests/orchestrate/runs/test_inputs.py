"""Everything that a result depends on counts: no finished run is taken as it stands once any of it has changed."""

import json
import os
import re
import shutil
import time
import typing
from pathlib import Path

import pytest

from orchestrate.config.loader import to_plain, validate
from orchestrate.config.plain_yaml import PATH_NAMES
from orchestrate.config.train import TrainConfig
from orchestrate.document.table_config import TableConfig
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.sweep.config import SweepConfig
from orchestrate.jobs.sweep.plan import sweep_configs
from orchestrate.pipeline.plan import PipelineConfig
from orchestrate.pipeline.run import run_pipeline
from orchestrate.runs.directory import fingerprint_of
from orchestrate.runs.inputs import input_digests
from qalof.digests import LARGE, file_digest, path_digest
from qalof.paths import annotations_of, field_of, paths_of
from qalof.tasks.factory import TASKS
from qalof.tasks.zero_shot_data import BENCHMARKS
from qalof.tiny import REVIEWS_DIR, SQUAD_DIR

LIKE_A_PATH = re.compile(
    r"(^|_)(path|file|folder|dir|directory|root|source|data|checkpoint|list|targets|synonyms|antonyms|encoder|lm|corpus"
    r"|texts|storage|cache|gguf|tokenizer)s?($|_)"
)
NO_PATHS = {
    (TableConfig, "source"): "where the reference prints a table",
}


def settings_classes() -> set[type]:
    """Every config class, and every settings class that one can hold."""
    found: set[type] = set()

    def visit(annotation: object) -> None:
        if isinstance(annotation, type) and annotation not in found and annotations_of(annotation):
            found.add(annotation)
            for inner in annotations_of(annotation).values():
                visit(inner)
        for inner in typing.get_args(annotation):
            visit(inner)

    for kind in (*(job.config for job in JOBS.values()), PipelineConfig, *(kind for _, kind in TASKS.values())):
        visit(kind)
    return found


def texts(annotation: object) -> bool:
    """Whether a value of this type may be a text of any content."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation in (str, Path) or any(texts(each) for each in inner)


def test_the_walk_finds_the_classes_that_it_must():
    names = {kind.__name__ for kind in settings_classes()}
    assert {"TrackingConfig", "ModelConfig", "SpanSettings", "TextFoolerSettings", "GenerationSettings"} <= names
    assert len(names) > 40


@pytest.mark.parametrize("kind", sorted(settings_classes(), key=lambda kind: kind.__name__), ids=lambda k: k.__name__)
def test_a_setting_that_is_called_like_a_path_has_the_type_of_one(kind):
    for name, annotation in annotations_of(kind).items():
        if texts(annotation) and LIKE_A_PATH.search(name) and (kind, name) not in NO_PATHS:
            assert field_of(annotation) is not None, f"{kind.__name__}.{name} must be typed as one of qalof.paths"


def test_the_names_of_paths_are_those_of_all_settings_that_are_paths_and_of_no_others():
    named: dict[str, set[bool]] = {}
    for kind in settings_classes():
        for name, annotation in annotations_of(kind).items():
            field = field_of(annotation)
            if field is not None and not field.bitmap:
                named.setdefault(name, set()).add(True)
            elif name in PATH_NAMES:
                assert texts(annotation), f"{kind.__name__}.{name} is no text: call it otherwise"
    assert set(named) <= PATH_NAMES
    assert set(PATH_NAMES) - set(named) <= {"scale"}, "a scale's name or file, read before the config is"


def test_a_setting_that_is_used_as_a_path_has_the_type_of_one():
    root = Path(__file__).parents[3]
    used = re.compile(r"(?:Path|expanded|load_squad|load_text|read_thesaurus|targets_of|open_checkpoint)\(([\w.]+)\)")
    named = {
        found.rpartition(".")[2]
        for path in [*root.glob("qalof/**/*.py"), *root.glob("orchestrate/**/*.py")]
        for found in used.findall(path.read_text())
        if "." in found
    }
    assert "checkpoint" in named, "the search finds what it must"
    for kind in settings_classes():
        for name, annotation in annotations_of(kind).items():
            if name in named and texts(annotation) and (kind, name) not in NO_PATHS:
                assert field_of(annotation) is not None, f"{kind.__name__}.{name} is used as a path"


def change(path: Path) -> None:
    """Another byte, and the same size, in a file or in one of a folder."""
    file = path if path.is_file() else max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


@pytest.fixture
def place(tmp_path, random_model, span_checkpoint, monkeypatch) -> Path:
    """Everything that configs can name, in one folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(random_model, "model")
    shutil.copytree(SQUAD_DIR, "squad")
    shutil.copytree(REVIEWS_DIR, "reviews/mr")
    shutil.move("reviews/mr/labels.json", "reviews/labels.json")
    shutil.copytree(span_checkpoint, "checkpoint")
    for name in ("list.tsv", "targets.txt", "text.txt", "map.json", "model.gguf"):
        Path(name).write_text("word\tother\n")
    return tmp_path


SPAN = {"name": "squad-span", "settings": {"data": "squad"}}
TRAIN = {"task": SPAN, "objective": {"name": "spnet"}, "model": {"source": "model"}}
NAMED = {
    "model folder": ("train", TRAIN, "model"),
    "GGUF file": ("train", {**TRAIN, "model": {"source": "model.gguf"}}, "model.gguf"),
    "data folder": ("train", TRAIN, "squad"),
    "bitmap file": ("train", {**TRAIN, "evaluation": {"bitmaps": ["map.json#3"]}}, "map.json"),
    "bitmap of an objective": ("train", {**TRAIN, "objective": {"name": "static", "bitmap": "map.json"}}, "map.json"),
    "bitmap of keep_best": ("train", {**TRAIN, "keep_best": {"bitmaps": [8, "map.json"]}}, "map.json"),
    "label names one folder up": (
        "train",
        {**TRAIN, "task": {"name": "classification", "settings": {"data": "reviews/mr"}}},
        "reviews/labels.json",
    ),
    "validation data": (
        "train",
        {**TRAIN, "task": {"name": "squad-completion", "settings": {"validation_data": "squad"}}},
        "squad",
    ),
    "checkpoint": ("search", {"checkpoint": "checkpoint"}, "checkpoint"),
    "data of another task": ("evaluate", {"checkpoint": "checkpoint", "task": SPAN}, "squad"),
    "zero-shot data": (
        "evaluate",
        {"checkpoint": "checkpoint", "task": {"name": "zero-shot", "settings": {"data": "text.txt"}}},
        "text.txt",
    ),
    "synonyms": (
        "attack",
        {"checkpoint": "checkpoint", "method": {"name": "textfooler", "settings": {"synonyms": "list.tsv"}}},
        "list.tsv",
    ),
    "antonyms": (
        "attack",
        {"checkpoint": "checkpoint", "method": {"name": "bert-attack", "settings": {"antonyms": "list.tsv"}}},
        "list.tsv",
    ),
    "targets": (
        "attack",
        {"checkpoint": "checkpoint", "method": {"name": "arca", "settings": {"targets": "targets.txt"}}},
        "targets.txt",
    ),
    "bitmaps of random precision": (
        "attack",
        {"checkpoint": "checkpoint", "random_precision": {"bitmaps": ["map.json"]}},
        "map.json",
    ),
    "prompts": ("generate-data", {"generation": {"start": "prompts", "data": "squad"}}, "squad"),
    "writing model": ("generate-data", {"model": {"source": "model"}}, "model"),
    "checkpoint of ptq": ("ptq", {"checkpoint": "checkpoint", "methods": [{"name": "a"}]}, "checkpoint"),
    "checkpoint of a profile": ("profile", {"checkpoint": "checkpoint"}, "checkpoint"),
    "checkpoint of an export": ("export", {"checkpoint": "checkpoint", "bitmap": 8}, "checkpoint"),
    "bitmap of an export": ("export", {"checkpoint": "checkpoint", "bitmap": "map.json#3"}, "map.json"),
    "data of a sweep": ("sweep", {"train": TRAIN, "space": {"adapters.rank": [2, 4]}}, "squad"),
    "data in a sweep's space": (
        "sweep",
        {"train": {**TRAIN, "task": {"name": "squad-span"}}, "space": {"task.settings.data": ["tiny", "squad"]}},
        "squad",
    ),
    "model of a range test": ("range-test", TRAIN, "model"),
    "model of a sensitivity's checkpoint": ("sensitivity", {"checkpoint": "checkpoint"}, "checkpoint"),
}


def fingerprint(command: str, data: dict) -> str:
    config = validate(JOBS[command].config, data, "test")
    return fingerprint_of(command, to_plain(config), JOBS[command].inputs(config))


def test_every_command_has_an_input_here():
    assert {command for command, _, _ in NAMED.values()} == set(JOBS)


@pytest.mark.parametrize("what", NAMED)
def test_a_changed_input_makes_another_run_and_another_name_of_it_does_not(what, place):
    command, data, path = NAMED[what]
    before = fingerprint(command, data)
    elsewhere = json.loads(re.sub(rf'"{re.escape(path)}(#3)?"(?!:)', rf'"{place}/./{path}\1"', json.dumps(data)))
    if what not in ("data in a sweep's space", "label names one folder up"):
        assert elsewhere != data
        assert fingerprint(command, elsewhere) == before
    change(place / path)
    assert fingerprint(command, data) != before


@pytest.mark.parametrize("kept", ["data", "base"])
def test_what_a_checkpoint_names_counts_with_it(kept, place):
    manifest = json.loads(Path("checkpoint/manifest.json").read_text())
    manifest["base"]["source"] = "model"
    manifest["extra"]["task"]["settings"]["data"] = "squad"
    Path("checkpoint/manifest.json").write_text(json.dumps(manifest))
    before = fingerprint("evaluate", {"checkpoint": "checkpoint"})
    change(place / {"data": "squad", "base": "model"}[kept])
    assert fingerprint("evaluate", {"checkpoint": "checkpoint"}) != before


def test_a_name_on_the_hub_counts_with_its_revision(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    data = {**TRAIN, "model": {"source": "someone/model"}, "task": {"name": "squad-span"}}
    before = fingerprint("train", data)
    head = tmp_path / "models--someone--model" / "refs" / "main"
    head.parent.mkdir(parents=True)
    head.write_text("one")
    first = fingerprint("train", data)
    head.write_text("two")
    assert len({before, first, fingerprint("train", data)}) == 3


def test_words_are_no_inputs():
    config = validate(TrainConfig, {"task": {"name": "squad-span"}, "objective": {"name": "spnet"}}, "test")
    assert input_digests({"": config}) == {}


def test_hidden_files_locks_runs_and_records_below_a_data_folder_do_not_count(tmp_path):
    (tmp_path / "train.txt").write_text("text")
    before = path_digest(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "a.lock").write_text("x")
    for folder, file in (("run", "run.json"), ("all", "pipeline.json"), ("runs", "mlflow.db")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert path_digest(tmp_path) == before
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_text("x")
    assert path_digest(tmp_path) != before


def test_links_are_followed_and_names_count(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "store").write_text("text")
    (tmp_path / "one" / "train.txt").symlink_to(tmp_path / "store")
    before = path_digest(tmp_path / "one")
    (tmp_path / "store").write_text("other")
    changed = path_digest(tmp_path / "one")
    (tmp_path / "one" / "train.txt").rename(tmp_path / "one" / "validation.txt")
    assert len({before, changed, path_digest(tmp_path / "one")}) == 3


def test_a_large_file_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    read = []
    monkeypatch.setattr("qalof.digests.digest", lambda path: read.append(path) or f"{path.read_bytes()[:1]!r}")
    file = tmp_path / "weights"
    file.write_bytes(b"a" * LARGE)
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert [file_digest(file), file_digest(file)] == ["b'a'"] * 2
    assert len(read) == 1
    file.write_bytes(b"b" * LARGE)
    os.utime(file, (time.time() - 100, time.time() - 100))  # as a copy that keeps times would
    assert file_digest(file) == "b'b'"
    assert len(read) == 2


@pytest.mark.parametrize("broken", [b"", b"\xff", b"[]", b'{"seen": 1}'])
def test_a_damaged_digest_in_the_cache_is_made_anew(broken, tmp_path, monkeypatch):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"a" * LARGE)
    os.utime(file, (time.time() - 100, time.time() - 100))
    found = file_digest(file)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_bytes(broken)
    assert file_digest(file) == found


def test_a_sweep_stands_for_every_listed_value():
    config = validate(SweepConfig, {"train": TRAIN, "space": {"adapters.rank": [2, 4]}}, "test")
    assert [each.adapters.rank for each in sweep_configs(config).values()] == [8, 2, 4]


@pytest.fixture
def chain(monkeypatch, job_of, empty_store, tmp_path):
    """A pipeline of a training and an evaluation that are done at once; what they did, in order."""
    done: list[str] = []
    (tmp_path / "data.txt").write_text("one")

    def train(config, checked, directory, run):
        done.append("train")
        checkpoint = directory.path / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "weights").write_text((tmp_path / "data.txt").read_text().split()[0])
        return {"checkpoint": str(checkpoint)}

    def evaluate(config, checked, directory, run):
        done.append("evaluate")
        return {}

    monkeypatch.setitem(JOBS, "train", job_of("train", TrainConfig, lambda config: None, train))
    monkeypatch.setitem(JOBS, "evaluate", job_of("evaluate", EvaluateConfig, lambda config: None, evaluate))
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    task = {"name": "language-modeling", "settings": {"data": str(tmp_path / "data.txt")}}
    steps = [
        {"name": "sp", "command": "train", "config": {"task": task, "objective": {"name": "spnet"}}},
        {"name": "scored", "command": "evaluate", "config": {"checkpoint": "step:sp"}},
    ]
    here = {"workers": {"count": 1, "in_process": True}, "tracking": {"root": str(tmp_path / "runs")}}
    pipeline = validate(PipelineConfig, {"steps": steps, **here}, "test")

    def run(data: str) -> list[str]:
        (tmp_path / "data.txt").write_text(data)
        done.clear()
        run_pipeline(pipeline, tmp_path / "all")
        return list(done)

    return run


def test_a_step_reruns_where_its_upstream_was_rerun_with_another_result_and_only_there(chain):
    assert chain("one") == ["train", "evaluate"]
    assert chain("one") == []
    assert chain("one and other words that lead to the same weights") == ["train"]
    assert chain("two") == ["train", "evaluate"]


def test_the_paths_of_a_config_are_those_that_it_names():
    config = validate(JOBS["evaluate"].config, {"checkpoint": "here", "bitmaps": ["8", "a.json", [8, 4]]}, "test")
    found = {key: field.path(text) for key, text, field in paths_of(config) if field.input}
    assert found == {"checkpoint": Path("here"), "bitmaps.0": None, "bitmaps.1": Path("a.json")}


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_a_benchmark_without_named_data_counts_with_the_revision_of_its_own_on_the_hub(
    monkeypatch, tmp_path, dataset, span_checkpoint
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def digests(data):
        task = {"name": "zero-shot", "settings": {"dataset": dataset, "data": data}}
        config = validate(EvaluateConfig, {"checkpoint": str(span_checkpoint), "task": task}, "here")
        return input_digests({"": config})

    before, named = digests(None), digests("tiny")
    name = BENCHMARKS[dataset].hub[0]
    refs = tmp_path / f"datasets--{name.replace('/', '--')}" / "refs"
    refs.mkdir(parents=True)
    found = [before]
    for revision in ("abc", "def"):
        (refs / "main").write_text(revision)
        found.append(digests(None))
        assert f"{name}@{revision}" in found[-1].values()
    assert len({json.dumps(each, sort_keys=True) for each in found}) == 3
    assert digests("tiny") == named, "data that is named takes the hub's place"
