"""No setting that nothing reads: every command is run small, and must ask for whatever its config accepts."""

from __future__ import annotations

import ast
import dataclasses
import shutil
import sys
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrate.config.base import BaseConfig
from orchestrate.config.build_objective import objective_widths
from orchestrate.config.loader import to_plain, validate
from orchestrate.config.objective import OBJECTIVES, CptObjective
from orchestrate.jobs.range_test.job import OF_OBJECTIVE, OVERRIDDEN, UNUSED_OF_OBJECTIVE, RangeTestConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from orchestrate.pipeline.plan import PipelineConfig, step_configs
from qalof.errors import BadInputError
from qalof.quantization.options import QuantizerOptions
from qalof.training import range_test
from qalof.training.loop import TrainSettings
from tests.sources import SOURCES, nodes
from tests.test_laws import CLASSES, fields_of

COPYING = ("dataclasses.py", "laws.py", "strict.py", "copy.py")
"""Files that go through all fields of a class, which is not to read one."""

Field = tuple[str, str]
"""The name of a class, and of a field of it."""


def settings_of(value: Any) -> Iterator[Any]:
    """All sections and settings objects within a config."""
    if isinstance(value, BaseConfig) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        yield value
        for name in fields_of(type(value)):
            yield from settings_of(object.__getattribute__(value, name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from settings_of(each)
    elif isinstance(value, dict):
        yield from settings_of(list(value.values()))


class Reads:
    """Records which fields are read, of the classes of settings, while they are watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[Field] = set()
        for kind in CLASSES:
            names = set(fields_of(kind))

            def read(settings: Any, name: str, kind: type = kind, names: set[str] = names) -> Any:
                if name in names and not sys._getframe(1).f_code.co_filename.endswith(COPYING):
                    self.seen.add((type(settings).__name__, name))
                return object.__getattribute__(settings, name)

            monkeypatch.setattr(kind, "__getattribute__", read, raising=False)


SPAN = {"name": "squad-span", "settings": {"max_length": 96, "stride": 16, "train_split": "train[:8]",
                                           "validation_split": "validation[:3]"}}  # fmt: skip
TRAINING = {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
RUNS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "train": (
        "model",
        [
            {
                "task": SPAN,
                "objective": {"name": "spnet"},
                "training": TRAINING,
                "keep_best": {},
                "evaluation": {"limit": 2},
                "validation": {"evaluate_every": 1, "limit": 1},
            }
        ],
    ),
    "range-test": (
        "model",
        [
            {"task": SPAN, "training": {"batch_size": 2}, "lowest": 4, "highest": 5, "iterations": 1, "window": 1}
            | objective
            for objective in ({"objective": {"name": "spnet"}}, {"objective": {"name": "cpt"}})
        ],
    ),
    "evaluate": ("span", [{"limit": 2, "bitmaps": [8], "random_precision": {"bitmaps": [8, 4], "draws": 2}}]),
    "sensitivity": ("span", [{"limit": 2, "unit": "block"}, {"limit": 2, "score": "mse", "weight": [4], "kv": [4]}]),
    "search": ("span", [{"limit": 2, "max_evaluations": 2, "strategy": "random", "space": {"group": "block"}}]),
    "profile": ("span", [{"sequences": 1, "tokens": 8, "repeats": 1, "bitmaps": [8]}]),
    "attack": (
        "reviews",
        [
            {
                "limit": 1,
                "bitmaps": [8],
                "method": {"name": name, "settings": settings},
                "random_precision": {"draws": 1},
                "adaptive": {"draws": 1},
            }
            for name, settings in (
                ("gbda", {"iterations": 1, "batch": 1, "samples": 1, "max_length": 32}),
                ("textfooler", {"max_length": 32, "most_synonyms": 1}),
                ("bert-attack", {"max_length": 32, "candidates": 1}),
            )
        ],
    ),
    "ptq": (
        "model",
        [
            {
                "task": SPAN,
                "bitmaps": [8],
                "limit": 1,
                "calibration": {"examples": 1},
                "methods": [{"name": "nearest"}, {"name": "gptq", "kind": "gptq"}],
            },
        ],
    ),
    "generate-data": (
        "model",
        [
            {"generation": {"start": "bos", "count": 1, "max_length": 8}},
            {"generation": {"start": "prompts", "count": 1, "max_length": 96, "max_new_tokens": 2}},
        ],
    ),
}
"""By command: which checkpoint or model, and what to run; a field that one of the runs reads is alive."""

ON_RAY = {("WorkersConfig", "max_failures")}
"""What a process without Ray has no use for; ``tests/orchestrate/cluster/test_pool.py`` shows that a pool has."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("reads")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


ALONE: dict[str, dict[str, Any]] = {
    "profile": {"checkpoint": "runs/a/checkpoint"},
    "range-test": {"task": {"name": "squad-span"}},
    "export": {"checkpoint": "runs/a/checkpoint", "bitmap": 8},
}
"""By command: the least config of those whose work is one worker's."""


def test_a_range_test_refuses_every_training_setting_that_it_sets_itself_and_writes_none_down(monkeypatch):
    replaced: set[str] = set()

    def seen(settings: Any, **changes: Any) -> Any:
        replaced.update(changes)
        raise StopIteration

    monkeypatch.setattr(range_test, "replace", seen)
    monkeypatch.setattr(range_test, "_left_as_it_was", lambda trainer: nullcontext())
    with pytest.raises(StopIteration):
        range_test.precision_range_test(SimpleNamespace(settings=None), [4], 1, window=1)
    assert {"schedule", "warmup_steps"} <= replaced <= set(OVERRIDDEN)
    kind, written = RangeTestConfig, to_plain(validate(RangeTestConfig, ALONE["range-test"], "here"))
    assert set(written["training"]) == set(fields_of(TrainSettings)) - set(OVERRIDDEN)
    assert to_plain(validate(kind, written, "here")) == written
    for name in OVERRIDDEN:
        default = {name: getattr(TrainSettings(), name)}  # the default is no exception, since nothing reads it either
        with pytest.raises(BadInputError, match=rf"training\.{name} has no place in a range test.*; leave it out"):
            validate(kind, {**ALONE["range-test"], "training": default}, "here")


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_range_test_refuses_every_setting_of_an_objective_that_it_does_not_use_and_writes_none_down(kind):
    """It uses those that say which widths have adapters, and which tensors cycle: each of them changes one of both."""
    sites = [SimpleNamespace(name="h.0.attn"), SimpleNamespace(name="h.1.attn")]
    name = typing.get_args(kind.model_fields["name"].annotation)[0]
    plain = {"name": name, **({"lowest": 4, "highest": 8} if kind is CptObjective else {})}

    def used(objective: Any) -> Any:
        if isinstance(objective, CptObjective):
            return objective.layer_bits(8)
        return objective_widths(objective, sites)

    for setting in set(kind.model_fields) - {"name"}:
        if setting in OF_OBJECTIVE:
            other = OTHER[setting]
            config = {**ALONE["range-test"], "objective": {"name": name, setting: other}}
            assert used(validate(RangeTestConfig, config, "here").objective) != used(kind.model_validate(plain))
        else:
            default = kind.model_validate(plain).model_dump()[setting]
            config = {**ALONE["range-test"], "objective": {"name": name, setting: default}}
            with pytest.raises(
                BadInputError, match=rf"objective\.{setting} has no place in a range test.*; leave it out"
            ):
                validate(RangeTestConfig, config, "here")
    written = to_plain(validate(RangeTestConfig, {**ALONE["range-test"], "objective": {"name": name}}, "here"))
    assert set(written["objective"]) == set(kind.model_fields) & OF_OBJECTIVE
    assert to_plain(validate(RangeTestConfig, written, "here")) == written


OTHER: dict[str, Any] = {
    "bitmap": 5, "bitmaps": [7, 6, 5], "widths": [7, 6, 5], "always": [7], "activation": 6, "kv": 6,
}  # fmt: skip
"""Values that no objective has by default, of the settings that a range test uses."""


@pytest.mark.parametrize("command", ALONE)
@pytest.mark.parametrize(
    ("setting", "workers"), [("count", {"count": 2}), ("min_count", {"min_count": 1})], ids=["count", "min_count"]
)
def test_a_command_of_one_worker_refuses_others_and_asks_for_room_for_one(command, setting, workers):
    config = {**ALONE[command], "workers": {"gpu": False}}
    assert validate(JOBS[command].config, config, "here").workers.count == 1
    config["workers"] |= workers
    law = rf"workers\.{setting} has no place in .*: got {workers[setting]}; leave it out"
    with pytest.raises(BadInputError, match=law):
        validate(JOBS[command].config, config, "here")


def test_the_commands_of_one_worker_are_those_whose_work_cannot_be_shared():
    assert {name for name, job in JOBS.items() if not job.shares_work} == set(ALONE)


def test_a_step_of_one_worker_inherits_a_pipelines_workers_but_not_their_number(tmp_path):
    step = {"name": "size", "command": "profile", "config": ALONE["profile"]}
    given = {"count": 3, "min_count": 2, "max_failures": 7}
    pipeline = validate(PipelineConfig, {"steps": [step], "workers": given}, "here")
    (config,) = step_configs(pipeline, tmp_path)
    assert (config.workers.count, config.workers.min_count, config.workers.max_failures) == (1, None, 7)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_a_command_reads_every_setting_that_it_accepts(
    command, place, monkeypatch, random_model, span_checkpoint, review_checkpoint
):
    start, variants = RUNS[command]
    begin: dict[str, Any] = {
        "model": {"model": {"source": random_model}},
        "span": {"checkpoint": str(span_checkpoint)},
        "reviews": {"checkpoint": str(review_checkpoint)},
    }[start]
    base = {"workers": {"count": 1, "in_process": True}, "tracking": {"root": str(place)}}
    reads = Reads(monkeypatch)
    accepted: set[Field] = set()
    for number, variant in enumerate(variants):
        config = validate(JOBS[command].config, {**base, **begin, **variant}, command)
        # an option of a quantizer belongs to a choice (such as ste_limit to ste masked), and is read with it
        kinds = {type(each) for each in settings_of(config) if not isinstance(each, QuantizerOptions)}
        unused = {("TrainSettings", name) for name in OVERRIDDEN} if command == "range-test" else set()
        if command == "range-test":
            unused |= {(kind.__name__, name) for kind in OBJECTIVES for name in UNUSED_OF_OBJECTIVE}
        if command in ALONE:
            unused |= {("OneWorkerConfig", name) for name in ("count", "min_count", "max_failures")}
        accepted |= {
            (kind.__name__, name) for kind in kinds for name in fields_of(kind) if name not in ("command", "name")
        } - unused
        execute(command, config, place / f"{command}{number}")
    assert accepted - reads.seen <= ON_RAY


def test_every_setting_is_read_somewhere():
    """By name alone, in the whole house, so that a setting of a choice that no small run makes is not forgotten."""
    read = {
        node.attr
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    dead = [f"{kind.__name__}.{name}" for kind in CLASSES for name in fields_of(kind) if name not in read]
    assert not dead
