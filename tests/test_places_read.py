"""Whoever hands the Python API a folder or file that is not there, or is something else, is told so in one line."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import orchestrate
import qalof
import search
from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import WorkersConfig
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.pipeline.plan import load_pipeline
from orchestrate.report import write_report
from qalof.bitmap import Bitmap
from qalof.checkpoint.manifest import read_described, read_manifest
from qalof.checkpoint.model import load_parameters
from qalof.checkpoint.opening import OpenCheckpoint, load_any
from qalof.checkpoint.trainer import begin, load_checkpoint
from qalof.errors import BadInputError
from qalof.export.compressed_tensors import save_compressed
from qalof.export.gguf_file import read_gguf, tensor_bytes_in, write_tensors
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed, read_layout
from qalof.export.packed_model import PackedModel
from qalof.model.switchable import SwitchableModel
from qalof.tasks.classification_data import file_rows, read_names
from qalof.tasks.generated_data import open_generated
from search.record import record_at
from search.scores.compute import compute
from search.scores.output_error import read_errors
from search.scores.table import ScoreTable
from tests.orchestrate.conftest import save_checkpoint
from tests.test_public_paths import functions, paths_of

HERE = WorkersConfig(count=1, in_process=True, threads=1)


@pytest.fixture(scope="module")
def checkpoint(random_model, tmp_path_factory) -> Path:
    task = qalof.task("language-modeling", source=random_model, max_length=32, stride=16)
    return save_checkpoint(task, random_model, tmp_path_factory.mktemp("lm") / "checkpoint")


@pytest.fixture(scope="module")
def model(checkpoint) -> SwitchableModel:
    return qalof.load(checkpoint)


@pytest.fixture(scope="module")
def wrong(model, tmp_path_factory) -> dict[str, Path]:
    """Places that hold nothing that can be read, by what they are."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "file").write_text("no such thing")
    (folder / "empty").mkdir()
    save_packed(model, "w8", folder / "packed")
    named = {name: folder / name for name in ("file", "empty", "packed")}
    return {**named, "missing": folder / "no" / "such", "below a file": folder / "file" / "x", "NUL": Path("a\0b")}


def _search(path: Path, model: SwitchableModel) -> Any:
    space = search.BitmapSpace.of(model, weight=(4, 8))
    return orchestrate.search(space, orchestrate.CheckpointEvaluator(path, 1, HERE), storage=path.parent / "s.jsonl")


def _trainer(model: SwitchableModel) -> Any:
    return SimpleNamespace(model=model)


READS: dict[str, tuple[Callable[[Path, SwitchableModel], Any], set[str]]] = {
    "qalof.load": (lambda path, _: qalof.load(path), set()),
    "qalof.task_of": (lambda path, _: qalof.task_of(path), {"packed"}),
    "qalof.task": (lambda path, _: qalof.task("language-modeling", source=str(path)), {"packed", "NUL"}),
    "load_any": (lambda path, _: load_any(path), {"packed"}),
    "read_manifest": (lambda path, _: read_manifest(path), set()),
    "load_parameters": (lambda path, model: load_parameters(model, path), set()),
    "read_described": (lambda path, _: read_described(path), set()),
    "OpenCheckpoint.model": (lambda path, _: OpenCheckpoint(path).model, set()),
    "OpenCheckpoint.task": (lambda path, _: OpenCheckpoint(path).task, {"packed"}),
    "PackedModel.load": (lambda path, _: PackedModel.load(path), {"packed"}),
    "load_packed": (lambda path, _: load_packed(path), {"packed"}),
    "read_layout": (lambda path, _: read_layout(path), {"packed"}),
    "load_checkpoint": (lambda path, model: load_checkpoint(_trainer(model), path), set()),
    "begin": (lambda path, model: begin(_trainer(model), path), set()),
    "read_gguf": (lambda path, _: read_gguf(path), set()),
    "tensor_bytes_in": (lambda path, _: tensor_bytes_in(path), set()),
    "read_names": (lambda path, _: read_names(str(path)), {"packed", "empty", "file"}),
    "file_rows": (lambda path, _: file_rows(path), set()),
    "open_generated": (lambda path, _: open_generated(path, "texts"), set()),
    "read_errors": (lambda path, _: read_errors(path), set()),
    "ScoreTable.load": (lambda path, _: ScoreTable.load(path), set()),
    "BitmapSpace.of": (lambda path, model: search.BitmapSpace.of(model, weight=(4, 8), latency=path), set()),
    "SearchResult.load": (lambda path, _: search.SearchResult.load(path), set()),
    "orchestrate.search": (_search, {"packed"}),
    "CheckpointEvaluator": (
        lambda path, _: orchestrate.CheckpointEvaluator(path).primary_metric, {"packed"},
    ),
    "OpenCheckpoint.fingerprint": (lambda path, _: OpenCheckpoint(path).fingerprint, {"packed"}),
    "EvaluationPool": (lambda path, _: EvaluationPool(path, (), None, HERE).evaluate([Bitmap({})]), {"packed"}),
    "open_checkpoint": (lambda path, _: open_checkpoint(str(path)), set()),
    "write_report": (lambda path, _: write_report(path), set()),
    "load_pipeline": (lambda path, _: load_pipeline(path, []), set()),
}  # fmt: skip
"""What reads a place, how it is called, and of which places it can make something."""

