"""``sensitivity`` with ``score=output_error``: its files, its table, its report, and what it refuses."""

import json
import pickle
import sys

import pytest

from orchestrate.cli.app import main
from orchestrate.config.sections import WorkersConfig
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.sensitivity.job import check_sensitivity
from orchestrate.jobs.sensitivity.output_error import ErrorActor
from orchestrate.jobs.sensitivity.output_error_view import error_blocks, error_statements
from orchestrate.pipeline.tables.cells import read_cell
from orchestrate.runs.directory import read_result
from search.scores.output_error import added, to_json

WORDS = ["score=output_error", "reduced=[w8,w4,4]", "limit=20", "workers.count=1", "workers.in_process=true", "--json"]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, lm_checkpoint):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        given = ["qalof", "sensitivity", "--checkpoint", str(lm_checkpoint), "--output", "run", *words]
        monkeypatch.setattr(sys, "argv", given)
        main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_every_site_and_width_has_its_errors_in_the_file_the_table_and_the_report(call, tmp_path, lm_checkpoint):
    result = call(*WORDS)
    folder = tmp_path / "run"
    errors = json.loads((folder / "sensitivity.json").read_text())
    assert len(errors) == 8
    assert {tuple(by_width) for by_width in errors.values()} == {("w8", "w4", "4")}
    assert all(set(each) == {"mse", "mae", "rel"} for by_width in errors.values() for each in by_width.values())
    ranked = {(row["unit"], row["bits"]): row["mse"] for row in result["ranking"]}
    assert ranked == {(site, bits): each["mse"] for site, by_width in errors.items() for bits, each in by_width.items()}
    assert list(ranked.values()) == sorted(ranked.values())
    config = SensitivityConfig(checkpoint=str(lm_checkpoint), score="output_error", reduced=["w8", "w4", 4])
    step = PlannedStep("s", "sensitivity", config, folder)
    cell = read_cell(Place("s", "*.mlp.c_fc at w4", "rel"), step)
    assert cell.value == pytest.approx((errors["h.0.mlp.c_fc"]["w4"]["rel"] + errors["h.1.mlp.c_fc"]["w4"]["rel"]) / 2)
    found = JOBS["sensitivity"].findings(folder, read_result(folder / "result.json"))
    _, table = error_blocks(found, "errors")
    assert len(table.rows) == 24
    assert len(error_statements(found)) == 3
    drawn = (folder / "sensitivity.svg").read_text()
    assert [path.read_text() for path in (tmp_path / "runs" / "mlartifacts").rglob("sensitivity.svg")] == [drawn]


def test_the_numbers_do_not_depend_on_who_measures_which_batch(lm_checkpoint):
    config = SensitivityConfig(
        checkpoint=str(lm_checkpoint), score="output_error", reduced=["w4"], limit=20,
        workers=WorkersConfig(count=1, in_process=True),
    )  # fmt: skip
    plan = check_sensitivity(config)
    # a plan that travels to another process has a model of its own there
    actors = [ErrorActor(pickle.loads(pickle.dumps(plan)), 1, "cpu") for _ in range(2)]
    alone = added(actors[0].do(index) for index in range(3))
    shared = added(actors[index % 2].do(index) for index in range(3))
    assert to_json(alone, plan.names) == to_json(shared, plan.names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unit=block"], "unit must be site"),
        (["metric=loss"], "metric has no place"),
        (["reference=16"], "reference has no place"),
        (["reduced=[32]"], "widths below 32"),
        (["reduced=[4,w4a4kv4]"], "different widths"),
        (["reduced=[v4]"], "must read like"),
        (["score=metric", "reduced=[w4]"], "must hold numbers"),
    ],
)
def test_what_an_output_error_cannot_be_of_is_refused_in_one_line(call, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        call(*WORDS[:1], *words, *WORDS[-3:])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
