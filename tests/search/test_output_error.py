"""Output errors of sites: the formula on a real forward pass, and greedy's order from the file."""

import json

import pytest
import torch
from torch.nn import functional

import search
from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits
from qalof.model.adapters import AdapterSpec
from qalof.model.at_bitmap import layers_of
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import HeadMode, SwitchSettings
from qalof.model.switchable import build
from search import BitmapSpace
from search.scores.output_error import added, error_sums, read_errors, to_json

WIDTHS = [LayerBits.parse(spec) for spec in ("w8", "w4", "w2", "w4a4", "4", "w32a4")]


@pytest.fixture(scope="module", params=["tied_view", "none"])
def model(request, random_model):
    switch = SwitchSettings(head_mode=HeadMode(request.param))
    made = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2), "8": AdapterSpec(2)}, switch)
    for group in made.trainable_groups().values():
        for parameter in group.values():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def captured(model, batch):
    """Inputs of every site at full precision, by a pass of its own: real tokens alone."""
    seen = {}
    model.set_bitmap(32)
    model.use_adapter(None)
    handles = [
        layers_of(model, site)[0].register_forward_pre_hook(
            lambda module, given, name=site.name: seen.__setitem__(name, given[0][batch["attention_mask"].bool()])
        )
        for site in model.sites
    ]
    with torch.no_grad():
        model.eval()(**batch)
    for handle in handles:
        handle.remove()
    return seen


def test_errors_are_those_of_the_formula_over_real_tokens_without_adapters(model, batch):
    before = model.bitmap
    errors = to_json(error_sums(model, batch, WIDTHS), {bits: str(bits) for bits in WIDTHS})
    assert model.bitmap == before
    inputs = captured(model, batch)
    assert list(errors) == list(model.site_names)
    for site in model.sites:
        linear, x = layers_of(model, site)[0], inputs[site.name]
        y = functional.linear(x, linear.weight, linear.bias)
        for bits in WIDTHS[:3]:
            weight = linear.quantize_weight(linear.weight, bits.weight)
            error = (functional.linear(x, weight, linear.bias) - y).double()
            found = errors[site.name][str(bits)]
            assert found["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
            assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
            assert found["rel"] == pytest.approx(float(error.square().sum() / y.double().square().sum()), rel=1e-5)


def test_fewer_bits_and_more_rounded_tensors_move_the_output_further(model, batch):
    for by_width in error_sums(model, batch, WIDTHS).values():
        mse = [by_width[bits].error().mse for bits in WIDTHS]
        assert mse[0] < mse[1] < mse[2], "w8, w4, w2"
        assert mse[5] > 0, "activations alone"
    cached = [site.name for site in model.sites if site.kv_features]
    found = error_sums(model, batch, WIDTHS)
    assert any(found[name][WIDTHS[4]] != found[name][WIDTHS[3]] for name in cached), (
        "the cache is rounded at 4, not at w4a4"
    )


def test_batches_add_up_to_the_whole_in_whatever_company(model, batch):
    rows = [{name: tensor[at : at + 1] for name, tensor in batch.items()} for at in range(3)]
    whole = error_sums(model, batch, WIDTHS)
    parts = added(error_sums(model, row, WIDTHS) for row in rows)
    for site, by_width in whole.items():
        for bits, sums in by_width.items():
            assert parts[site][bits].count == sums.count
            assert parts[site][bits].error().mse == pytest.approx(sums.error().mse, rel=1e-3)
    with pytest.raises(BadInputError, match="at least one batch"):
        added([])


def test_full_precision_has_no_error(model, batch):
    (bits,) = whole = [LayerBits.of(32)]
    assert all(by_width[bits].error().mse == 0 for by_width in error_sums(model, batch, whole).values())


def write(tmp_path, errors):
    path = tmp_path / "sensitivity.json"
    path.write_text(
        json.dumps({s: {b: {"mse": v, "mae": 0, "rel": 0} for b, v in e.items()} for s, e in errors.items()})
    )
    return str(path)


@pytest.mark.parametrize("group", ["site", "block"])
def test_greedy_visits_units_in_the_order_of_a_file_of_output_errors(plain_sites, make_evaluator, tmp_path, group):
    errors = {"h.0.a": {"w8": 1.0, "w4": 9.0}, "h.0.b": {"w8": 5.0, "w4": 6.0}, "h.1.a": {"w8": 5.5, "w4": 7.0}}
    space = BitmapSpace.of(plain_sites, weight=(4, 8, 32), activation=(32,), kv=(32,), group=group)
    options = {"sensitivity": write(tmp_path, errors), "budget": 1.0}
    found = search.run(space, make_evaluator(plain_sites), ("f1",), "greedy", None, options=options)
    visited = [row["layer"] for row in found.trace]
    by_site = ["h.0.a", "h.0.b", "h.1.a", "h.0.b", "h.1.a", "h.0.a"]
    assert visited == (by_site if group == "site" else ["h.1", "h.0", "h.1", "h.0"])


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"h.0.a": {"w4": 1.0}}', "must read like"), ("[]", "must read like"), ("{", "sensitivity file")],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, said):
    path = tmp_path / "sensitivity.json"
    path.write_text(content)
    with pytest.raises(BadInputError, match=said):
        read_errors(path)


def test_the_file_of_another_model_is_refused(plain_sites, make_evaluator, tmp_path):
    space = BitmapSpace.of(plain_sites, weight=(4, 8), activation=(32,), kv=(32,))
    options = {"sensitivity": write(tmp_path, {"h.9.a": {"w4": 1.0}})}
    with pytest.raises(BadInputError, match=r"sites of the model: got 'h.9.a'"):
        search.run(space, make_evaluator(plain_sites), ("f1",), "greedy", None, options=options)
