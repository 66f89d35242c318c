"""A path is a path everywhere: on the command line, in overrides, in files, and in what is made of it."""

import json
import os
import shutil
import sys
import typing
from pathlib import Path

import pytest
import yaml

from orchestrate.cli.app import main
from orchestrate.cli.options import app, at_home
from orchestrate.config.loader import load_config, to_plain, validate
from orchestrate.config.plain_yaml import PATH_NAMES, TEXT_NAMES, _kinds, is_path, override_value
from orchestrate.jobs.registry import JOBS
from orchestrate.pipeline.plan import PipelineConfig
from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.paths import annotations_of
from qalof.tasks.classification import ClassificationSettings
from qalof.tiny import REVIEWS_DIR
from tests.orchestrate.runs.test_inputs import settings_classes, texts
from tests.sources import SOURCES, attributes

ROOT = Path(__file__).parents[3]
NASTY = [
    "20240115_120000", "1e5", "1e-3", "null", "on", "off", "yes", "0x10", "0o7", "1:30", "2024-01-15", "12", "1.5",
    ".inf", "{a}", "[a, b]", "'a'", '"a"', "a: b", "a #b", "# a", "- a", "&a", "*a", "!a", "%a", "@a", "`a`", "a,b",
    "a=b", "${a}", "${oc.env:HOME}", "???", "job%2Fa", "a b", " a", "ü 漢", "a?b", "a\\b", "<<", "=", "true", "NULL",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("key", ["checkpoint", "tracking.root", "task.settings.data"])
def test_an_override_of_a_path_is_its_text(key, name):
    if (key, name) == ("task.settings.data", "null"):
        return  # unsets it, for a zero-shot task may have no data of its own
    config = load_config(JOBS["evaluate"].config, None, ["checkpoint=x", "task.name=squad-span", f"{key}={name}"])
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    assert value == name


@pytest.mark.parametrize("name", NASTY)
def test_a_file_that_says_a_path_plainly_or_quoted_means_its_text(name, tmp_path):
    quoted = tmp_path / "quoted.yaml"
    quoted.write_text(yaml.safe_dump({"checkpoint": name}))
    assert load_config(JOBS["evaluate"].config, quoted).checkpoint == name
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"checkpoint: {name}\n")
    try:
        read = yaml.safe_load(plain.read_text())["checkpoint"]
    except (yaml.YAMLError, TypeError):
        return
    if read is not None and not isinstance(read, str | dict | list):
        assert load_config(JOBS["evaluate"].config, plain).checkpoint == name


@pytest.mark.parametrize("name", NASTY)
def test_the_written_config_of_a_run_means_what_the_run_meant(name, tmp_path):
    before = load_config(JOBS["evaluate"].config, None, [f"checkpoint={name}", f"tracking.root={name}"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(before)))
    assert load_config(JOBS["evaluate"].config, tmp_path / "config.yaml") == before


@pytest.mark.parametrize("name", NASTY)
def test_an_option_is_taken_as_it_stands(name, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "orchestrate.jobs.run.execute", lambda command, config, place, address: seen.append(config) or {}
    )
    monkeypatch.setattr(
        sys, "argv", ["qalof", "evaluate", f"--checkpoint={name}", "--bitmap", f"{name}.json", "--json"]
    )
    main()
    assert seen[0].checkpoint == str(Path(name))
    assert seen[0].bitmaps == [f"{name}.json"]


def test_paths_within_mappings_lists_pipelines_and_sweeps_are_texts_too():
    steps = "steps=[{name: a, command: evaluate, config: {checkpoint: 1e5, task: {settings: {data: 0x10}}}}]"
    step = load_config(PipelineConfig, None, [steps, "steps.0.config.checkpoint=20240115_120000"]).steps[0]
    assert step.config == {"checkpoint": "20240115_120000", "task": {"settings": {"data": "0x10"}}}
    sweep = ["train.model.source=12", "train.task.name=squad-span", "space={task.settings.data: [1e5, on]}"]
    config = load_config(JOBS["sweep"].config, None, [*sweep, "train.objective.name=spnet"])
    assert config.train["model"]["source"] == "12"
    assert config.space == {"task.settings.data": ["1e5", "on"]}


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("limit=3", 3),
        ("limit=null", None),
        ("bitmaps=[8, w4a8]", [8, "w4a8"]),
        ("tracking.experiment=2024_01", "2024_01"),
        ("tracking.experiment='a b'", "a b"),
        ("tracking.experiment=off", "off"),
        ("tracking.uri=null", None),
    ],
)
def test_other_values_are_yaml_and_texts_stay_texts(override, read):
    config = load_config(JOBS["evaluate"].config, None, ["checkpoint=x", override])
    value = config
    for part in override.partition("=")[0].split("."):
        value = getattr(value, part)
    assert value == read


def test_what_may_be_unset_is_unset_by_null_and_numbers_may_have_exponents():
    kind = JOBS["ptq"].config
    assert override_value(kind, "checkpoint", "null") is None
    assert override_value(JOBS["evaluate"].config, "checkpoint", "null") == "null"
    assert override_value(JOBS["train"].config, "training.learning_rate", "1e-3") == 1e-3
    assert override_value(JOBS["attack"].config, "method.settings.part_of_speech", "off") == "off"


