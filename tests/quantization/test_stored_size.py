"""Every method says beforehand what it stores, to the byte: weights as they are packed, and what belongs to a token."""

from dataclasses import replace

import pytest
import torch

from qalof.cost import activation_bytes, kv_bytes, weight_bytes
from qalof.errors import BadInputError
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.observers import ObserverSpec
from qalof.quantization.options import QuantizerOptions
from qalof.quantization.packing import pack
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.quantizers import fake_quantize  # noqa: F401 - registers every method
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import KvGranularity, KvLayout, Site

METHODS = [
    *(Quantizer.from_json(method) for method in sorted(QuantizerOptions.registry)),
    Asymmetric(zero_point="integer"),
    Log(octaves=8),
    Lsq(signed=False),
    Symmetric(range="full", fractional_bits="floor"),
]
SHAPES = [("channel", None), ("tensor", None), ("group", 1), ("group", 5), ("group", 32), ("group", 1000)]


def sample(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))


def variants(granularities):
    for method in METHODS:
        for granularity, size in granularities:
            for dtype in ("float32", "float16"):
                if (method.method, dtype) != ("llm_qat", "float16"):
                    yield replace(method, granularity=granularity, group_size=size, scale_dtype=dtype)


def widths(quantizer):
    """Whole and fractional, as far as the method has them."""
    for bits in (*range(2, 17), 2.5, 7.01, 15.3):
        try:
            quantizer.check_bits(bits)
        except BadInputError:
            continue
        if quantizer.fractional_bits != "interpolate":
            yield bits


def ids(quantizer):
    return f"{quantizer.method}-{quantizer.granularity}{quantizer.group_size or ''}-{quantizer.scale_dtype}"


@pytest.mark.parametrize("quantizer", list(variants(SHAPES)), ids=ids)
def test_a_packed_weight_takes_what_its_method_said_and_what_its_site_costs(quantizer):
    tried = 0
    for rows, columns in ((3, 37), (1, 8), (5, 32)):
        weight = sample(rows, columns)
        for bits in widths(quantizer):
            packed = pack(quantizer.quantize(weight, bits), quantizer)
            size = quantizer.stored_size(rows, columns, bits)
            found = {name: part.numel() * part.element_size() for name, part in packed.tensors().items()}
            said = {"data": size.codes, "scale": size.scales, "zero": size.zero_points}
            assert found == {name: count for name, count in said.items() if count}
            if bits == int(bits):
                scheme = QuantizationScheme(weight=TensorScheme(quantizer), widths=(4,))
                site = Site("h.0.a", columns, rows, False, quantization=scheme)
                assert weight_bytes(site, int(bits)) == packed.nbytes == size.total
            tried += 1
        assert quantizer.stored_size(rows, columns, 32).total == 4 * rows * columns
    assert tried


@pytest.mark.parametrize("quantizer", list(variants([("token", None), ("tensor", None), ("group", 5)])), ids=ids)
def test_what_a_token_takes_is_what_its_codes_and_grid_take(quantizer):
    scheme = TensorScheme(quantizer)
    for bits in [bits for bits in widths(quantizer) if bits == int(bits)]:
        packed = pack(quantizer.quantize(sample(1, 37), bits), quantizer)
        own = packed.data.numel() if isinstance(quantizer, Lsq) else packed.nbytes
        assert scheme.token_size(37, bits).total == own


@pytest.mark.parametrize("layout", ["token", "head"])
@pytest.mark.parametrize("granularity", ["token", "head", ("group", 4), ("group", 6)])
@pytest.mark.parametrize("method", [Symmetric(), Asymmetric(scale_dtype="float16"), Asymmetric(zero_point="integer")])
def test_the_cache_of_a_token_takes_what_its_codes_and_grids_take(method, granularity, layout):
    """Keys and values of 3 heads of 4 features."""
    granularity, size = granularity if isinstance(granularity, tuple) else (granularity, None)
    quantizer = replace(method, granularity=granularity, group_size=size)
    scheme = QuantizationScheme(kv=TensorScheme(quantizer))
    kv = KvLayout(3, 4, ((12, 24), (24, 36)), 1, 12).with_scales(KvGranularity(layout))
    site = Site("h.0.attn", 8, 36, False, kv, quantization=scheme)
    for bits in (2, 4, 8):
        token = sample(1, 12)
        if granularity == "token":
            token = token.unflatten(-1, (kv.scales, -1))
        quantized = quantizer.for_heads(4).quantize(token, bits)
        grids = quantized.scale.numel() * quantizer.scale_bytes
        grids += 0 if quantized.zero_point is None else quantized.zero_point.numel() * quantizer.zero_point_bytes
        assert kv_bytes(site, bits) == 2 * (12 * bits // 8 + grids)
    assert kv_bytes(site, 32) == 2 * 12 * 4


def test_grids_that_outlive_a_token_are_no_part_of_it():
    static = TensorScheme(Symmetric(granularity="tensor"), observer=ObserverSpec())
    learned = TensorScheme(Lsq(granularity="tensor", gradient_count="features"))
    for scheme in (static, learned):
        quantization = QuantizationScheme(activation=scheme, kv=static, widths=(4, 8))
        site = Site("h.0.attn", 10, 30, False, KvLayout(1, 10, ((10, 20), (20, 30))), quantization=quantization)
        assert activation_bytes(site, 4) == 5
        assert kv_bytes(site, 4) == 10


def test_a_width_that_a_method_lacks_has_no_price():
    scheme = QuantizationScheme(weight=TensorScheme(Quantizer.from_json("nf4")))
    with pytest.raises(BadInputError, match="nf4 has 4 bits only: got 8"):
        weight_bytes(Site("h.0.a", 8, 8, False, quantization=scheme), 8)
    with pytest.raises(BadInputError, match="mixed widths have no codes"):
        Symmetric(fractional_bits="interpolate").stored_size(2, 8, 4.5)
