"""Layers that read the same tensor round it once, with the numbers and gradients of rounding it each time."""

import copy
import pickle

import pytest
import torch

from qalof.model.layers.rounded_input import RoundedInput
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.quantizer import Quantizer

IDS = torch.arange(15).view(3, 5) + 3


def inputs_of(model):
    return [switch.linear.input_quantizer for switch in model.switches]


def logits_and_gradients(model):
    torch.manual_seed(1)
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=IDS).logits
    logits.log_softmax(-1)[:, -1, 7].sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("held", ["values", "int8"])
def test_in_every_family_logits_and_gradients_are_those_of_rounding_each_time(family, specs, held):
    model = build(family.base, specs, SwitchSettings(quantization={"held": held})).double()
    model.set_bitmap("w4a8kv8")
    found, gradients = logits_and_gradients(model)
    for quantizer in inputs_of(model):
        assert quantizer.last is not None
        quantizer.last = None
    expected, same = logits_and_gradients(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert gradients
    torch.testing.assert_close(gradients, same, rtol=1e-9, atol=1e-12)


def test_a_tensor_is_rounded_once_for_all_that_read_it_in_a_row(family, specs, monkeypatch):
    model = build(family.base, specs, SwitchSettings())
    model.set_bitmap("w4a8")
    read, rounded = [], []
    for switch in model.switches:
        switch.linear.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    inputs, plain = model.settings.quantization.activation.at(8), Quantizer.fake_quantize

    def counted(self, x, *args):
        rounded.extend([x] if self is inputs else [])
        return plain(self, x, *args)

    monkeypatch.setattr(Quantizer, "fake_quantize", counted)
    with torch.no_grad():
        model(input_ids=IDS)
    runs = [x for x, before in zip(read, [None, *read], strict=False) if x is not before]
    assert [id(x) for x in rounded] == [id(x) for x in runs]


def test_the_same_tensor_is_rounded_again_after_a_write_at_other_bits_and_with_a_graph():
    last, x, asked = RoundedInput(), torch.ones(3), []

    def at(bits):
        return last.get(x, bits, lambda: asked.append(bits) or x.clone())

    last.begin()
    first = at(8)
    assert at(8) is first
    x.mul_(2)
    assert at(8).tolist() == [2, 2, 2]
    at(4)
    with torch.no_grad():
        at(4)
    assert asked == [8, 8, 4, 4]
    last.end()
    at(4)
    at(4)
    assert asked == [8, 8, 4, 4, 4, 4]


def test_nothing_is_kept_after_a_forward_pass_even_one_that_fails(families, specs):
    model = build(families("llama").base, specs, SwitchSettings())
    model.set_bitmap("w4a8")
    last = inputs_of(model)[0].last
    model(input_ids=IDS)
    assert last._last is None
    model.switches[-1].linear.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(input_ids=IDS)
    assert last._last is None
    assert not last._runs
    copy.deepcopy(model)
    pickle.dumps(last)


@pytest.mark.parametrize(
    "activation",
    [
        {"quantizer": {"method": "symmetric", "granularity": "tensor"}},
        {"quantizer": {"method": "symmetric", "granularity": "token"}, "outlier_threshold": 6.0},
    ],
    ids=["one range per row", "outliers"],
)
def test_inputs_that_are_rounded_by_their_rows_are_not_shared(families, specs, activation):
    model = build(families("llama").base, specs, SwitchSettings(quantization={"activation": activation}))
    assert all(quantizer.last is None for quantizer in inputs_of(model))
