"""Our NF4 and LLM.int8() are bitsandbytes' number for number.

The literals were written down from bitsandbytes 0.50.2 on a CPU (AVX-512).  Where it is installed
(``pip install 'qalof[bnb]'``), its own operations are run beside ours on more numbers.
"""

import logging

import pytest
import torch

from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.quantization.methods.bnb_int8 import BnbInt8
from qalof.quantization.methods.nf4 import NormalFloat4
from qalof.quantization.scheme import TensorScheme

NF4_BYTES = (
    "05d18e3c16e2a05d18f3c17e2a05d19f4c17e2b05d19f4c17e3b06d29f4c17e3b06e2af4d18e3b06e2af5d18e3c16e2a05d18f3c17e2a0"
    "5d19f4c17e2b05d19f4c17e3b06d29f4c17e3b06e29f4d18e3b06e2af5d18e3c16e2a05d18f3c17e2a05d19f4c17e2b05d19f4c17e3b06"
    "d29f4c17e3b06e29f4d18e3b06e2af4d18e3"
)
"""Two codes a byte, the first in the high half."""
NF4_SCALES = [[504.0, 504.0], [503.0, 502.0]]
WEIGHT_CODES = [
    [-127, -44, 40, 123, -48, 36, 119, -52, 32, 115, -56, 28],
    [127, -68, 27, 122, -73, 22, 118, -77, 18, 113, -82, 13],
    [127, -101, 10, 122, -107, 5, 116, -112, -1, 111, -118, -6],
]
WEIGHT_SCALES = [0.50390625, 0.44091796875, 0.376953125]
INPUT_CODES = [
    [-127, 18, -90, 55, -54, 0, -17, -126, 19, -90, 0, -53],
    [93, -17, -127, 20, -90, 0, -53, 94, -16, -126, 0, -89],
    [41, -37, 67, -11, -89, 0, -63, 41, -36, 68, 0, -88],
    [23, -90, 61, -52, 99, 0, -127, 24, -89, 62, 0, 100],
]
INPUT_SCALES = [0.984375, 3.890625, 5.5, 3.796875]
OUTLYING = [5, 10]
OUTLIERS = TensorQuantizer(TensorScheme(BnbInt8(granularity="token"), outlier_threshold=6.0), 12, "layer")


def pattern(rows, columns, step):
    """Whole numbers from -504 to 504 that any machine gives alike."""
    return ((torch.arange(rows * columns) * step) % 1009 - 504).reshape(rows, columns).float()


def inputs():
    """One value above the threshold, one on it, and one below it in the same feature as the first."""
    x = pattern(4, 12, 577) / 128
    x[1, 5], x[3, 10] = 9.5, -6.0
    x[0] /= 4
    x[2, 5] = 5.5
    return x


def test_nf4_codes_and_scales_are_those_written_down():
    quantized = NormalFloat4().quantize(pattern(2, 128, 389) / 4096, 4)
    pairs = quantized.codes.reshape(-1, 2)
    assert bytes((pairs[:, 0] * 16 + pairs[:, 1]).tolist()).hex() == NF4_BYTES
    assert (quantized.scale * 4096).tolist() == NF4_SCALES


def test_int8_codes_and_scales_of_a_weight_are_those_written_down():
    quantized = BnbInt8().quantize(pattern(3, 12, 331) / 1000, 8)
    assert quantized.codes.tolist() == WEIGHT_CODES
    assert quantized.scale.flatten().tolist() == WEIGHT_SCALES


def test_int8_inputs_are_those_written_down_and_outlying_features_stay_in_half_precision():
    x = inputs()
    expected = torch.tensor(INPUT_CODES) * torch.tensor(INPUT_SCALES).unsqueeze(1) * 7.874015718698502e-3
    expected[:, OUTLYING] = x[:, OUTLYING].half().float()
    assert torch.equal(OUTLIERS(x, 8), expected)


def test_values_that_half_precision_has_no_room_for_are_cut_off():
    assert torch.isfinite(BnbInt8().fake_quantize(torch.tensor([[1e6, 1.0]]), 8)).all()


@pytest.fixture(scope="module")
def bnb():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install 'qalof[bnb]'")
    from bitsandbytes import functional

    return functional


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nf4_of_the_library_itself(bnb, dtype):
    weight = (numbers(200, 640) * 0.1).to(dtype)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    quantized = NormalFloat4().quantize(weight, 4)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).reshape(weight.shape)
    assert torch.equal(codes, quantized.codes)
    assert torch.equal(state.absmax.reshape(200, 10), quantized.scale)
    assert torch.equal(bnb.dequantize_4bit(packed, state), NormalFloat4().fake_quantize(weight, 4))


def test_int8_weight_of_the_library_itself(bnb):
    weight = numbers(200, 640) * 0.1
    codes, scale, _ = bnb.int8_vectorwise_quant(weight.half())
    quantized = BnbInt8().quantize(weight, 8)
    assert torch.equal(codes, quantized.codes)
    assert torch.equal(scale, quantized.scale.flatten())
    assert torch.equal(bnb.int8_vectorwise_dequant(codes, scale), BnbInt8().dequantize(quantized))


def test_int8_inputs_of_the_library_itself(bnb):
    x = numbers(300, 64) * 1.6
    x[7, 3] = 80
    codes, scale, columns = bnb.int8_vectorwise_quant(x.half(), threshold=6.0)
    expected = bnb.int8_vectorwise_dequant(codes, scale)
    assert 1 < len(columns) < 64
    expected[:, columns] = x[:, columns].half().float()
    assert torch.equal(OUTLIERS(x, 8), expected)


def test_a_product_of_the_library_is_ours_within_half_precision(bnb):
    x, weight = numbers(50, 64) * 1.6, numbers(32, 64, seed=1)
    codes, scale, columns = bnb.int8_vectorwise_quant(x.half(), threshold=6.0)
    weight_codes, weight_scale, _ = bnb.int8_vectorwise_quant(weight.half())
    found, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(
        x.half(), codes, weight_codes, scale, weight_scale, columns, None
    )
    ours = OUTLIERS(x, 8) @ BnbInt8().fake_quantize(weight, 8).T
    torch.testing.assert_close(found.float(), ours, rtol=2e-3, atol=2e-2)
