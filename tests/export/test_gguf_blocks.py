"""The block types are GGUF's own, bit for bit, as the ``gguf`` package writes and reads them."""

import numpy as np
import pytest
import torch

from qalof.errors import BadInputError
from qalof.export.gguf_blocks import BlockType, block_type, dequantize, fake_quantize, quantize
from qalof.quantization.methods.float16 import Float16
from qalof.quantization.methods.gguf import Gguf
from qalof.quantization.methods.symmetric import Symmetric

gguf = pytest.importorskip("gguf")
KINDS = list(BlockType)


def rows(seed=0, count=64, columns=256, size=1.0):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)) * size


def reference(kind):
    return gguf.GGMLQuantizationType[kind]


def ties():
    """Halves of a step, equal extremes of both signs, zero blocks, one element alone."""
    exact = torch.arange(-16, 16) / 2.0
    both = torch.tensor([1.0, -1.0] * 16)
    alone = torch.zeros(32)
    alone[7] = -3.0
    half = torch.cat([torch.tensor([127.0]), torch.arange(31) - 15.5])
    return torch.stack([exact, both, -both, torch.zeros(32), alone, half, -half, -exact])


CASES = [rows(), rows(1, size=1e-4), rows(2, size=300.0), rows(3, size=1e-7), rows(4).round(decimals=1), ties()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_bytes_are_those_of_the_gguf_package(kind, case):
    x = CASES[case]
    assert np.array_equal(quantize(x, kind).numpy(), gguf.quants.quantize(x.numpy(), reference(kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_values_are_those_of_the_gguf_package(kind, case):
    data = quantize(CASES[case], kind)
    expected = gguf.quants.dequantize(data.numpy(), reference(kind))
    assert np.array_equal(dequantize(data, kind).numpy().view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_decode_as_in_the_gguf_package(kind):
    generator = torch.Generator().manual_seed(5)
    data = torch.randint(0, 256, (50, 4 * kind.block_bytes), generator=generator, dtype=torch.uint8)
    for high in (1, 3) if kind.affine else (1,):
        data[:, high :: kind.block_bytes] &= 0b10111011  # no exponent of all ones: scales stay finite
    expected = gguf.quants.dequantize(data.numpy(), reference(kind))
    assert np.array_equal(dequantize(data, kind).numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_model_computes_with_the_values_of_the_file(kind, case):
    assert block_type(kind.quantizer, kind.bits) is kind
    fake = kind.quantizer.fake_quantize(CASES[case], kind.bits)
    expected = gguf.quants.dequantize(gguf.quants.quantize(CASES[case].numpy(), reference(kind)), reference(kind))
    assert np.array_equal(fake.numpy(), expected)


def test_half_precision_is_that_of_the_file():
    for x in CASES:
        assert torch.equal(Float16().fake_quantize(x, 16), x.to(torch.float16).float())
        assert torch.equal(Float16().dequantize(Float16().quantize(x, 16)), x.to(torch.float16).float())


@pytest.mark.parametrize("other", [Gguf(group_size=64), Gguf(scale_dtype="float32"), Gguf(granularity="channel",
                                   group_size=None), Symmetric(granularity="group", group_size=32)])  # fmt: skip
def test_other_quantizers_have_no_block_type(other):
    assert block_type(other, 4) is None
    assert block_type(Gguf(), 6) is None


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_format(kind):
    block, size = gguf.GGML_QUANT_SIZES[reference(kind)]
    assert (block, size) == (32, kind.block_bytes)
    assert quantize(rows(), kind).shape == (64, 256 // 32 * size)
    assert kind.bits_per_weight == {"Q8_0": 8.5, "Q5_1": 6, "Q5_0": 5.5, "Q4_1": 5, "Q4_0": 4.5}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_fake_quantization_keeps_shape_and_dtype_and_stays_near(kind):
    x = rows(count=8).view(2, 4, 256)
    fake = fake_quantize(x, kind)
    assert fake.shape == x.shape
    assert fake.dtype is x.dtype
    blocks = x.view(2, 4, 8, 32)
    span = (blocks.amax(-1) - blocks.amin(-1)) if kind.affine else blocks.abs().amax(-1)
    step = span / (127 if kind is BlockType.Q8_0 else 2**kind.bits - 1 if kind.affine else 2 ** (kind.bits - 1))
    # fp16 moves a scale or a minimum by 2^-11; the far end of a lopsided range is clipped by up to a step
    slack = 0.57 if kind is BlockType.Q8_0 or kind.affine else 1.01
    assert ((fake - x).abs().view(2, 4, 8, 32) <= slack * step.unsqueeze(-1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_the_smallest_numbers_stay_finite(kind):
    assert torch.equal(fake_quantize(torch.zeros(2, 32), kind), torch.zeros(2, 32))
    assert torch.isfinite(fake_quantize(torch.full((1, 32), 1e-45), kind)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("x", "part"),
    [(torch.zeros(2, 33), "32"), (torch.full((1, 32), torch.nan), "NaN"), (torch.full((1, 32), 1e9), "65504")],
)
def test_what_has_no_blocks_is_refused(kind, x, part):
    with pytest.raises(BadInputError, match=part):
        quantize(x, kind)


def test_broken_blocks_are_refused():
    with pytest.raises(BadInputError, match="34 bytes"):
        dequantize(torch.zeros(1, 33, dtype=torch.uint8), BlockType.Q8_0)
