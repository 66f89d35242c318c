"""Every quantizer must pass the first tests, and some must pass more: a new one adds a line to CASES."""

import json
from dataclasses import dataclass, fields, replace

import pytest
import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.bnb_int8 import BnbInt8
from qalof.quantization.methods.float16 import Float16
from qalof.quantization.methods.gguf import Gguf, GgufAffine
from qalof.quantization.methods.llm_qat import LlmQat
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.midrise import MidRise
from qalof.quantization.methods.nf4 import NormalFloat4
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.methods.tanh import Tanh
from qalof.quantization.options import QuantizerOptions
from qalof.quantization.packing import Packed, pack, packed_bytes
from qalof.quantization.quantizer import QParams, Quantizer
from qalof.quantization.straight_through import StraightThrough

WIDTHS = (2, 3, 4, 8, 16)
REAL = (2.5, 4.7, 11.01)


@dataclass(frozen=True)
class Case:
    """``odd``: fq(-x) = -fq(x); ``half_step``: errors are at most s/2; ``scales``: fq(cx) = c fq(x) for c = 2^k;
    ``keeps_zero``; ``idempotent``: on its own second grid too (on the first one all but tanh are);
    ``levels``: at most 2^b less this many codes."""

    quantizer: Quantizer
    widths: tuple[float, ...] = WIDTHS
    odd: bool = True
    half_step: bool = False
    scales: bool = True
    keeps_zero: bool = True
    idempotent: bool = True
    idempotent_on_grid: bool = True
    levels: int = 1


CASES = {
    "symmetric": Case(Symmetric(), (1, *WIDTHS, *REAL), half_step=True),
    "symmetric floor": Case(Symmetric(fractional_bits="floor"), (1, *WIDTHS, *REAL), half_step=True),
    "symmetric full": Case(Symmetric(range="full"), (*WIDTHS, *REAL), odd=False, half_step=True, idempotent=False,
                           levels=0),
    "asymmetric": Case(Asymmetric(), (1, *WIDTHS, *REAL), odd=False, half_step=True, keeps_zero=False, levels=0),
    "asymmetric anchored": Case(Asymmetric(anchor_zero=True), (1, *WIDTHS), odd=False, half_step=True,
                                keeps_zero=False, levels=0),
    "asymmetric integer": Case(Asymmetric(zero_point="integer"), (1, *WIDTHS, *REAL), odd=False, half_step=True,
                               idempotent=False, levels=0),
    "log fitted": Case(Log(), (1, *WIDTHS)),
    "log 8 octaves": Case(Log(octaves=8), (1, *WIDTHS, *REAL)),
    "log power of two": Case(Log(octaves="power_of_two"), (1, 2, 3, 4, 5, 6, 7, 8)),
    "tanh": Case(Tanh(), (1, *WIDTHS, *REAL), odd=False, scales=False, keeps_zero=False, idempotent=False,
                 idempotent_on_grid=False, levels=0),
    "tanh bare": Case(Tanh(rescale="none"), (1, *WIDTHS), odd=False, scales=False, keeps_zero=False, idempotent=False,
                      idempotent_on_grid=False, levels=0),
    "tanh atanh": Case(Tanh(rescale="atanh"), (1, *WIDTHS), odd=False, scales=False, keeps_zero=False, levels=0),
    "lsq": Case(Lsq(), (*WIDTHS, *REAL), odd=False, idempotent=False, levels=0),
    "lsq unsigned": Case(Lsq(signed=False), WIDTHS, odd=False, idempotent=False, levels=0),
    "nf4": Case(NormalFloat4(), (4,), odd=False, levels=0),
    "bnb_int8": Case(BnbInt8(), (8,), scales=False, idempotent=False),
    "midrise2": Case(MidRise(), (2,), odd=False, keeps_zero=False, idempotent=False, levels=0),
    "gguf Q4_0": Case(Gguf(), (4,), levels=0),
    "gguf Q5_0": Case(Gguf(), (5,), levels=0),
    # its scales are small enough for fp16's subnormal numbers, where a power of two does not pass through
    "gguf Q8_0": Case(Gguf(), (8,), scales=False),
    "gguf Q4_1": Case(GgufAffine(), (4,), odd=False, keeps_zero=False, levels=0),
    "gguf Q5_1": Case(GgufAffine(), (5,), odd=False, keeps_zero=False, levels=0),
    "float16": Case(Float16(), (16,), scales=False),
    "llm_qat": Case(LlmQat(), (*WIDTHS, *REAL), scales=False),
}  # fmt: skip


