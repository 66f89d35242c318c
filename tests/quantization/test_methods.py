"""What each method promises beyond the contract: the worked vectors, its gradient, its levels."""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.llm_qat import LlmQat
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.midrise import MidRise
from qalof.quantization.methods.nf4 import CODEBOOK, NormalFloat4
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.methods.tanh import Tanh
from qalof.quantization.quantizer import QParams, Quantizer

VECTOR = torch.tensor([[0.30, -0.70, 0.06, 0.699]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- symmetric ---


def test_real_width_keeps_a_real_divisor_and_clamps_to_it_rounded_half_up():
    quantized = Symmetric().quantize(torch.tensor([[1.0, -0.6, 0.25, 0.0]]), 4.7)
    assert quantized.codes.tolist() == [[12, -7, 3, 0]]
    assert quantized.scale.item() == pytest.approx(0.0833609, abs=1e-7)


def test_floor_of_a_real_width_is_the_grid_of_whole_levels():
    quantized = Symmetric(fractional_bits="floor").quantize(torch.tensor([[1.0, -0.6, 0.25, 0.0]]), 4.7)
    assert quantized.scale.item() == pytest.approx(1 / 11)
    assert quantized.codes.tolist() == [[11, -7, 3, 0]]


@pytest.mark.parametrize("fractional_bits", ["round", "floor"])
@pytest.mark.parametrize("kind", [Symmetric, Asymmetric, Log, Tanh, Lsq])
def test_whole_width_given_as_a_real_number_is_the_whole_width(kind, fractional_bits):
    x = normal(3, 9)
    for bits in (2, 5, 16):
        a, b = kind().quantize(x, bits), kind(fractional_bits=fractional_bits).quantize(x, float(bits))
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.scale, b.scale)


def test_full_range_is_the_convention_of_compressed_tensors():
    x = torch.tensor([[127.5, -127.5, 63.8]])  # a step of exactly 1
    quantized = Symmetric(range="full").quantize(x, 8)
    assert quantized.scale.item() == 1
    assert quantized.codes.tolist() == [[127, -128, 64]]


def test_one_bit_is_the_sign_times_the_mean_and_zero_counts_as_positive():
    x = torch.tensor([[1.0, -3.0, 0.0, 4.0]])
    assert Symmetric().fake_quantize(x, 1).tolist() == [[2.0, -2.0, 2.0, 2.0]]


def test_two_bits_are_ternary_and_flush_most_of_a_normal_row_to_zero():
    rounded = Symmetric().fake_quantize(normal(20, 3072), 2)
    assert all(len(row.unique()) == 3 for row in rounded)
    assert 0.85 < (rounded == 0).float().mean() < 0.97


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_per_channel_scales_factor_out_of_the_product(bits):
    weight, x = normal(7, 12), normal(3, 12, seed=1)
    quantized = Symmetric().quantize(weight, bits)
    expected = (x @ quantized.codes.float().T) * quantized.scale.squeeze(-1)
    torch.testing.assert_close(x @ Symmetric().fake_quantize(weight, bits).T, expected)


def test_zero_padding_is_harmless_for_a_symmetric_group_and_not_for_an_asymmetric_one():
    x = normal(2, 5).abs() + 1
    padded = torch.cat([x, torch.zeros(2, 3)], dim=1)
    assert torch.equal(Symmetric().fake_quantize(padded, 4)[:, :5], Symmetric().fake_quantize(x, 4))
    assert not torch.allclose(Asymmetric().fake_quantize(padded, 4)[:, :5], Asymmetric().fake_quantize(x, 4), atol=1e-2)
    assert not torch.equal(Asymmetric().fake_quantize(torch.tensor([[-0.3, 0.0, 1.0]]), 3)[:, 1], torch.zeros(1))


# --- asymmetric ---


def test_asymmetric_worked_vector():
    quantized = Asymmetric().quantize(VECTOR, 4)
    assert quantized.codes.tolist() == [[11, 0, 8, 15]]
    assert quantized.scale.item() == pytest.approx(0.0932667, abs=1e-7)


@pytest.mark.parametrize("zero_point", ["float", "integer"])
@pytest.mark.parametrize("value", [3.3, -0.7, 0.0, 1e-5])
def test_a_constant_row_comes_back(zero_point, value):
    row = torch.full((1, 5), value)
    torch.testing.assert_close(Asymmetric(zero_point=zero_point).fake_quantize(row, 4), row)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_integer_zero_point_has_zero_among_its_levels_and_is_a_code(bits):
    quantizer = Asymmetric(zero_point="integer")
    for offset in (-3.0, 0.0, 0.4, 3.0):
        x = normal(4, 30) + offset
        quantized = quantizer.quantize(x, bits)
        assert ((quantized.zero_point >= 0) & (quantized.zero_point <= 2**bits - 1)).all()
        assert torch.equal(quantized.zero_point, quantized.zero_point.round())
        assert (quantizer.fake_quantize(torch.zeros_like(x), bits, quantized.qparams) == 0).all()


def test_anchored_range_holds_zero():
    x = normal(4, 30).abs() + 2
    assert (Asymmetric(anchor_zero=True).quantize(x, 4).zero_point == 0).all()
    assert (Asymmetric().quantize(x, 4).zero_point >= 2).all()


# --- log ---


def test_log_worked_vector():
    assert Log(octaves=6).fake_quantize(VECTOR, 4).tolist() == [pytest.approx([0.35, -0.7, 0.04375, 0.7])]


@pytest.mark.parametrize(("bits", "octaves", "bound"), [(8, 8, 0.0224), (5, 7, 0.19), (4, 6, 0.4143)])
def test_relative_error_of_log_is_bounded_by_half_a_step_in_octaves(bits, octaves, bound):
    quantizer = Log(octaves=octaves)
    x = normal(50, 400)
    rounded = quantizer.fake_quantize(x, bits)
    kept = rounded != 0
    assert ((rounded / x - 1).abs()[kept] <= bound + 1e-4).all()
    maximum = x.abs().amax(-1, keepdim=True)
    step = octaves / (2 ** (bits - 1) - 2)
    assert (x.abs() / maximum)[~kept].max() < 2 ** (-octaves - step / 2) * 1.0001


def test_powers_of_two_never_get_finer_with_the_width():
    x = normal(5, 2000)
    for bits in (4, 6, 8):
        rounded = Log(octaves="power_of_two").fake_quantize(x, bits)
        error = ((rounded / x - 1).abs())[rounded != 0].max()
        assert 0.40 < error <= 2**0.5 - 1 + 1e-3


def test_two_bit_log_is_ternary_with_its_threshold_at_half():
    x = torch.tensor([[1.0, 0.5, 0.49, -0.5, -0.49, 0.0]])
    for octaves in ("mse", 8, "power_of_two"):
        assert Log(octaves=octaves).fake_quantize(x, 2).tolist() == [[1.0, 1.0, 0.0, -1.0, 0.0, 0.0]]


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_fitted_reach_has_the_least_squared_error_of_all_candidates_in_every_channel(bits):
    x = normal(6, 300) * torch.logspace(-2, 1, 300)
    fitted = (Log().fake_quantize(x, bits) - x).square().mean(-1)
    fixed = torch.stack([(Log(octaves=r).fake_quantize(x, bits) - x).square().mean(-1) for r in range(1, 13)])
    assert torch.equal(fitted, fixed.amin(0))


# --- tanh ---


def test_tanh_worked_vector():
    quantized = Tanh(rescale="none").quantize(VECTOR, 4)
    assert quantized.scale.item() == pytest.approx(0.6043678, abs=1e-6)
    assert Tanh(rescale="none").fake_quantize(VECTOR, 4).tolist() == [pytest.approx([7 / 15, -1, 1 / 15, 1])]
    linear = Tanh().fake_quantize(VECTOR, 4)
    torch.testing.assert_close(linear, Tanh(rescale="none").fake_quantize(VECTOR, 4) * quantized.scale)


def test_zero_is_no_level_of_tanh():
    quantizer = Tanh()
    rounded = quantizer.fake_quantize(torch.tensor([[0.0, 0.5, -0.5]]), 3)
    assert abs(rounded[0, 0]) == pytest.approx(torch.tanh(torch.tensor(0.5)).item() / 7)


def test_atanh_maps_back_to_the_magnitudes_and_survives_saturation():
    x = normal(3, 50)
    assert (Tanh(rescale="atanh").fake_quantize(x, 8) - x).abs().max() < 0.2
    assert torch.isfinite(Tanh(rescale="atanh").fake_quantize(torch.tensor([[50.0, -50.0, 0.1]]), 4)).all()


@pytest.mark.parametrize("rescale", ["linear", "none", "atanh"])
def test_tanh_gradient_is_exact_but_for_the_rounding(rescale):
    quantizer = Tanh(rescale=rescale)
    x = normal(3, 7).requires_grad_(True)
    quantizer.fake_quantize(x, 4).sum().backward()
    y = x.detach().clone().requires_grad_(True)
    maximum = torch.tanh(y).detach().abs().amax(-1, keepdim=True)
    unit = torch.tanh(y) / (2 * maximum) + 0.5
    unit = unit + ((unit * 15).round() / 15 - unit).detach()
    w = 2 * unit - 1
    value = {"none": w, "linear": w * maximum, "atanh": torch.atanh(w * maximum)}[rescale]
    value.sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


# --- LSQ ---


@pytest.mark.parametrize(("ratio", "slope", "to_x"), [(1.3, -0.3, 1), (9.0, 7.0, 0), (-9.0, -8.0, 0), (7.0, 0.0, 1)])
def test_gradient_of_a_step_by_hand(ratio, slope, to_x):
    step = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([ratio * 0.5], requires_grad=True)
    quantizer = Lsq(granularity=Granularity.TENSOR)
    quantizer.fake_quantize(x, 4, QParams(step)).sum().backward()
    scale = (1 * 7) ** -0.5
    assert step.grad.item() == pytest.approx(slope * scale, abs=1e-6)
    assert x.grad.item() == to_x


@pytest.mark.parametrize(
    ("granularity", "count", "expected"),
    [
        ("channel", "shared", 12), ("tensor", "shared", 60), ("tensor", "features", 12), ("channel", "tensor", 60),
        ("group", "shared", 4),
    ],
)  # fmt: skip
def test_gradient_scale_counts_what_shares_a_step(granularity, count, expected):
    quantizer = Lsq(granularity=granularity, gradient_count=count, group_size=4 if granularity == "group" else None)
    bare = Lsq(granularity=granularity, gradient_count="none", group_size=4 if granularity == "group" else None)
    x = normal(5, 12)
    grads = []
    for each in (quantizer, bare):
        step = each.qparams(x, 4).scale.clone().requires_grad_(True)
        each.fake_quantize(x, 4, QParams(step)).sum().backward()
        grads.append(step.grad)
    torch.testing.assert_close(grads[0], grads[1] / (expected * 7) ** 0.5)


def test_starting_step_is_two_means_over_the_root_of_the_largest_code():
    x = normal(2, 500)
    step = Lsq().qparams(x, 4).scale
    torch.testing.assert_close(step, 2 * x.abs().mean(-1, keepdim=True) / 7**0.5)


# --- codebooks and parity ---


def test_nf4_takes_the_nearest_of_its_sixteen_levels():
    x = torch.rand(3, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[:, 0], x[:, 64] = 1, -1  # so that both blocks of a row have scale 1
    rounded = NormalFloat4().fake_quantize(x, 4)
    levels = torch.tensor(CODEBOOK)
    nearest = levels[(x.unsqueeze(-1) - levels).abs().argmin(-1)]
    assert torch.equal(rounded, nearest)
    assert levels.round(decimals=7).tolist() == pytest.approx(
        [-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0, 0.0795803, 0.1609302, 0.2461123,
         0.3379152, 0.4407098, 0.562617, 0.7229568, 1], abs=2e-7
    )  # fmt: skip


def test_two_bit_midrise_is_the_formula_of_llm_qat():
    x = normal(4, 100)
    s = 2 * x.abs().mean(-1, keepdim=True)
    expected = s * (torch.round(torch.clamp(x / s, -0.99, 0.99) * 2 - 0.5) + 0.5) / 2
    torch.testing.assert_close(MidRise().fake_quantize(x, 2), expected)
    levels = (MidRise().fake_quantize(x, 2) / x.abs().mean(-1, keepdim=True)).unique()
    assert set(levels.round(decimals=3).tolist()) == {-1.5, -0.5, 0.5, 1.5}


def test_llm_qat_parity_is_its_formula_and_loses_codes_near_its_epsilon():
    x = normal(4, 100)
    s = 127 / (x.abs().amax(-1, keepdim=True) + 1e-6)
    assert torch.equal(LlmQat().fake_quantize(x, 8), torch.round(x * s) / (s + 1e-6))
    assert LlmQat().quantize(x * 1e-6 / x.abs().amax(), 8).codes.abs().max() == 64
    assert Symmetric().quantize(x * 1e-6 / x.abs().amax(), 8).codes.abs().max() == 127
    torch.testing.assert_close(LlmQat().fake_quantize(x, 8), Symmetric().fake_quantize(x, 8), atol=1e-4, rtol=1e-4)


def test_masked_estimator_has_no_gradient_from_its_limit_on():
    x = torch.tensor([[-3.0, -2.0, -1.99, 0.0, 1.0, 2.0, 5.0]], requires_grad=True)
    LlmQat(ste="masked").fake_quantize(x, 4).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 1, 1, 0, 0]]
    y = x.detach().clone().requires_grad_(True)
    Symmetric(ste="masked", ste_limit=4).fake_quantize(y, 4).sum().backward()
    assert y.grad.tolist() == [[1, 1, 1, 1, 1, 1, 0]]


