"""The study of a real model, at its smallest scale on the real data: cutting it off changes no result."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks.ticks import Ticks

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SOME = "train_spnet,score_spnet,generated,train_data_free,score_data_free,search_before,train_found_before,baseline_NF4"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from study import data, place, plan, runner, scales, summary

    yield {"data": data, "place": place, "plan": plan, "runner": runner, "scales": scales, "summary": summary}
    for name in [name for name in sys.modules if name.split(".")[0] in ("study", "measure", "tables", "attack_study")]:
        del sys.modules[name]


def results(records):
    """The results without what a clock said."""

    def without_times(value):
        if isinstance(value, dict):
            return {key: without_times(each) for key, each in value.items() if key != "seconds"}
        return value

    return {name: without_times(record["result"]) for name, record in records.items()}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this checkout")
def test_a_study_cut_off_again_and_again_finds_what_an_uninterrupted_one_finds(study, tmp_path):
    torch.set_num_threads(1)
    scale = study["scales"].SCALES["tiny"]
    study["data"].prepare(SHARED, tmp_path / "data", "tiny", scale)

    def place(state, ticks):
        return study["place"].Place(
            "tiny", scale, tmp_path / "data", tmp_path / state, torch.device("cpu"), Ticks(ticks)
        )

    whole = study["runner"].run(place("whole", 10_000), only=SOME)
    for _ in range(60):
        pieces = study["runner"].run(place("pieces", 7), only=SOME)
        if len(pieces) == len(whole):
            break
    assert set(whole) == {name for name in study["plan"].stages() if name.startswith(tuple(SOME.split(",")))}
    assert results(pieces) == results(whole)
    # a scale of its own has results of its own
    assert not study["runner"].finished(replace(place("whole", 1), scale=replace(scale, passes=9)))


def test_every_stage_stands_behind_those_that_it_needs(study):
    seen = set()
    for name, stage in study["plan"].stages().items():
        assert set(stage.needs) <= seen, f"{name} needs {set(stage.needs) - seen}"
        seen.add(name)


def test_a_change_of_a_stage_s_inputs_changes_the_keys_of_all_that_depend_on_it(study):
    plan = study["plan"]
    stages = plan.stages()

    def keys(of):
        found = {}
        for name, stage in stages.items():
            found[name] = "other" if name == of else plan.key(stage, "place", found)
        return found

    before, after = keys(None), keys("search_before")
    changed = {name for name in stages if before[name] != after[name]}
    expected = {"search_before", "compare_searches", "train_found_before", "score_found_before"}
    assert changed == expected


def test_the_tables_on_the_pages_are_those_of_the_committed_result(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    found = json.loads(tables.RESULT.read_text(encoding="utf-8"))
    for page in tables.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "<!-- results:" in text
        assert tables.filled(text, found) == text, f"{page} does not show {tables.RESULT.name}: run `make results`"
