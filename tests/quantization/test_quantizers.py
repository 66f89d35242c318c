import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qalof.bitmap import FULL_PRECISION
from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import dequantize, fake_quantize, largest_code, quantize

CHANNEL, TOKEN, TENSOR = Granularity.CHANNEL, Granularity.TOKEN, Granularity.TENSOR
widths = st.integers(2, 16)
seeds = st.integers(0, 10_000)
scales = st.sampled_from([1e-6, 1e-3, 1.0, 37.5, 1e4])


def sample(seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(5, 17, generator=torch.Generator().manual_seed(seed)) * scale


def test_worked_vector_at_four_bits():
    quantized = quantize(torch.tensor([[0.30, -0.70, 0.06, 0.699]]), 4, CHANNEL)
    assert quantized.codes.tolist() == [[3, -7, 1, 7]]
    assert quantized.scale.item() == pytest.approx(0.1)


def test_worked_vector_at_three_bits():
    codes = quantize(torch.tensor([[1.0, -0.6, 0.25, 0.0]]), 3, CHANNEL).codes
    assert codes.tolist() == [[3, -2, 1, 0]]


@given(seeds, widths, scales)
@settings(max_examples=50, deadline=None)
def test_fake_quantize_is_decode_of_encode_bit_for_bit(seed, bits, scale):
    x = sample(seed, scale)
    for granularity in (TENSOR, CHANNEL, TOKEN):
        assert torch.equal(fake_quantize(x, bits, granularity), dequantize(quantize(x, bits, granularity), granularity))


@given(seeds, widths, scales)
@settings(max_examples=50, deadline=None)
def test_error_is_at_most_half_a_step(seed, bits, scale):
    x = sample(seed, scale)
    step = quantize(x, bits, CHANNEL).scale
    assert ((fake_quantize(x, bits, CHANNEL) - x).abs() <= step / 2 * (1 + 1e-5) + x.abs() * 1e-6).all()


@given(seeds, widths)
@settings(max_examples=50, deadline=None)
def test_quantizer_is_odd_exactly(seed, bits):
    x = sample(seed)
    assert torch.equal(fake_quantize(-x, bits, CHANNEL), -fake_quantize(x, bits, CHANNEL))


@given(seeds, widths, st.integers(-8, 8))
@settings(max_examples=50, deadline=None)
def test_scaling_by_a_power_of_two_passes_through_exactly(seed, bits, power):
    x = sample(seed)
    assert torch.equal(fake_quantize(x * 2.0**power, bits, CHANNEL), fake_quantize(x, bits, CHANNEL) * 2.0**power)


@given(seeds, widths)
@settings(max_examples=50, deadline=None)
def test_second_rounding_changes_nothing_beyond_float_noise(seed, bits):
    once = fake_quantize(sample(seed), bits, CHANNEL)
    torch.testing.assert_close(fake_quantize(once, bits, CHANNEL), once, rtol=2e-6, atol=0)


@given(seeds, widths)
@settings(max_examples=50, deadline=None)
def test_codes_stay_in_the_narrow_range_and_the_maximum_is_kept(seed, bits):
    x = sample(seed)
    codes = quantize(x, bits, CHANNEL).codes
    assert codes.abs().max() == largest_code(bits)
    largest = x.abs().amax(-1)
    torch.testing.assert_close(fake_quantize(x, bits, CHANNEL).abs().amax(-1), largest, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_channel_has_at_most_two_to_the_bits_less_one_codes(bits):
    codes = quantize(torch.randn(3, 10_000), bits, CHANNEL).codes
    assert all(len(row.unique()) <= 2**bits - 1 for row in codes)


def test_per_token_rounding_does_not_depend_on_the_batch():
    x = torch.randn(4, 6, 9)
    assert torch.equal(fake_quantize(x, 4, TOKEN)[1:2, 2:3], fake_quantize(x[1:2, 2:3], 4, TOKEN))


def test_per_channel_scales_factor_out_of_the_product():
    weight, x = torch.randn(7, 12, dtype=torch.float64).float(), torch.randn(3, 12)
    quantized = quantize(weight, 4, CHANNEL)
    expected = (x @ quantized.codes.float().T) * quantized.scale.squeeze(-1)
    torch.testing.assert_close(x @ fake_quantize(weight, 4, CHANNEL).T, expected)


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_zero_and_single_element_groups_stay_finite(bits):
    assert torch.equal(fake_quantize(torch.zeros(2, 3), bits, CHANNEL), torch.zeros(2, 3))
    lone = torch.tensor([[0.3], [-7.0]])
    torch.testing.assert_close(fake_quantize(lone, bits, CHANNEL), lone)


def test_full_precision_gives_the_input_tensor_itself():
    x = torch.randn(2, 2)
    assert fake_quantize(x, FULL_PRECISION, TOKEN) is x
    with pytest.raises(BadInputError, match="full precision has no codes"):
        quantize(x, FULL_PRECISION, TOKEN)


def test_gradient_passes_straight_through():
    x = torch.randn(3, 5, requires_grad=True)
    weights = torch.randn(3, 5)
    (fake_quantize(x, 3, TENSOR) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_bfloat16_is_rounded_in_single_precision():
    x = torch.randn(4, 33).to(torch.bfloat16)
    assert torch.equal(fake_quantize(x, 8, CHANNEL), fake_quantize(x.float(), 8, CHANNEL).to(torch.bfloat16))