# --- options ---


def test_a_group_size_that_does_not_divide_is_refused_where_asked_and_names_what_would_do():
    weight = normal(2, 768)
    ragged = Symmetric(granularity="group", group_size=100)
    assert ragged.quantize(weight, 4).scale.shape == (2, 8)
    strict = Symmetric(granularity="group", group_size=100, require_divisible=True)
    with pytest.raises(BadInputError, match=r"group_size must divide in_features: got 100 for 768; 96 or 128 would"):
        strict.fake_quantize(weight, 4)


def test_heads_are_groups_of_the_head_size():
    x = normal(2, 3, 32)
    head = Symmetric(granularity="head")
    with pytest.raises(BadInputError, match="head size"):
        head.fake_quantize(x, 4)
    known = head.for_heads(8)
    assert torch.equal(known.fake_quantize(x, 4), Symmetric(granularity="group", group_size=8).fake_quantize(x, 4))
    assert known.quantize(x, 4).scale.shape == (2, 3, 4)
    with pytest.raises(BadInputError, match="must divide"):
        head.for_heads(5).fake_quantize(x, 4)


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ("sigmoid", "no quantizer 'sigmoid'"),
        ("symetric", "did you mean 'symmetric'"),
        ({"method": "log", "octave": 3}, "did you mean 'octaves'"),
        (
            {"method": "log", "octaves": "some"},
            "octaves must be 'mse' or 'power_of_two' or a number above 0: got 'some'",
        ),
        ({"method": "log", "octaves": -1}, "octaves must be 'mse' or 'power_of_two' or a number above 0: got -1"),
        ({"method": "symmetric", "range": "wide"}, "range must be 'narrow' or 'full': got 'wide'"),
        ({"method": "symmetric", "granularity": "row"}, "granularity must be 'tensor' or 'channel'"),
        ({"method": "symmetric", "granularity": "group"}, "must have a group_size"),
        ({"method": "symmetric", "group_size": 32}, "belongs to granularity group or head"),
        ({"method": "symmetric", "granularity": "group", "group_size": 0}, "at least 1"),
        (
            {"method": "symmetric", "granularity": "group", "group_size": True},
            "group_size must be a whole number of at least 1",
        ),
        ({"method": "symmetric", "full_precision_bits": 64}, "from 2 to 32"),
        ({"method": "llm_qat", "scale_dtype": "float16"}, "overflows float16"),
        (7, "no quantizer"),
    ],
)
def test_bad_options_are_one_clear_error(settings, law):
    with pytest.raises(BadInputError, match=law):
        Quantizer.from_json(settings)


def test_a_pydantic_config_takes_a_quantizer_as_a_field_and_writes_it_back():
    from pydantic import BaseModel, ValidationError

    class Config(BaseModel):
        weight: Quantizer = Symmetric()

    config = Config.model_validate({"weight": {"method": "log", "octaves": 8}})
    assert config.weight == Log(octaves=8)
    assert Config.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="did you mean 'octaves'"):
        Config.model_validate({"weight": {"method": "log", "octavs": 8}})