WRITES: dict[str, Callable[[Path, SwitchableModel], Any]] = {
    "save": lambda path, model: qalof.save(model, path),
    "save_packed": lambda path, model: save_packed(model, "w8", path),
    "save_compressed": lambda path, model: save_compressed(model, "w8a32kv32", path),
    "write_tensors": lambda path, model: write_tensors(model, "w8", path, None),
    "record_at": lambda path, _: record_at(path).__enter__(),
    "EvaluationRecord": lambda path, _: search.EvaluationRecord(path).add(
        "", None, Bitmap({}), SimpleNamespace(to_json=dict)
    ),
    "ScoreTable.save": lambda path, _: ScoreTable("fisher", "nats", "", {}).save(path),
    "compute": lambda path, model: compute(model, [[5, 6, 7]], "mse", {"weight": ("8",)}, path=path),
    "SearchResult.save": lambda path, _: search.SearchResult((), (), "random", 0, {}, ()).save(path),
}
BY_OTHERS = {
    "is_packed", "OpenCheckpoint.__init__", "OpenCheckpoint.of",
    "EvaluationPool.__init__", "CheckpointEvaluator.__init__", "EvaluationRecord.__init__", "search",
    "run", "execute", "run_pipeline", "load", "task_of", "write_gguf", "write_gguf_lora", "SearchResult.plot",
    "check_target", "judge", "save_configs",
}  # fmt: skip
"""Public functions that say yes or no, or are called by those above or by ``orchestrate/cli/test_bad_places.py``."""


def test_the_walk_calls_every_public_function_that_takes_a_path():
    named = {function.__qualname__ for function in functions() if paths_of(function)}
    assert named - BY_OTHERS - set(WRITES) <= set(READS)


@pytest.mark.parametrize("kind", ["file", "empty", "packed", "missing", "below a file", "NUL"])
@pytest.mark.parametrize("name", READS)
def test_a_place_that_cannot_be_read_is_bad_input_with_the_way_out(name, kind, wrong, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, good = READS[name]
    if kind in good:
        return
    with pytest.raises(BadInputError) as caught:
        call(wrong[kind], model)
    said = str(caught.value)
    assert "\n" not in said
    assert said.isprintable() or kind == "NUL"


@pytest.mark.parametrize("name", WRITES)
def test_a_place_that_cannot_be_written_is_bad_input(name, model, tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "below", Path("/proc/new/place"), tmp_path / ("x" * 300)):
        with pytest.raises(BadInputError) as caught:
            WRITES[name](path, model)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["save", "save_packed", "SearchResult.save"])
def test_a_folder_never_takes_the_place_of_a_file(name, model, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(BadInputError):
        WRITES[name](tmp_path / "file", model)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_packed_model_in_a_checkpoints_place_is_named(wrong):
    with pytest.raises(BadInputError, match="packed-model; give the checkpoint that it was made of"):
        qalof.load(wrong["packed"])
