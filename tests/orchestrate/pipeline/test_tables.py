"""The references' tables: configs that are whole at both scales, without the hub, and cells that are read rightly."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrate.cli.app import main
from orchestrate.cli.terminal import reference_table
from orchestrate.document.cell import Cell, mean_of
from orchestrate.document.estimate import bare_model
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place, TableConfig
from orchestrate.jobs.sensitivity.cells import select
from orchestrate.pipeline.describe import describe_config
from orchestrate.pipeline.estimate import estimate
from orchestrate.pipeline.plan import PipelineConfig, load_pipeline, plan
from orchestrate.pipeline.scales import merged, scaled
from orchestrate.pipeline.tables.cells import read_cell
from orchestrate.pipeline.tables.check import check_table
from orchestrate.pipeline.tables.fill import fill
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TABLES = sorted(path for folder in ("s1", "s2", "s3", "s4") for path in (CONFIGS / folder).glob("*.yaml"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*words, **named):
        raise AssertionError("validation must not ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("scale", ["full", "tiny"])
@pytest.mark.parametrize("path", TABLES, ids=named)
def test_every_table_is_whole_and_priced_at_both_scales_without_the_hub(path: Path, scale: str, no_network):
    said = describe_config(path, [f"scale={scale}"])
    config = load_pipeline(path, [f"scale={scale}"])
    steps = plan(config, Path("/runs") / path.stem)
    costs = [estimate(step, steps) for step in steps]
    assert config.table is not None
    check_table(config.table, steps)
    assert all(cost is not None for cost in costs)
    total = sum(cost.flops for cost in costs if cost)
    assert total > 0
    assert "together: " in said
    assert "A100" in said
    if scale == "full":
        sources = {step.config.model.source for step in steps if step.command == "train"}
        assert sources == {"openai-community/gpt2"}
        assert total < 1e18
    else:
        assert total < 2e13
        assert all(step.config.workers.in_process for step in steps)
        assert all(step.config.model.source == "tiny" for step in steps if step.command == "train")


@pytest.mark.parametrize("path", TABLES, ids=named)
def test_every_table_names_its_command_source_and_as_many_references_as_columns(path: Path):
    text = path.read_text()
    table = TableConfig.model_validate(yaml.safe_load(text)["table"])
    assert text.startswith(f"# qalof run --config configs/{named(path)}.yaml")
    assert path.parent.name.upper() in table.source
    assert all(row.reference is None or len(row.reference) == len(table.columns) for row in table.rows)


def test_the_evaluations_of_s3_take_the_checkpoint_that_its_other_tables_train():
    folders = set()
    for name in ("bits", "beta", "components", "layers", "ranks"):
        steps = plan(load_pipeline(CONFIGS / "s3" / f"{name}.yaml", []), Path("/runs") / name)
        folders.add(steps[0].folder)
    assert len(folders) == 1
    assert folders.pop().parent == Path("/runs/shared")


def test_s1_trains_with_eight_workers_as_it_says():
    steps = plan(load_pipeline(CONFIGS / "s1" / "cpt.yaml"), Path("/runs/cpt"))
    assert {step.config.workers.count for step in steps} == {8}
    cpt = next(step.config for step in steps if step.name == "cpt")
    assert (cpt.objective.cycles, cpt.training.learning_rate, cpt.training.steps) == (32, 2e-3, 1000)


def test_the_cost_of_a_training_is_six_flop_a_parameter_and_token():
    path = CONFIGS / "s1" / "hybrid.yaml"
    fewer = ["steps.0.config.evaluation.limit=1", "steps.0.config.validation.evaluate_every=0"]
    steps = plan(load_pipeline(path, fewer), Path("/runs/h"))
    cost = estimate(steps[0], steps)
    assert sum(p.numel() for p in bare_model("openai-community/gpt2").parameters()) == 124_439_808
    assert cost is not None
    assert cost.trained == 1000 * 128 * 2
    assert cost.forward == 3
    assert cost.flops == pytest.approx((6 * cost.trained + 2 * cost.forward) * 180 * 124_439_808)


def test_a_model_whose_sizes_are_not_known_here_is_refused():
    with pytest.raises(BadInputError, match="meta-llama/one.*gpt2"):
        bare_model("meta-llama/one")


def test_a_scale_merges_mappings_and_the_users_overrides_go_above_it():
    assert merged({"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"c": [9]}}) == {"a": {"b": 1, "c": [9]}, "d": 3}
    path = CONFIGS / "s2" / "greedy.yaml"
    tiny = load_pipeline(path, ["scale=tiny", "steps.1.config.training.steps=7"])
    steps = {step.name: step.config for step in tiny.steps}
    trained, search = (next(c for c in steps.values() if key in c) for key in ("training", "space"))
    assert tiny.scale == "tiny"
    assert trained["training"]["steps"] == 7
    assert trained["task"]["settings"]["validation_data"] == "tiny"
    assert search["space"] == {
        "weight": [32, 8, 4], "activation": [32], "kv": [32], "group": "block",
    }  # fmt: skip
    full = [step.config for step in load_pipeline(path).steps if "space" in step.config]
    assert [config["space"]["group"] for config in full] == ["site"]


@pytest.mark.parametrize(
    ("data", "scale", "said"),
    [
        ({"steps": []}, "tyni", "tyni.*tiny"),
        ({"steps": [{"name": "sp"}], "scales": {"tiny": {"steps": {"ps": {}}}}}, "tiny", "'ps'.*sp"),
        ({"steps": []}, "/no/such.yaml", "/no/such.yaml"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(data, scale, said):
    with pytest.raises(BadInputError, match=said):
        scaled(data, scale)


TRAIN = {"task": {"name": "squad-span"}, "objective": {"name": "spnet"}, "evaluation": {"bitmaps": [8, "striped84"]}}


def table_of(of: str, **row) -> PipelineConfig:
    step = {"name": "sp", "command": "train", "config": TRAIN}
    columns = [{"name": "F1", "of": of}]
    rows = [{"name": "one", **row}]
    return PipelineConfig.model_validate(
        {"steps": [step], "table": {"title": "t", "source": "S1", "columns": columns, "rows": rows}}
    )


@pytest.mark.parametrize(
    ("of", "row", "said"),
    [
        ("sq/8/f1", {}, "'sq'.*sp"),
        ("sp/4/f1", {}, "'4'"),
        ("sp/8/f2", {}, "'f2'.*f1"),
        ("sp/{bits}/f1", {"keys": {"bit": 8}}, "'bits'"),
        ("sp/f1", {}, "step/bitmap/metric"),
        ("sp/8/f1", {"reference": [1, 2]}, "2 for 1"),
        ("sp/8/f1", {"absent": {"f1": "none"}}, "'f1'.*F1"),
        ("sp/parameters/all", {}, "'all'"),
    ],
)
def test_a_cell_that_nothing_will_fill_is_refused_before_anything_runs(of, row, said):
    config = table_of(of, **row)
    assert config.table is not None
    with pytest.raises(BadInputError, match=said):
        check_table(config.table, plan(config, Path("/runs/p")))


def write(folder: Path, rows) -> None:
    folder.mkdir(parents=True)
    done = {"format_version": 1, "command": "train", "result": {"rows": rows}}
    (folder / "result.json").write_text(json.dumps(done))


def test_a_filled_cell_has_our_interval_their_number_and_the_difference(tmp_path: Path):
    config = table_of("sp/{map}/f1", keys={"map": "striped84"}, reference=[70.0])
    steps = plan(config, tmp_path)
    cost = {"average_bits": 6.0}
    rows = [{"metrics": {"f1": [1.0, 1.0, 1.0]}, "cost": cost}, {"metrics": {"f1": [72.0, 69.0, 75.0]}, "cost": cost}]
    write(steps[0].folder, rows)
    assert config.table is not None
    table = fill(config.table, steps, "full")
    (cell,) = table["rows"][0]["cells"]
    assert cell == {
        "of": "sp/striped84/f1", "metric": "f1", "reference": 70.0,
        "value": 72.0, "low": 69.0, "high": 75.0, "difference": 2.0, "covered": True,
    }  # fmt: skip
    assert len(reference_table(table).rows) == 1
    assert read_cell(Place("sp", "8", "average_bits"), steps[0]).value == 6.0


def test_the_mean_of_several_cells_has_their_interval():
    cells = [Cell(60.0, 57.0, 63.0), Cell(30.0, 26.0, 34.0), Cell.sure(51.0)]
    apart, together = (mean_of(cells, independent) for independent in (True, False))
    assert apart.value == together.value == 47.0
    assert (apart.low, apart.high) == pytest.approx((47 - 5 / 3, 47 + 5 / 3)), (
        "errors of different examples cancel in part"
    )
    assert (together.low, together.high) == pytest.approx((47 - 7 / 3, 47 + 7 / 3)), "whatever they have in common"
    assert mean_of(cells[:1], True) == cells[0]
    assert mean_of([*cells, Cell.none("collapsed")], True).reason == "collapsed"


@pytest.mark.parametrize("name", ["zero_shot", "robustness"])
def test_the_averages_of_s4_are_means_of_the_columns_beside_them(name: str):
    table = load_pipeline(CONFIGS / "s4" / f"{name}.yaml").table
    assert table is not None
    columns = {column.name: column for column in table.columns}
    average = columns.pop("Average")
    parts = {"zero_shot": ["BoolQ", "HellaSwag", "WinoGrande"], "robustness": ["TextFooler", "BERT-Attack"]}[name]
    assert average.of == [columns[part].of for part in parts]
    assert average.independent == (name == "zero_shot"), "one set of texts is attacked by both"
    for row in table.rows:
        if "Average" not in row.absent and row.reference is not None:
            *given, printed = row.reference[-len(parts) - 1 :]
            assert printed == pytest.approx(np.mean(given), abs=0.06 if row.name != "SP INT4" else 0.5)


def test_a_collapsed_model_is_a_reason_and_not_a_number(tmp_path: Path):
    config = table_of("sp/8/f1")
    steps = plan(config, tmp_path)
    write(steps[0].folder, [{"metrics": {"f1": [None, None, None]}, "cost": {}}])
    assert config.table is not None
    (cell,) = fill(config.table, steps, "full")["rows"][0]["cells"]
    assert cell["value"] is None
    assert "collapsed" in cell["reason"]


def test_units_are_chosen_by_thirds_of_the_blocks_or_by_pattern():
    blocks = [f"h.{i}" for i in range(12)]
    assert select("late", blocks) == ["h.8", "h.9", "h.10", "h.11"]
    assert select("rest", blocks) == blocks[:8]
    assert select("h.0|h.1?", blocks) == ["h.0", "h.10", "h.11"]
    with pytest.raises(BadInputError, match="mlp"):
        select("*.mlp.*", blocks)


def test_a_mean_drop_is_over_units_and_its_interval_over_examples(tmp_path: Path):
    sites = ["h.0.attn.c_attn", "h.0.mlp.c_fc"]
    data = {"steps": [
        {"name": "sp", "command": "train", "config": TRAIN},
        {"name": "s", "command": "sensitivity", "config": {"checkpoint": "step:sp", "metric": "f1"}},
    ]}  # fmt: skip
    step: PlannedStep = plan(PipelineConfig.model_validate(data), tmp_path)[1]
    step.folder.mkdir()
    scores = {None: [100.0, 100.0, 50.0, 0.0], sites[0]: [100.0, 50.0, 50.0, 0.0], sites[1]: [0.0, 50.0, 50.0, 0.0]}
    with (step.folder / "evaluations.jsonl").open("w") as file:
        for lowered, found in scores.items():
            bitmap = Bitmap.uniform(sites, 8)
            bitmap = bitmap if lowered is None else bitmap.replace({lowered: 4})
            entry = {"bitmap": bitmap.to_json(), "evaluation": {"per_example": {"f1": found}}}
            file.write(json.dumps(entry) + "\n")
    both = read_cell(Place("s", "*", "f1_drop"), step)
    assert both.value == np.mean([50.0, 50.0, 0.0, 0.0])
    assert both.low <= both.value <= both.high
    against = read_cell(Place("s", "*.mlp.* minus *.attn.*", "f1_drop"), step)
    assert against.value == np.mean([100.0, 0.0, 0.0, 0.0])


def test_only_training_may_be_shared_and_shared_runs_are_named_by_their_config(tmp_path: Path):
    step = {"name": "sp", "command": "train", "config": TRAIN, "shared": True}
    other = {**step, "name": "again", "config": {**TRAIN, "workers": {"count": 4}}}
    third = {**step, "name": "third", "config": {**TRAIN, "adapters": {"rank": 4}}}
    first, same, different = plan(PipelineConfig.model_validate({"steps": [step, other, third]}), tmp_path / "p")
    assert first.folder == same.folder != different.folder
    assert first.folder.parent == tmp_path / "shared"
    bad = {"name": "e", "command": "evaluate", "config": {"checkpoint": "step:sp"}, "shared": True}
    with pytest.raises(BadInputError, match="only a step of train or generate-data"):
        plan(PipelineConfig.model_validate({"steps": [step, bad]}), tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that tables that train the same model train it once."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=named)
def test_every_cell_of_the_table_is_filled(path: Path, root: Path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    output = root / "runs" / named(path).replace("/", "-")
    words = ["qalof", "run", "--config", str(path), "scale=tiny", "--output", str(output), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    main()
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["table"]
    wanted = load_pipeline(path).table
    assert wanted is not None
    assert [row["name"] for row in table["rows"]] == [row.name for row in wanted.rows]
    for row, asked in zip(table["rows"], wanted.rows, strict=True):
        for cell, column in zip(row["cells"], wanted.columns, strict=True):
            if column.name in asked.absent:
                assert cell["reason"] == asked.absent[column.name]
            else:
                assert cell["value"] is not None, (row["name"], column.name, cell)
    page = (output / "report.html").read_text()
    assert "The reference&#39;s table" in page or "The reference's table" in page
    assert wanted.source in page