@pytest.mark.parametrize("command", JOBS)
def test_home_folders_are_expanded_in_every_path_of_every_config(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = JOBS[command].config
    tracking = validate(type(kind.model_fields["tracking"].default), {"root": "~/runs"}, "test")
    assert tracking.root == f"{tmp_path}/runs"
    assert is_path("tracking.root")


def test_no_home_folder_is_said_in_one_line(monkeypatch):
    with pytest.raises(BadInputError, match="needs a home folder: there is none for '~nobody-here/x'; set HOME"):
        expanded("~nobody-here/x")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(BadInputError, match="give the whole path, or write ./~/x"):
        expanded("~/x")
    monkeypatch.undo()
    monkeypatch.setenv("HOME", "")
    with pytest.raises(BadInputError, match="set HOME"):
        expanded("~/x")
    with pytest.raises(BadInputError, match="tracking.root"):
        load_config(JOBS["evaluate"].config, None, ["checkpoint=x", "tracking.root=~/runs"])


def test_home_folders_are_expanded_in_one_place_alone():
    assert {path.name for path in SOURCES if "expanduser" in attributes(path)} == {"home.py"}


def test_every_option_that_is_a_path_expands_home():
    options = 0
    for command in app.registered_commands:
        for name, annotation in typing.get_type_hints(command.callback, include_extras=True).items():
            kind, *described = typing.get_args(annotation) or [annotation]
            if kind is Path or Path in typing.get_args(kind):
                options += 1
                assert described[0].callback is at_home, f"{command.name or command.callback} {name}"
    assert options > 20


def test_label_names_lie_beside_a_link_and_not_beside_its_target(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "mine").mkdir()
    shutil.copy(REVIEWS_DIR / "train.jsonl", tmp_path / "store" / "blob")
    (tmp_path / "mine" / "train.jsonl").symlink_to(tmp_path / "store" / "blob")
    (tmp_path / "mine" / "labels.json").write_text(json.dumps(["bad", "good"]))
    assert ClassificationSettings(data=str(tmp_path / "mine" / "train.jsonl")).label_names() == ("bad", "good")


SPAN = ["task.name=squad-span", "task.settings.max_length=96", "task.settings.stride=16"]
HERE = ["workers.count=1", "workers.in_process=true", "tracking.root=runs"]


@pytest.mark.parametrize("name", ["job%2Fa ?#'\"&{ü}", "20240115_120000"])
def test_training_scoring_and_searching_work_in_a_folder_of_any_name(
    name, monkeypatch, capsys, random_model, empty_store, tmp_path
):
    (tmp_path / name / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name)
    shutil.copy(empty_store, "runs/mlflow.db")
    shutil.copytree(random_model, name)

    def call(*words: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["qalof", *words, *HERE, "--json"])
        main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    quick = ["training={steps: 1, batch_size: 2}", "objective.name=spnet", "evaluation.limit=2"]
    call(
        "train", *SPAN, *quick, "task.settings.train_split=train[:4]", f"model.source={name}", "--output", f"out {name}"
    )
    checkpoint = ["--checkpoint", f"out {name}/checkpoint", "limit=2"]
    assert call("evaluate", *checkpoint, "--bitmap", "8")["rows"]
    small = ["space.weight=[4,8]", "space.group=block", "max_evaluations=2", "strategy=random"]
    assert call("search", *checkpoint, *small, "--output", "found")["evaluations"] == 2
    assert call("evaluate", *checkpoint, "--bitmap", "found/front.json#1", "--output", "again")["rows"]


def test_the_names_of_texts_are_those_of_all_settings_that_hold_any_text_and_of_no_others():
    texts_alone: set[str] = set()
    others: set[str] = set()
    for kind in settings_classes():
        for name, annotation in annotations_of(kind).items():
            plain = _kinds(annotation) <= {str, type(None)}
            if not plain:
                others.add(name)
            elif texts(annotation):
                texts_alone.add(name)
    assert texts_alone - others - PATH_NAMES == TEXT_NAMES


@pytest.mark.parametrize("text", ["2024", "1e5", "on", "20240115_120000", "0x10", "1.5", "true", "1:30"])
def test_a_text_in_a_file_is_its_text_in_jobs_and_in_the_steps_of_pipelines(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"checkpoint: c\ntracking: {{experiment: {text}, uri: null}}\n")
    config = load_config(JOBS["evaluate"].config, path)
    assert (config.tracking.experiment, config.tracking.uri) == (text, None)
    step = f"{{checkpoint: c, metric: {text}, tracking: {{experiment: {text}}}}}"
    path.write_text(
        f"title: {text}\ntracking: {{experiment: {text}}}\n"
        f"steps:\n- {{name: {text.replace(':', '').replace('.', '')}, command: sensitivity, config: {step}}}\n"
    )
    pipeline = load_config(PipelineConfig, path)
    assert (pipeline.title, pipeline.tracking.experiment) == (text, text)
    assert pipeline.steps[0].config == {"checkpoint": "c", "metric": text, "tracking": {"experiment": text}}
    changed = load_config(PipelineConfig, path, [f"steps.0.config.metric={text}2", "title=7"])
    assert (changed.steps[0].config["metric"], changed.title) == (f"{text}2", "7")
    assert load_config(PipelineConfig, path, ["steps.0.config.metric=null"]).steps[0].config["metric"] is None


def test_a_text_that_yaml_takes_for_something_else_in_a_list_is_refused_with_the_way_out():
    with pytest.raises(BadInputError, match=r"objectives\.0: .*got 2024; put it in quotes"):
        validate(JOBS["search"].config, {"checkpoint": "c", "objectives": [2024]}, "here")
