"""The contract of every score: complete, zero at full precision, deterministic, resumable, and without a trace."""

import json
from functools import partial

import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from search.scores import compute as computing
from search.scores.compute import SCORES, compute
from search.scores.measures import Hessian
from search.scores.table import ScoreTable

WEIGHTS = {"weight": ("2", "4", "8")}
EVERYWHERE = WEIGHTS | {"activation": ("4", "8"), "kv": ("4", "k8v4", "8")}
ON_WINDOWS = [score for score in SCORES if score != "metric"]


@pytest.fixture(scope="module", autouse=True)
def few_probes():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(computing, "Hessian", partial(Hessian, items=5, tolerance=0))
        yield


def choices_of(score):
    return WEIGHTS if score == "hessian" else EVERYWHERE


@pytest.fixture(scope="module")
def tables(plain_model, windows):
    made = {}

    def get(score):
        if score not in made:
            made[score] = compute(plain_model, windows, score, choices_of(score))
        return made[score]

    return get


@pytest.mark.parametrize("score", ON_WINDOWS)
def test_every_site_has_a_damage_at_every_choice(tables, plain_model, score):
    table, choices = tables(score), choices_of(score)
    assert table.score == score
    assert set(table.values) == set(choices)
    cached = [site.name for site in plain_model.sites if site.kv]
    for role, widths in choices.items():
        assert list(table.values[role]) == (cached if role == "kv" else list(plain_model.site_names))
        for by_choice in table.values[role].values():
            assert tuple(by_choice) == tuple(widths)
            # any rounding moves an output; a trace may be negative away from a minimum, which counts as no damage
            assert score == "hessian" or min(by_choice.values()) > 0
    assert table.damage("weight", plain_model.site_names[0], "32") == 0


@pytest.mark.parametrize("score", ON_WINDOWS)
def test_fewer_bits_do_more_damage(tables, score):
    for role, sites in tables(score).values.items():
        for site, by_choice in sites.items():
            values = list(by_choice.values())
            assert values == sorted(values, reverse=True), (role, site)
            assert values[0] > values[-1] or (values == [0] * len(values) and score == "hessian")


@pytest.mark.parametrize("score", ON_WINDOWS)
def test_a_table_is_a_function_of_model_data_and_seed(tables, plain_model, windows, score):
    again = compute(plain_model, windows, score, choices_of(score))
    assert again.values == tables(score).values
    assert again.fingerprint == tables(score).fingerprint


@pytest.mark.parametrize("score", ON_WINDOWS)
def test_the_model_is_as_it_was(adapted_model, windows, score):
    model = adapted_model.train()
    before, asked = model.set_bitmap("striped84"), [p.requires_grad for p in model.parameters()]
    states = [switch.state for switch in model.switches]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compute(model, windows, score, choices_of(score))
    assert model.bitmap == before
    assert model.training
    assert [switch.state for switch in model.switches] == states
    assert [p.requires_grad for p in model.parameters()] == asked
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for switch in model.switches for module in (switch.linear,))
    model.eval()


@pytest.mark.parametrize("score", ON_WINDOWS)
def test_an_interrupted_table_goes_on_where_it_stopped(tables, plain_model, windows, score, tmp_path, monkeypatch):
    monkeypatch.setattr("search.scores.data.BATCH_TOKENS", 24)  # several items, for scores whose item is a batch
    whole, path = compute(plain_model, windows, score, choices_of(score)), tmp_path / "scores.json"
    done = []

    def stop(at, total):
        done.append(at)
        if at == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(plain_model, windows, score, choices_of(score), path=path, progress=stop)
    assert not path.exists()
    record = tmp_path / "scores.partial.jsonl"
    record.write_bytes(record.read_bytes() + b'{"item": 2, "par')  # a kill tears a line
    resumed = compute(
        plain_model, windows, score, choices_of(score), path=path, progress=lambda at, total: done.append(at)
    )
    assert done[:3] == [1, 2, 3], "the third item is the first to be done again"
    assert resumed.values == whole.values
    assert ScoreTable.load(path).values == whole.values
    assert [each.name for each in tmp_path.iterdir()] == ["scores.json"]


