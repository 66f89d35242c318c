"""Packed weights: the layout of the bits, exactness, and sizes to the byte."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qalof.cost import weight_bytes
from qalof.errors import BadInputError
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.packing import Packed, pack, pack_rows, packed_bytes, unpack_rows
from qalof.quantization.quantizer import QParams
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import Site


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 16), st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_unpacking_gives_back_every_code_at_every_width_and_length(bits, columns, rows, seed):
    codes = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed))
    data = pack_rows(codes, bits)
    assert data.shape == (rows, -(-columns * bits // 8))
    assert torch.equal(unpack_rows(data, bits, columns), codes.to(torch.int32))


@pytest.mark.parametrize("bits", range(2, 17))
def test_bits_are_dense_little_endian_and_a_row_starts_at_a_byte(bits):
    codes = torch.randint(0, 2**bits, (3, 13), generator=torch.Generator().manual_seed(bits))
    data = pack_rows(codes, bits)
    for row, packed in zip(codes.tolist(), data.tolist(), strict=True):
        whole = sum(code << (index * bits) for index, code in enumerate(row))
        assert packed == list(whole.to_bytes(-(-13 * bits // 8), "little"))


def test_four_bits_are_the_known_nibbles_and_an_odd_row_ends_in_a_code_of_zero():
    quantized = Symmetric().quantize(torch.tensor([[0.30, -0.70, 0.06], [0.7, 0.0, -0.1]]), 4)
    assert quantized.codes.tolist() == [[3, -7, 1], [7, 0, -1]]
    assert pack(quantized, Symmetric()).data.tolist() == [[11 | 1 << 4, 9 | 8 << 4], [15 | 8 << 4, 7 | 8 << 4]]


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("columns", [768, 3072, 37])
def test_size_is_that_of_the_cost_model_to_the_byte(bits, columns):
    quantizer = Symmetric(scale_dtype="float16")
    packed = pack(quantizer.quantize(normal(24, columns), bits), quantizer)
    scheme = QuantizationScheme(TensorScheme(quantizer))
    assert packed.nbytes == weight_bytes(Site("h.0.mlp.c_fc", columns, 24, True, quantization=scheme), bits)
    assert packed.data.element_size() * packed.data.numel() == 24 * -(-columns * bits // 8)


def test_stand_ins_have_their_known_bits_a_weight():
    q8 = Symmetric(granularity="group", group_size=32, scale_dtype="float16")
    assert packed_bytes(1, 3072, 8, q8) * 8 / 3072 == 8.5
    assert packed_bytes(1, 3072, 4, q8) * 8 / 3072 == 4.5
    assert packed_bytes(2, 8, 4, Asymmetric(scale_dtype="float16")) == 2 * (4 + 2 + 2)
    assert packed_bytes(2, 8, 4, Log()) == 2 * (4 + 4 + 4)
    assert packed_bytes(2, 8, 32, Log()) == 2 * 8 * 4


def test_a_packed_file_survives_safetensors(tmp_path):
    quantizer = Asymmetric(zero_point="integer", scale_dtype="float16")
    weight = normal(6, 33)
    packed = pack(quantizer.quantize(weight, 5), quantizer)
    save_file(packed.tensors(), tmp_path / "w.safetensors")
    again = Packed.of(load_file(tmp_path / "w.safetensors"), packed.settings())
    assert torch.equal(again.dequantize(), quantizer.fake_quantize(weight, 5))


def test_rounding_a_scale_to_half_precision_never_clips():
    weight = normal(64, 48) * torch.logspace(-6, 4, 64).unsqueeze(1)
    for bits in (4, 8, 12, 16):
        half = Symmetric(scale_dtype="float16")
        scale = half.quantize(weight, bits).scale
        exact = Symmetric().quantize(weight, bits).scale
        normal_range = exact > 2.0**-14
        assert (scale >= exact).all()
        assert (scale <= exact * (1 + 2.0**-10))[normal_range].all()
        assert ((half.fake_quantize(weight, bits) - weight).abs() <= scale / 2 * 1.0001 + weight.abs() * 1e-6).all()


def test_what_cannot_be_packed_is_one_clear_error():
    quantizer = Symmetric(scale_dtype="float16")
    weight = normal(4, 8)
    with pytest.raises(BadInputError, match="exact in torch.float16"):
        pack(quantizer.quantize(weight, 4, QParams(torch.full((4, 1), 0.1))), quantizer)
    with pytest.raises(BadInputError, match="2 to 16 bits: got 1"):
        pack(quantizer.quantize(weight, 1), quantizer)
    with pytest.raises(BadInputError, match=r"must be \(rows, columns\)"):
        pack(quantizer.quantize(normal(2, 3, 4), 4), quantizer)
    packed = pack(quantizer.quantize(weight, 4), quantizer)
    broken = packed.tensors() | {"data": packed.data[:, :-1]}
    with pytest.raises(BadInputError, match="must have 24 bytes: got 20"):
        Packed.of(broken, packed.settings())


@pytest.mark.slow
def test_packing_a_whole_gpt2_takes_seconds():
    import time

    quantizer = Symmetric(scale_dtype="float16")
    quantized = quantizer.quantize(normal(3072, 768), 4)
    start = time.process_time()
    for _ in range(4):
        pack(quantized, quantizer).unpack()
    assert (time.process_time() - start) * 9 < 60  # 84.9 million weights are 36 such layers
