"""One layer: schemes, held weights and what makes them stale, training, autocast, compiled graphs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.midrise import MidRise
from qalof.quantization.methods.nf4 import NormalFloat4
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.methods.tanh import Tanh
from qalof.quantization.packing import pack, packed_bytes
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

TOKEN = Symmetric(granularity="token")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(scheme=None, bits="w4a8", out=6, features=20):
    plain = nn.Linear(features, out)
    with torch.no_grad():
        plain.weight.copy_(normal(out, features))
        plain.bias.copy_(normal(out, seed=2))
    linear = SwitchableLinear.of(plain, "h.0.mlp.c_fc", scheme)
    linear.bits = LayerBits.parse(bits)
    return linear


X = normal(2, 5, 20, seed=1)

SCHEMES = {
    "default": QuantizationScheme(),
    "half scales": QuantizationScheme(TensorScheme(Symmetric(scale_dtype="float16"))),
    "log": QuantizationScheme(TensorScheme(Log()), TensorScheme(Log(octaves=8, granularity="token"))),
    "groups": QuantizationScheme(
        TensorScheme(Symmetric(granularity="group", group_size=8)),
        TensorScheme(Asymmetric(granularity="group", group_size=8)),
    ),
    "asymmetric": QuantizationScheme(
        TensorScheme(Asymmetric()), TensorScheme(Asymmetric(granularity="tensor", zero_point="integer"))
    ),
    "tanh": QuantizationScheme(TensorScheme(Tanh())),
    "by width": QuantizationScheme(TensorScheme(Symmetric(), {2: MidRise(), 4: NormalFloat4(), 8: Log(octaves=8)})),
    "sixteen passes": QuantizationScheme(TensorScheme(Symmetric(full_precision_bits=16))),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("held", ["values", "codes"])
@pytest.mark.parametrize("bits", ["2", "w4a8", "8", "w16a4", "32", "w32a4"])
def test_layer_is_the_product_of_its_rounded_weight_and_its_rounded_input(name, held, bits):
    scheme = replace(SCHEMES[name], held=held)
    linear = layer(scheme, bits)
    weight = scheme.weight.at(linear.bits.weight).fake_quantize(linear.weight, linear.bits.weight)
    # each row has a range of its own
    activation = scheme.activation.at(linear.bits.activation)
    rounded = torch.stack([activation.fake_quantize(row, linear.bits.activation) for row in X])
    assert torch.equal(linear(X), functional.linear(rounded, weight, linear.bias))
    with torch.no_grad():
        assert torch.equal(linear(X), functional.linear(rounded, weight, linear.bias))


def test_a_conv1d_is_transposed_once_and_groups_run_along_its_input():
    conv = Conv1D(6, 20)
    scheme = QuantizationScheme(TensorScheme(Symmetric(granularity="group", group_size=8)))
    linear = SwitchableLinear.of(conv, "h.0.mlp.c_fc", scheme)
    assert linear.weight.shape == (6, 20)
    assert linear.quantized_weight(4).scale.shape == (6, 3)


def test_every_width_held_costs_what_is_stated():
    linear = layer(bits="8")
    assert linear.held_bytes() == {}
    for bits in (4, 8, 16):
        linear.rounded_weight(bits)
    assert linear.held_bytes() == dict.fromkeys((4, 8, 16), 6 * 20 * 4)
    codes = layer(QuantizationScheme(held="codes"))
    for bits in (4, 8, 16):
        codes.rounded_weight(bits)
    scales = 6 * 4
    assert codes.held_bytes() == {4: 120 + scales, 8: 120 + scales, 16: 240 + scales}
    codes.forget()
    assert codes.held_bytes() == {}


def test_full_precision_holds_nothing_and_is_the_weight_itself():
    linear = layer(bits="32")
    assert linear.rounded_weight(32) is linear.weight
    assert linear.held_bytes() == {}


def changes():
    def in_place(linear):
        with torch.no_grad():
            linear.weight.mul_(2)

    def element(linear):
        with torch.no_grad():
            linear.weight[0, 0] = 50

    def another_tensor(linear):
        linear.weight = nn.Parameter(linear.weight.detach() * 3, requires_grad=False)

    def state(linear):
        linear.load_state_dict({"weight": linear.weight * 2, "bias": linear.bias})

    def optimizer(linear):
        linear.weight.requires_grad_(True)
        linear(X).sum().backward()
        torch.optim.SGD([linear.weight], lr=1.0).step()
        linear.weight.requires_grad_(False)

    def data(linear):
        linear.weight.data.mul_(2)
        linear.forget()

    return [in_place, element, another_tensor, state, optimizer, data]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
@pytest.mark.parametrize("held", ["values", "codes"])
def test_what_is_held_is_forgotten_when_the_weight_changes(change, held):
    linear = layer(QuantizationScheme(held=held))
    before = linear.rounded_weight(4)
    change(linear)
    after = linear.rounded_weight(4)
    assert not torch.equal(before, after)
    assert torch.equal(after, Symmetric().fake_quantize(linear.weight, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("held", ["values", "codes"])
def test_a_cast_rounds_again_from_the_cast_weight(dtype, held):
    linear = layer(QuantizationScheme(held=held))
    linear.rounded_weight(4)
    linear.to(dtype)
    assert linear.rounded_weight(4).dtype is dtype
    assert torch.equal(linear.rounded_weight(4), Symmetric().fake_quantize(linear.weight, 4))
    assert linear(X.to(dtype)).dtype is dtype


def test_a_weight_in_training_is_rounded_anew_with_a_gradient_and_held_between_steps_without_one():
    linear = layer()
    linear.weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([linear.weight], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        linear(X).square().sum().backward()
        assert linear.weight.grad is not None
        optimizer.step()
        with torch.no_grad():
            evaluated = linear.rounded_weight(4)
            assert linear.rounded_weight(4) is evaluated
            assert torch.equal(evaluated, Symmetric().fake_quantize(linear.weight, 4))


def test_holding_under_inference_mode_serves_a_later_training_step():
    linear = layer()
    with torch.inference_mode():
        linear(X)
    x = X.clone().requires_grad_(True)
    linear(x).sum().backward()
    assert x.grad is not None


def test_bf16_autocast_multiplies_what_was_rounded_in_single_precision():
    linear = layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear(X)
        expected = functional.linear(
            TOKEN.fake_quantize(X, 8).bfloat16(), Symmetric().fake_quantize(linear.weight, 4).bfloat16(),
            linear.bias.bfloat16(),
        )  # fmt: skip
        assert got.dtype is torch.bfloat16
        assert torch.equal(got, expected)
        x = X.bfloat16().requires_grad_(True)
        linear(x).sum().backward()
        assert x.grad.dtype is torch.bfloat16


@pytest.mark.parametrize(
    "name", ["default", *(pytest.param(n, marks=pytest.mark.slow) for n in ("log", "groups", "asymmetric", "by width"))]
)
def test_a_compiled_layer_is_one_graph_a_configuration_and_gives_the_same_numbers(name):
    torch._dynamo.reset()
    linear = layer(SCHEMES[name])
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for bits in ("4", "w4a8", "4"):
                linear.bits = LayerBits.parse(bits)
                torch.testing.assert_close(compiled(X), linear(X), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        linear.weight.mul_(2)
        torch.testing.assert_close(compiled(X), linear(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_packed_file_loads_to_the_weight_the_model_runs_with(bits):
    quantizer = Symmetric(scale_dtype="float16")
    linear = layer(QuantizationScheme(TensorScheme(quantizer)))
    packed = pack(linear.quantized_weight(bits), quantizer)
    assert torch.equal(packed.dequantize(), linear.rounded_weight(bits))
    assert packed.nbytes == packed_bytes(6, 20, bits, quantizer)


def test_a_strict_group_size_that_does_not_divide_is_refused_when_the_layer_is_made():
    scheme = QuantizationScheme(TensorScheme(Symmetric(granularity="group", group_size=8, require_divisible=True)))
    with pytest.raises(BadInputError, match="group_size must divide in_features: got 8 for 20; 5 or 10 would"):
        layer(scheme)


def test_outlying_features_of_a_row_stay_in_half_precision_and_outside_the_ranges():
    linear = layer(QuantizationScheme(activation=TensorScheme(TOKEN, outlier_threshold=6.0)), "w32a4")
    x = X.clamp(-5, 5)
    x[0, 3, 7] = 1000.1
    seen = linear.quantize_input(x)
    assert torch.equal(seen[0, :, 7], x[0, :, 7].half().float())
    inside = x.clone()
    inside[0, 3, 7] = 0
    expected = TOKEN.fake_quantize(inside, 4)
    others = [feature for feature in range(20) if feature != 7]
    assert torch.equal(seen[..., others], expected[..., others])
    assert torch.equal(seen[1], expected[1]), "another row is none of its business"
    ordinary = X.clamp(-5, 5)
    assert torch.equal(linear.quantize_input(ordinary), TOKEN.fake_quantize(ordinary, 4))
    y = x.clone().requires_grad_(True)
    linear.quantize_input(y).sum().backward()
    assert torch.equal(y.grad, torch.ones_like(y))


# --- learned steps ---

LEARNED = QuantizationScheme(
    TensorScheme(Lsq()), TensorScheme(Lsq(granularity="tensor", gradient_count="features")), widths=(4, 8)
)


def test_learned_steps_of_a_frozen_weight_get_gradients_and_changed_steps_are_seen():
    linear = layer(LEARNED, "4")
    linear.train()
    linear(X).square().sum().backward()
    steps = dict(linear.named_parameters())
    graded = {name for name, p in steps.items() if p.grad is not None}
    assert graded == {"weight_quantizer.steps.steps.4", "input_quantizer.steps.steps.4"}
    with torch.no_grad():
        before = linear.rounded_weight(4)
        assert linear.rounded_weight(4) is before
        steps["weight_quantizer.steps.steps.4"].mul_(1.5)
        assert not torch.equal(linear.rounded_weight(4), before)


def test_learned_steps_pack_to_what_runs():
    quantizer = Lsq(scale_dtype="float16")
    linear = layer(QuantizationScheme(TensorScheme(quantizer), widths=(4,)))
    with torch.no_grad():
        linear.weight_quantizer.steps.steps["4"].mul_(0.77)
        packed = pack(linear.quantized_weight(4), quantizer)
        assert torch.equal(packed.dequantize(), linear.rounded_weight(4))


def test_learned_steps_need_their_widths_and_evaluation_needs_a_first_batch():
    with pytest.raises(BadInputError, match="lsq must know its widths"):
        layer(replace(LEARNED, widths=()))
    linear = layer(LEARNED, "4").eval()
    with pytest.raises(BadInputError, match="run calibrate"):
        linear(X)
    linear.train()(X)
    assert torch.isfinite(linear.eval()(X)).all()


def test_default_layer_has_no_state_besides_weight_and_bias():
    assert set(layer().state_dict()) == {"weight", "bias"}
