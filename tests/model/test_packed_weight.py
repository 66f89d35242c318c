"""A packed weight holds the bytes that were predicted, and multiplies as what it was packed from."""

import pytest
import torch
from torch.nn import functional

from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits
from qalof.model.layers.held_weight import INT_MM
from qalof.model.layers.packed_weight import PackedWeight
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.quantization.integer_matmul import integer_product, refused_shape, unusable
from qalof.quantization.packing import packed_bytes
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

CPU = torch.device("cpu")
CHANNEL = {"method": "symmetric", "granularity": "channel"}
GROUP = {"method": "symmetric", "granularity": "group", "group_size": 16}
WEIGHTS = {
    "channel": CHANNEL,
    "full": {**CHANNEL, "range": "full"},
    "fp16": {**CHANNEL, "scale_dtype": "float16"},
    "group": GROUP,
    "ragged": {**GROUP, "group_size": 12},
    "tensor": {"method": "symmetric", "granularity": "tensor"},
    "lsq": {"method": "lsq", "granularity": "channel"},
}
TOKEN = {"method": "symmetric", "granularity": "token"}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(weight, bits, method, activation=TOKEN):
    scheme = TensorScheme.from_json({"quantizer": activation}, "activation")
    return PackedWeight.of(weight, bits, Quantizer.from_json(method), scheme), TensorQuantizer(
        scheme, weight.shape[1], "x"
    )


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("columns", [48, 45])
def test_integers_multiply_to_the_fake_quantized_product_up_to_the_rounding_of_sums(name, bits, columns):
    weight, x, bias = drawn(24, columns), drawn(3, 5, columns, seed=1), drawn(24, seed=2)
    held, quantizer = packed(weight, bits, WEIGHTS[name])
    assert held.kernel(8, CPU) is INT_MM
    rounded = Quantizer.from_json(WEIGHTS[name]).fake_quantize(weight, bits)
    assert torch.equal(held.dequantize(), rounded)
    exact = functional.linear(quantizer(x, 8).double(), rounded.double(), bias.double())
    torch.testing.assert_close(
        held.linear(x, quantizer, 8, bias).double(), exact, rtol=0, atol=2e-6 * exact.abs().max()
    )


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_sums_of_codes_are_exact_integers(bits):
    weight, x = drawn(16, 3072), drawn(4, 3072, seed=1)
    held, quantizer = packed(weight, bits, CHANNEL)
    codes = quantizer.quantize_int8(x, 8).codes
    planes, offset = held._planes()
    count = len(planes)
    got = held._sum([codes[:, at::count] for at in range(count)], planes, offset, slice(None))
    whole = Quantizer.from_json(CHANNEL).quantize(weight, bits).codes
    assert got.dtype is torch.int32
    assert torch.equal(got.long(), codes.long() @ whole.long().T)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
def test_bytes_held_are_those_predicted(name, bits):
    held, _ = packed(drawn(24, 45), bits, WEIGHTS[name])
    assert held.nbytes == packed_bytes(24, 45, bits, Quantizer.from_json(WEIGHTS[name]))
    assert held.nbytes == sum(tensor.numel() * tensor.element_size() for tensor in held.tensors().values())


DECODED = [
    ({"method": "asymmetric"}, TOKEN, 8, 8, "weight values of asymmetric"),
    ({"method": "nf4", "granularity": "group", "group_size": 16}, TOKEN, 4, 8, "weight values of nf4"),
    (CHANNEL, TOKEN, 12, 8, "do not fit int8"),
    (CHANNEL, TOKEN, 8, 16, "do not fit int8"),
    (CHANNEL, TOKEN, 8, 32, "not quantized"),
    (CHANNEL, {"method": "asymmetric", "granularity": "token"}, 8, 8, "input values of asymmetric"),
    (CHANNEL, {"method": "symmetric", "granularity": "group", "group_size": 16}, 8, 8, "scales by group"),
    ({**GROUP, "group_size": 15}, TOKEN, 4, 8, "share bytes"),
]


@pytest.mark.parametrize(("weight", "activation", "bits", "input_bits", "reason"), DECODED)
def test_what_no_kernel_multiplies_is_decoded_exactly_and_says_why(weight, activation, bits, input_bits, reason):
    w, x = drawn(24, 45), drawn(3, 5, 45, seed=1)
    held, quantizer = packed(w, bits, weight, activation)
    kernel = held.kernel(input_bits, CPU)
    assert kernel.name == "decode"
    assert reason in kernel.reason
    rounded = Quantizer.from_json(weight).fake_quantize(w, bits)
    assert torch.equal(
        held.linear(x, quantizer, input_bits, None), functional.linear(quantizer(x, input_bits), rounded)
    )


@pytest.mark.parametrize("activation", [TOKEN, {"method": "symmetric", "granularity": "tensor"}])
def test_a_number_that_is_none_stays_none(activation):
    held, quantizer = packed(drawn(8, 16), 8, CHANNEL, activation)
    x = drawn(2, 16)
    x[0, 3] = float("nan")
    product = held.linear(x, quantizer, 8, None)
    assert product[0].isnan().all()
    assert activation is not TOKEN or product[1].isfinite().all()


def test_one_token_and_none_at_all_multiply():
    held, quantizer = packed(drawn(8, 16), 4, CHANNEL)
    for shape in ((1, 1, 16), (16,), (0, 16)):
        assert held.linear(torch.ones(shape), quantizer, 8, None).shape == (*shape[:-1], 8)


def test_a_cast_that_would_change_scales_is_refused():
    held, _ = packed(drawn(8, 16), 8, CHANNEL)
    with pytest.raises(BadInputError, match="keeps its scales in torch.float32"):
        held.moved(lambda tensor: tensor.half() if tensor.is_floating_point() else tensor)
    assert torch.equal(held.moved(torch.clone).dequantize(), held.dequantize())


def test_the_operator_is_looked_for_on_its_device():
    assert unusable("cpu") is None
    assert "fails on meta" in unusable("meta")
    assert "overflow" in refused_shape("cpu", 200_000, 8)
    assert "multiples of 8" in refused_shape("cuda", 44, 8)
    assert refused_shape("cuda", 48, 8) is None


def test_integer_product_takes_strided_views():
    a = torch.randint(-128, 128, (5, 40), dtype=torch.int8)
    b = torch.randint(-128, 128, (7, 80), dtype=torch.int8)
    assert torch.equal(integer_product(a, b[:, 20:60]).long(), a.long() @ b[:, 20:60].long().T)


def test_a_layer_that_holds_packed_codes_has_the_gradients_of_one_that_holds_values():
    layers = [
        SwitchableLinear(drawn(24, 48), drawn(24), QuantizationScheme(held=held)) for held in ("packed", "values")
    ]
    gradients, outputs = [], []
    for layer in layers:
        layer.bits = LayerBits(4, 8, 32)
        x = drawn(5, 48, seed=3).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        gradients.append(x.grad)
        outputs.append(out)
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert str(layers[0].kernel()) == "int_mm"
        torch.testing.assert_close(layers[0](drawn(5, 48, seed=3)), outputs[1], rtol=0, atol=1e-4)
    assert layers[0].held_bytes() == {4: 24 * (24 + 4)}


def test_packed_codes_are_forgotten_when_the_weight_changes():
    layer = SwitchableLinear(drawn(24, 48), None, QuantizationScheme(held="packed"))
    layer.bits = LayerBits(8, 8, 32)
    with torch.no_grad():
        before = layer(drawn(2, 48))
        layer.weight.mul_(2)
        assert torch.equal(layer(drawn(2, 48)), 2 * before)