def pairs(*needs: str):
    """(quantizer, bits) of all cases that have what is needed."""
    return [
        pytest.param(case.quantizer, bits, id=f"{name}-{bits}")
        for name, case in CASES.items()
        if all(getattr(case, need) for need in needs)
        for bits in case.widths
    ]


def one_bit_mean(quantizer, bits):
    return bits == 1 and isinstance(quantizer, Symmetric | Log)


def sample(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.rand(*shape, generator=torch.Generator().manual_seed(seed + 1)) * 0.3


def granular(quantizer, granularity, group_size=None):
    return replace(quantizer, granularity=granularity, group_size=group_size)


GRANULARITIES = [("tensor", None), ("channel", None), ("group", 5), ("group", 64)]


def test_every_registered_method_has_a_case():
    assert {case.quantizer.method for case in CASES.values()} == set(QuantizerOptions.registry)


def every_width(case):
    """All that this case's quantizer has between those it is tested at."""
    return sorted({*case.widths, *range(2, 1 + int(max(case.widths)))} if len(case.widths) > 1 else case.widths)


@pytest.mark.parametrize(
    ("case", "bits"), [pytest.param(c, b, id=f"{n}-{b}") for n, c in CASES.items() for b in every_width(c)]
)
def test_fake_quantize_is_decode_of_encode_number_for_number(case, bits):
    x, quantizer = sample(4, 17), case.quantizer
    for granularity, group_size in GRANULARITIES:
        for dtype in ("float32", "float16"):
            if dtype == "float16" and isinstance(quantizer, LlmQat):
                continue
            chosen = replace(granular(quantizer, granularity, group_size), scale_dtype=dtype)
            kept = x.clone()
            quantized = chosen.quantize(x, bits)
            assert torch.equal(chosen.fake_quantize(x, bits), chosen.dequantize(quantized))
            assert torch.equal(x, kept)
            assert not quantized.codes.is_floating_point()
            assert (quantized.zero_point is not None) == chosen.has_zero_point
            assert quantized.codes.shape == x.shape
            low, high = chosen.code_range(bits)
            assert low <= quantized.codes.min()
            assert quantized.codes.max() <= high
            assert high - low + case.levels <= 2 ** -(-bits // 1) or bits == 1
            for part, stored in zip(quantized.qparams, (chosen.stored_dtype, chosen.zero_dtype), strict=True):
                assert part is None or torch.equal(part, part.to(stored).float())


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_strided_input_gives_the_numbers_of_contiguous_input(quantizer, bits):
    x = sample(17, 6).T
    assert torch.equal(quantizer.fake_quantize(x, bits), quantizer.fake_quantize(x.contiguous(), bits))
    quantized = quantizer.quantize(x, bits)
    flat = replace(quantized, codes=quantized.codes.contiguous())
    assert torch.equal(quantizer.dequantize(flat), quantizer.fake_quantize(x, bits))


@pytest.mark.parametrize(("quantizer", "bits"), pairs("half_step"))
def test_error_is_at_most_half_a_step(quantizer, bits):
    if one_bit_mean(quantizer, bits):
        pytest.skip("one bit has a mean, not a step")
    for seed in range(3):
        for dtype in ("float32", "float16"):
            x = sample(5, 33, seed=seed) + (0.1 if isinstance(quantizer, Asymmetric) else 0.0)
            chosen = replace(quantizer, scale_dtype=dtype)
            step = chosen.quantize(x, bits).scale
            error = (chosen.fake_quantize(x, bits) - x).abs()
            assert (error <= step / 2 * (1 + 1e-4) + x.abs() * 1e-6).all()


@pytest.mark.parametrize(("quantizer", "bits"), pairs("odd"))
def test_quantizer_is_odd_exactly(quantizer, bits):
    x = sample(5, 17)  # without zeros: the sign of zero is plus at one bit
    assert torch.equal(quantizer.fake_quantize(-x, bits), -quantizer.fake_quantize(x, bits))


@pytest.mark.parametrize(("quantizer", "bits"), pairs("scales"))
def test_scaling_by_a_power_of_two_passes_through_exactly(quantizer, bits):
    x = sample(5, 17)
    for power in (-8, 3):
        scaled = quantizer.fake_quantize(x * 2.0**power, bits)
        assert torch.equal(scaled, quantizer.fake_quantize(x, bits) * 2.0**power)


@pytest.mark.parametrize(("quantizer", "bits"), pairs("idempotent_on_grid"))
def test_a_second_rounding_on_the_same_grid_changes_nothing(quantizer, bits):
    x = sample(5, 17)
    quantized = quantizer.quantize(x, bits)
    once = quantizer.dequantize(quantized)
    if one_bit_mean(quantizer, bits):
        assert torch.equal(quantizer.fake_quantize(once, bits, quantized.qparams), once)
        return
    assert torch.equal(quantizer.quantize(once, bits, quantized.qparams).codes, quantized.codes)


@pytest.mark.parametrize(("quantizer", "bits"), pairs("idempotent"))
def test_a_second_rounding_changes_nothing_beyond_float_noise(quantizer, bits):
    if bits != int(bits) and quantizer.fractional_bits == "round":
        pytest.skip("the largest code of a real width may lie above the maximum, and widens the second range")
    once = quantizer.fake_quantize(sample(5, 17), bits)
    torch.testing.assert_close(quantizer.fake_quantize(once, bits), once, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_a_zero_group_comes_back_as_zeros_and_a_lone_number_stays_finite(quantizer, bits):
    zeros = torch.zeros(2, 3)
    assert torch.equal(quantizer.fake_quantize(zeros, bits), zeros)
    lone = quantizer.fake_quantize(torch.tensor([[0.3], [-7.0]]), bits)
    assert torch.isfinite(lone).all()


@pytest.mark.parametrize(("quantizer", "bits"), pairs("keeps_zero"))
def test_zero_stays_zero(quantizer, bits):
    if bits == 1 and not isinstance(quantizer, Asymmetric):
        pytest.skip("one bit has no zero")
    x = sample(5, 17)
    x[:, 3] = 0
    assert (quantizer.fake_quantize(x, bits)[:, 3] == 0).all()


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_per_token_rounding_does_not_depend_on_the_batch(quantizer, bits):
    x = sample(4, 6, 9)
    token = granular(quantizer, "token")
    assert torch.equal(token.fake_quantize(x, bits)[1:2, 2:3], token.fake_quantize(x[1:2, 2:3], bits))
    flat = token.fake_quantize(x.flatten(0, 1), bits)
    assert torch.equal(flat.view_as(x), token.fake_quantize(x, bits))


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_groups_as_long_as_the_row_are_channels(quantizer, bits):
    x = sample(3, 17)
    channel = granular(quantizer, "channel").fake_quantize(x, bits)
    for size in (17, 40):
        assert torch.equal(granular(quantizer, "group", size).fake_quantize(x, bits), channel)
    assert torch.equal(granular(quantizer, "tensor").fake_quantize(x[:1], bits), channel[:1])


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_a_short_last_group_is_a_group_of_its_own(quantizer, bits):
    x = sample(2, 3, 17)
    grouped, alone = granular(quantizer, "group", 7), granular(quantizer, "channel")
    parts = [alone.fake_quantize(part.contiguous(), bits) for part in x.split(7, dim=-1)]
    assert torch.equal(grouped.fake_quantize(x, bits), torch.cat(parts, dim=-1))
    assert grouped.quantize(x, bits).scale.shape == (2, 3, 3)


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_gradient_of_the_identity_estimator_is_the_gradient_itself(quantizer, bits):
    x = sample(3, 5).requires_grad_(True)
    weights = sample(3, 5, seed=7)
    identity = replace(quantizer, ste="identity")
    (identity.fake_quantize(x, bits) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_half_precision_is_rounded_in_single_precision(quantizer, bits):
    for dtype in (torch.bfloat16, torch.float16):
        x = sample(4, 33).to(dtype)
        got = quantizer.fake_quantize(x, bits)
        assert got.dtype is dtype
        assert torch.equal(got, quantizer.fake_quantize(x.float(), bits).to(dtype))


@pytest.mark.parametrize("name", CASES)
def test_full_precision_gives_the_input_tensor_itself(name):
    quantizer, x = CASES[name].quantizer, sample(2, 2)
    assert quantizer.fake_quantize(x, 32) is x
    sixteen = replace(quantizer, full_precision_bits=16)
    assert sixteen.fake_quantize(x, 16) is x
    with pytest.raises(BadInputError, match="full precision has no codes"):
        sixteen.quantize(x, 16)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", [0, 1.5, 17, 31.9, -4])
def test_a_width_that_does_not_exist_is_refused(name, bits):
    for call in (CASES[name].quantizer.quantize, CASES[name].quantizer.fake_quantize):
        with pytest.raises(BadInputError, match="bits"):
            call(sample(2, 2), bits)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_encoding_what_is_not_finite_is_refused(name, bad):
    x = sample(2, 4)
    x[1, 2] = bad
    with pytest.raises(BadInputError, match="must be finite"):
        CASES[name].quantizer.quantize(x, CASES[name].widths[0])


@pytest.mark.parametrize("name", CASES)
def test_options_survive_json_exactly(name):
    quantizer = CASES[name].quantizer
    data = json.loads(json.dumps(quantizer.to_json()))
    assert Quantizer.from_json(data) == quantizer
    assert hash(Quantizer.from_json(data)) == hash(quantizer)
    assert set(data) == {"method"} | {field.name for field in fields(quantizer)}


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_mixed_widths_are_the_average_of_both_sides_and_have_a_gradient_in_the_width(quantizer, bits):
    mixed = replace(quantizer, fractional_bits="interpolate")
    x = sample(3, 9)
    if bits != int(bits):
        low, high = (mixed.fake_quantize(x, b) for b in (int(bits), int(bits) + 1))
        fraction = bits - int(bits)
        torch.testing.assert_close(mixed.fake_quantize(x, bits), (1 - fraction) * low + fraction * high)
        width = torch.tensor(bits, requires_grad=True)
        mixed.fake_quantize(x, width).sum().backward()
        torch.testing.assert_close(width.grad, (high - low).sum())
        with pytest.raises(BadInputError, match="mixed widths have no codes"):
            mixed.quantize(x, bits)
    else:
        assert torch.equal(mixed.fake_quantize(x, bits), quantizer.fake_quantize(x, bits))


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_range_estimator_stops_the_gradient_outside_a_given_grid_only(quantizer, bits):
    ranged = replace(quantizer, ste=StraightThrough.RANGE)
    x = sample(3, 9)
    free = x.clone().requires_grad_(True)
    ranged.fake_quantize(free, bits).sum().backward()
    assert torch.equal(free.grad, torch.ones_like(x))
    quantized = ranged.quantize(x, bits)
    low, high = ranged.code_range(bits)
    ends = [ranged.dequantize(replace(quantized, codes=torch.full_like(quantized.codes, code))) for code in (low, high)]
    far = torch.stack([ends[0] - 1, ends[1] + 1, (ends[0] + ends[1]) / 2]).requires_grad_(True)
    for part in far:
        part.retain_grad()
    sum(ranged.fake_quantize(part, bits, quantized.qparams).sum() for part in far).backward()
    assert (far.grad[0] == 0).all()
    assert (far.grad[1] == 0).all()
    assert (far.grad[2] == 1).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [("channel", None), ("tensor", None), ("group", 5), ("group", 32)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_packed_weight_is_the_fake_quantized_one_number_for_number(name, shape, dtype):
    case = CASES[name]
    if dtype == "float16" and case.quantizer.method == "llm_qat":
        pytest.skip("llm_qat has no float16 scales")
    quantizer = replace(case.quantizer, granularity=shape[0], group_size=shape[1], scale_dtype=dtype)
    weight = sample(7, 37)
    for bits in [bits for bits in case.widths if bits >= 2]:
        packed = pack(quantizer.quantize(weight, bits), quantizer)
        again = Packed.of(packed.tensors(), json.loads(json.dumps(packed.settings())))
        assert torch.equal(again.dequantize(), quantizer.fake_quantize(weight, bits))
        assert torch.equal(again.unpack().codes, quantizer.quantize(weight, bits).codes)
        assert packed.nbytes == packed_bytes(7, 37, bits, quantizer)


def test_grid_is_a_named_pair_whose_second_part_may_be_missing():
    assert QParams(torch.ones(())).zero_point is None
    assert Symmetric().quantize(sample(2, 2), 4).zero_point is None
    assert Granularity("head").grouped


ESTIMATORS = [*StraightThrough]


@pytest.mark.parametrize(("quantizer", "bits"), pairs())
def test_a_tensor_in_float64_is_never_narrowed(narrowing, quantizer, bits):
    x = sample(4, 17).double()
    for granularity, group_size in GRANULARITIES:
        # what an estimator does with a gradient does not depend on the granularity
        estimators = [{"ste": ste} for ste in ESTIMATORS if granularity == GRANULARITIES[0][0]]
        for options in ({}, {"scale_dtype": "float16"}, *estimators):
            if isinstance(quantizer, LlmQat) and "scale_dtype" in options:
                continue
            chosen = replace(granular(quantizer, granularity, group_size), **options)
            leaf = x.clone().requires_grad_()
            with narrowing() as found:
                rounded = chosen.fake_quantize(leaf, bits)
                on_grid = chosen.fake_quantize(leaf, bits, chosen.qparams(leaf, bits))
                (rounded + on_grid).sum().backward()
                quantized = chosen.quantize(x, bits)
                dequantized = chosen.dequantize(quantized)
                if granularity not in ("channel",):
                    chosen.static_grid(x, bits)
            assert not found, (granularity, options)
            grids = [part for part in quantized.qparams if part is not None]
            assert {t.dtype for t in (rounded, leaf.grad, dequantized, *grids)} == {torch.float64}
            # exp2 and atanh of float64 differ in their last bit between short and long tensors
            rtol = 1e-14 if isinstance(quantizer, Log | Tanh) else 0
            torch.testing.assert_close(dequantized, rounded.detach(), rtol=rtol, atol=0)


@pytest.mark.parametrize(("quantizer", "bits"), pairs("scales"))
def test_a_change_that_float32_cannot_see_passes_through_in_float64(quantizer, bits):
    if quantizer.scale_dtype == "float16":
        pytest.skip("a scale in float16 cannot see it either")
    if isinstance(quantizer, Log) and quantizer.octaves != 8 and bits > 8:
        pytest.skip("levels far below the smallest number of float64 are zero")
    if getattr(quantizer, "range", "") == "full":
        pytest.skip("the largest value lies exactly between two codes")
    x, factor = sample(5, 17).double(), 1 + 1e-10
    assert torch.equal((x * factor).float(), x.float())
    scaled, plain = quantizer.fake_quantize(x * factor, bits), quantizer.fake_quantize(x, bits)
    assert not torch.equal(scaled, plain)
    torch.testing.assert_close(scaled, plain * factor, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("quantizer", "bits"), pairs("half_step"))
def test_half_a_step_of_float64_bounds_the_error_in_float64(quantizer, bits):
    if one_bit_mean(quantizer, bits):
        pytest.skip("one bit has a mean, not a step")
    for granularity, group_size in GRANULARITIES:
        chosen = granular(quantizer, granularity, group_size)
        x = sample(5, 33).double()
        quantized = chosen.quantize(x, bits)
        sizes = quantized.scale
        if granularity == "group":
            sizes = sizes.repeat_interleave(group_size, dim=-1)[:, :33]
        error = (chosen.dequantize(quantized) - x).abs()
        assert (error <= sizes / 2 * (1 + 1e-12) + x.abs() * 1e-15).all()


def test_mixed_widths_stay_in_float64(narrowing):
    x, quantizer = sample(3, 9).double(), Symmetric(fractional_bits="interpolate")
    for bits in (4.25, torch.tensor(4.25, dtype=torch.float64, requires_grad=True)):
        with narrowing() as found:
            mixed = quantizer.fake_quantize(x, bits)
        assert not found
        below, above = (quantizer.fake_quantize(x, whole) for whole in (4, 5))
        torch.testing.assert_close(mixed, 0.75 * below + 0.25 * above, rtol=1e-15, atol=0)