def test_a_finished_table_is_not_computed_again_and_another_one_is(plain_model, windows, tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    first = compute(plain_model, windows, choices=WEIGHTS, path=path)
    with monkeypatch.context() as patched:
        patched.setattr(computing, "_parts_of", None)
        assert compute(plain_model, windows, choices=WEIGHTS, path=path) == first
    assert compute(plain_model, windows, choices={"weight": ("4",)}, path=path).choices("weight") == ("4",)
    path.write_text("{")
    assert compute(plain_model, windows, choices=WEIGHTS, path=path).values == first.values


def test_parts_of_another_model_are_dropped(plain_model, windows, tmp_path):
    record = tmp_path / "scores.partial.jsonl"
    record.write_text(
        json.dumps({"fingerprint": "model:other"}) + "\n" + json.dumps({"item": 0, "part": "nonsense"}) + "\n"
    )
    table = compute(plain_model, windows, choices=WEIGHTS, path=tmp_path / "scores.json")
    assert table.values == compute(plain_model, windows, choices=WEIGHTS).values


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"item": 0}', '{"part": {}, "seconds": "long"}'])
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_record_is_begun_again(plain_model, windows, tmp_path, caplog, line, place):
    whole = compute(plain_model, windows, "mse", WEIGHTS)
    lines = [json.dumps({"fingerprint": whole.fingerprint})]
    lines.insert(place, line)
    (tmp_path / "scores.partial.jsonl").write_text("".join(f"{each}\n" for each in lines))
    assert compute(plain_model, windows, "mse", WEIGHTS, path=tmp_path / "scores.json").values == whole.values
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("part", ["model", "data", "scheme", "settings"])
def test_the_fingerprint_says_what_differs(make_model, windows, part):
    first = compute(make_model(), windows, "mse", WEIGHTS)
    model, data, choices = make_model(), windows, WEIGHTS
    if part == "model":
        with torch.no_grad():
            model.switches[0].linear.weight[0, 0] += 1e-3
    elif part == "data":
        data = windows[:-1]
    elif part == "scheme":
        model = make_model(quantization={"weight": {"quantizer": {"method": "asymmetric", "granularity": "channel"}}})
    else:
        choices = {"weight": ("2", "4")}
    other = compute(model, data, "mse", choices)
    with pytest.raises(BadInputError, match=rf"another {part} \("):
        first.check_for(other.fingerprint, model.site_names)


@pytest.mark.parametrize("name", ["language-modeling", "squad-completion", "squad-span", "classification"])
def test_every_task_with_a_likelihood_has_fisher_scores_and_kl(random_model, name):
    settings = {"max_length": 64} | ({"stride": 32} if name in ("language-modeling", "squad-span") else {})
    task = qalof.task(name, source=random_model, **settings)
    model = build(BaseModel(random_model, task.head, labels=task.labels))
    for score in ("fisher", "kl"):
        table = compute(model, task, score, {"weight": ("3",), "kv": ("4",)}, examples=3)
        assert table.details["examples"] == 3
        assert all(0 < choices["3"] < 100 for choices in table.values["weight"].values())


@pytest.mark.parametrize("score", ["fisher", "mse", "kl", "hessian"])
def test_a_choice_may_have_groups_of_its_own(plain_model, windows, score):
    table = compute(plain_model, windows, score, {"weight": ("3", "3g8", "4", "4g8")})
    assert table.choices("weight") == ("3", "3g8", "4", "4g8")
    sums = {choice: sum(by[choice] for by in table.values["weight"].values()) for choice in table.choices("weight")}
    assert sums["3g8"] < sums["3"]
    assert sums["4g8"] < sums["4"]


def test_a_task_without_a_likelihood_is_refused_for_all_but_its_metric(plain_model):
    task = qalof.task("zero-shot", dataset="boolq", data="tiny")
    for score in ON_WINDOWS:
        with pytest.raises(BadInputError, match=f"score {score} needs a task with a likelihood") as caught:
            compute(plain_model, task, score, WEIGHTS)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"score": "fischer"}, "did you mean 'fisher'"),
        ({"source": []}, "there must be one: got none"),
        ({"source": [[5]]}, "at least two tokens"),
        ({"choices": {"weights": ("4",)}}, "did you mean 'weight'"),
        ({"choices": {"weight": ("32",)}}, "at least one choice below 32"),
        ({"choices": {}}, "at least one choice below 32"),
        ({"choices": {"weight": ("1",)}}, "whole number from 2 to 16"),
        ({"choices": {"weight": ("four",)}}, "must read like"),
        ({"choices": {"kv": ("4g8",)}}, "read like k8v4"),
        ({"choices": {"weight": ("4", 4)}}, "must be different"),
        ({"score": "metric"}, "needs a task"),
        ({"metric": "loss"}, "belongs to the score metric"),
        ({"score": "hessian", "choices": {"kv": ("4",)}}, "weights alone"),
        ({"score": "hessian", "reference": 8}, "take reference 32"),
    ],
)
def test_bad_input_is_one_line(plain_model, windows, arguments, said):
    given = {"model": plain_model, "source": windows, "choices": WEIGHTS} | arguments
    with pytest.raises(BadInputError, match=said) as caught:
        compute(**given)
    assert "\n" not in str(caught.value)
