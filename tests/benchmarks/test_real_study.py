"""The study of a real model, at its smallest scale on the real data: cutting it off changes no result."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation, mean_per_token
from tests.benchmarks.ticks import Ticks

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SOME = "train_spnet,score_spnet,generated,train_data_free,score_data_free,search_before,train_found_before,baseline_NF4"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from study import data, onto, place, plan, runner, scales, summary

    yield {each.__name__.split(".")[-1]: each for each in (data, onto, place, plan, runner, scales, summary)}
    for name in [name for name in sys.modules if name.split(".")[0] in ("study", "measure", "tables", "attack_study")]:
        del sys.modules[name]


def tiny(study, folder):
    """The tiny scale, whose data are not read."""
    scale = study["scales"].SCALES["tiny"]
    return study["place"].Place("tiny", scale, folder / "data", folder / "state", torch.device("cpu"), Ticks(1000))


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
    assert set(whole) == set(study["runner"].chosen(SOME))
    assert results(pieces) == results(whole)
    # a scale of its own has results of its own
    assert not study["runner"].finished(replace(place("whole", 1), scale=replace(scale, passes=9)))


def test_a_whole_name_chooses_one_stage_and_a_beginning_all_that_begin_so(study):
    chosen = study["runner"].chosen
    assert list(chosen("train_spnet")) == ["train_spnet"]
    assert {"score_spnet_again", "score_cpt"} < set(chosen("train_spnet,score"))
    assert set(chosen(None)) == set(study["plan"].stages())


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


def test_a_row_is_completed_task_by_task_and_no_task_is_scored_twice(study, tmp_path):
    place = replace(tiny(study, tmp_path), keys={"first": "1", "second": "2"})
    from study import scoring

    model, specs = scoring.pretrained(place), {"8": "w8a8kv8", "4": "w4a8kv8"}
    scored = []

    def task(name):
        return lambda: scored.append((name, str(model.bitmap))) or Evaluation({"acc": 1.0}, 1, {"acc": [1.0]})

    for stage, tasks, after in (("first", "a", ()), ("second", "ab", ("first",)), ("second", "abc", ("first",))):
        rows = scoring.kept_scores(place, stage, model, specs, {name: task(name) for name in tasks}, after)
        assert {name: sorted(row["evaluations"]) for name, row in rows.items()} == dict.fromkeys(specs, sorted(tasks))
    # a task at all bitmaps before the next task
    assert [name for name, _ in scored] == ["a", "a", "b", "b", "c", "c"]
    assert len(set(scored)) == 6


def test_a_bitmap_that_was_found_twice_is_scored_once(study, tmp_path):
    from study import ranking, scoring

    model = scoring.pretrained(tiny(study, tmp_path))
    five = model.set_bitmap("w5a8kv8", quiet=True).to_json()
    found = {"after": "w4a8kv8", "before": five, "uniform 5": "w5a8kv8"}
    assert list(ranking._different(found, model)) == ["after", "before"]


def test_bitmaps_are_compared_on_the_questions_that_both_have(study, tmp_path):
    from study import found

    def evaluation(nats, tokens):
        loss, losses = mean_per_token(nats, tokens)
        return Evaluation({"loss": loss}, len(nats), {"loss": losses}, weights={"loss": tokens})

    place = replace(tiny(study, tmp_path), scale=replace(tiny(study, tmp_path).scale, dev_questions=200))
    nats, tokens = [1.0, 2.0, 0.5, 4.0, 3.0], [1, 3, 2, 5, 4]
    names = found.pieces(place, "losses")
    every = {
        name: evaluation(nats[at : at + 2], tokens[at : at + 2]).to_json()
        for name, at in zip(names, (0, 2), strict=False)
    }
    joined = found._joined(place, {"evaluations": every, "machines": dict.fromkeys(every, "this")})
    assert joined["loss"][0]["loss"] == pytest.approx(sum(nats[:4]) / sum(tokens[:4]))
    other = {"loss": (evaluation([1.5, 2.5, 1.0], tokens[:3]), None)}
    pair = found._differences(other, joined)["loss"]
    assert pair["questions"] == 3
    assert pair["machines"] == [None, "this"]
    # 0.5 nats more per question, over the 6 tokens of the three
    assert pair["interval"][0] == pytest.approx(3 * 0.5 / 6)
    # a piece that is missing ends what is joined
    late = {names[0]: every[names[0]], names[2]: every[names[1]]}
    assert found._joined(place, {"evaluations": late, "machines": dict.fromkeys(late, "this")})["loss"][0].examples == 2


def test_the_mean_over_seeds_is_that_of_both_seeds_and_each_bitmap_is_judged_by_itself(study):
    def row(*f1):
        metrics = {"f1": f1, "exact_match": f1, "loss": f1}
        scores = Evaluation({name: sum(f1) / len(f1) for name in metrics}, len(f1), dict(metrics))
        return {"evaluations": {"squad": scores.to_json()}}

    scored = {
        "cpt": {"8": row(3, 5, 4), "striped": row(2, 2, 2), "MLP at 4": row(4, 4, 4)},
        "spnet": {"8": row(1, 1, 1), "striped": row(1, 1, 1), "MLP at 4": row(1, 1, 1)},
        "cpt_again": {"8": row(0, 0, 0), "striped": row(1, 1, 1), "MLP at 4": row(2, 2, 2), "6": row(9, 9, 9)},
        "spnet_again": {"8": row(0, 3, 0), "striped": row(1, 1, 1), "MLP at 4": row(0, 0, 0)},
    }
    rows = study["summary"].over_seeds(scored)
    assert [row["bitmaps"] for row in rows] == [["8"], ["striped", "MLP at 4"]]
    assert [row["f1"]["mean"][0] for row in rows] == [1.0, 1.5]
    assert [[seed[0] for seed in row["f1"]["seeds"]] for row in rows] == [[3.0, -1.0], [2.0, 1.0]]
    del scored["cpt_again"]
    assert study["summary"].over_seeds(scored) == []


def summary_of(trainings, perplexity, **more):
    """A summary with one baseline, and one trained model where there are trainings."""
    of_trained = ("scores", "seeds", "search", "data_free_text", "sensitivity_trained", "cost")
    row = {"perplexity": [perplexity], "machines": {"text": f"machine {perplexity}"}, **more}
    return {
        **dict.fromkeys(("scale", "model", "stored_as", "questions"), "the same"),
        "settings": {"passes": 8},
        **{name: dict(trainings) for name in of_trained},
        "trainings": trainings, "comparisons": list(trainings), "mixed": [], "machines_differ": [],
        "baselines": {"NF4": {"w4": row}},
        "scheme_pairs": [{"of": "NF4", "over": "GPTQ", "at": "w4", "loss": perplexity}],
        "sensitivity": None, "head": {}, "speed": None, "machines": [{"device": perplexity}],
        "seconds": {f"stage {perplexity}": 1},
    }  # fmt: skip


def test_a_summary_is_completed_by_an_earlier_one_and_trained_models_come_from_one_state_alone(study):
    onto = study["onto"].onto
    earlier, later = summary_of({"cpt": 1}, 5, boolq=[40]), summary_of({}, 6)
    later["head"] = {"found": 1}
    found = onto(later, earlier)
    assert found["trainings"] == found["scores"] == {"cpt": 1}
    assert found["comparisons"] == ["cpt"]
    row = found["baselines"]["NF4"]["w4"]
    assert (row["perplexity"], row["boolq"], row["machines"]) == ([6], [40], {"text": "machine 6"})
    assert [pair["loss"] for pair in found["scheme_pairs"]] == [6]
    assert found["head"] == {"found": 1}
    assert found["machines"] == [{"device": 5}, {"device": 6}]
    assert set(found["seconds"]) == {"stage 5", "stage 6"}
    again = onto(summary_of({"spnet": 2}, 7), earlier)
    assert again["trainings"] == again["scores"] == again["cost"] == {"spnet": 2}


def test_a_summary_of_another_scale_completes_nothing(study):
    with pytest.raises(BadInputError, match="scale is 'cpu' here and 'the same' there"):
        study["onto"].onto(summary_of({}, 6) | {"scale": "cpu"}, summary_of({}, 5))


def test_a_setting_that_an_earlier_summary_does_not_name_had_its_default(study):
    later, earlier = summary_of({}, 6), summary_of({}, 5)
    later["settings"] = later["settings"] | {"whole": False}
    assert study["onto"].onto(later, earlier)["settings"]["whole"] is False
    later["settings"] = later["settings"] | {"whole": True}
    with pytest.raises(BadInputError, match="settings is .*'whole': True.* here"):
        study["onto"].onto(later, earlier)


def test_claims_about_layers_find_what_was_planted(study):
    from study import claims

    def damage(block, kind):
        part = 4.0 if kind in claims.MLP else 1.0
        return part * (0.5 if kind in ("o_proj", "down_proj") else 1.0) / 2**block

    kinds = {"self_attn": claims.ATTENTION, "mlp": claims.MLP}
    names = [f"layers.{block}.{part}.{kind}" for block in range(6) for part, each in kinds.items() for kind in each]
    window = {name: {"4": damage(int(name.split(".")[1]), name.rpartition(".")[2])} for name in names}
    weights = {name: 8 if ".mlp." in name else 2 for name in names}
    told = claims.sensitivities([window, window], weights, 64)["4"]
    assert told["claims"]["rank correlation of a block's depth and damage"][0] == -1.0
    assert told["claims"]["the MLP's output over its inputs"] == [0.5, 0.5, 0.5]
    per_site = told["claims"]["MLP layers over attention layers"][0]
    assert told["claims"]["MLP layers over attention layers, per weight"][0] == pytest.approx(per_site / 4, abs=1e-3)
    assert told["windows_agree"] == 1.0
    assert next(iter(told["most"])) == "layers.0.mlp.gate_proj"


def test_a_claim_holds_or_is_contradicted_only_where_the_whole_interval_is_on_one_side(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from claim_table import verdict

    for side in (1, -1):
        for low, high in ((-2.0, -1.0), (-1.0, 1.0), (0.0, 1.0), (1.0, 2.0)):
            told = verdict(((low + high) / 2, low, high), 0, side)
            if low <= 0 <= high:
                assert told == "is not shown"
            else:
                assert told == ("holds" if (low > 0) == (side > 0) else "is contradicted")


def test_the_tables_on_the_pages_are_those_of_the_committed_result(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    found = json.loads(tables.RESULT.read_text(encoding="utf-8"))
    for page in tables.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "<!-- results:" in text
        assert tables.filled(text, found) == text, f"{page} does not show {tables.RESULT.name}: run `make results`"
