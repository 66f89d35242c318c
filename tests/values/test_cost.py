import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qalof.bitmap import Bitmap
from qalof.cost import cost_of, storage_of
from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import KvGranularity, KvLayout, Site, Unquantized


def symmetric(granularity):
    return TensorScheme(Symmetric(granularity=granularity, scale_dtype="float16"))


HALF = QuantizationScheme(*map(symmetric, (Granularity.CHANNEL, Granularity.TOKEN, Granularity.TOKEN)))
"""One fp16 scale per output channel, and per token."""
SITES = (
    Site("h.0.attn.c_attn", 10, 30, True, KvLayout(1, 10, ((10, 20), (20, 30)), 1, 10), quantization=HALF),
    Site("h.0.mlp.c_fc", 10, 40, True, quantization=HALF),
)


KV = KvLayout(12, 64, ((768, 1536), (1536, 2304)), 1, 768)


def gpt2_sites():
    shapes = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
    return [
        Site(f"h.{block}.{leaf}", *shape, True, kv=KV if leaf == "attn.c_attn" else None, quantization=HALF)
        for block in range(12)
        for leaf, shape in shapes.items()
    ]


def test_hand_worked_cost():
    cost = cost_of(Bitmap.parse(["w4a8kv8", "w8a8"], [s.name for s in SITES]), SITES)
    assert cost.average_bits == pytest.approx((300 * 4 + 400 * 8) / 700)
    assert cost.weight_bytes == 30 * (5 + 2) + 40 * (10 + 2)
    assert cost.kv_bytes_per_token == 20 + 2 * 2
    assert cost.bit_operations_per_token == 300 * 4 * 8 + 400 * 8 * 8
    assert cost.activation_bytes_per_token == 2 * (10 + 2)


def test_rows_are_padded_to_whole_bytes():
    assert cost_of(Bitmap.parse("w3a8", [s.name for s in SITES]), SITES).weight_bytes == 70 * (4 + 2)


def test_full_precision_costs_four_bytes_a_weight_and_no_scale():
    assert cost_of(Bitmap.parse("32", [s.name for s in SITES]), SITES).weight_bytes == 700 * 4


@pytest.mark.parametrize(("bits", "kv"), [("32", 73_728), ("8", 18_480), ("4", 9_264)])
def test_gpt2_cache_bytes_a_token_match_the_known_figures(bits, kv):
    sites = gpt2_sites()
    assert cost_of(Bitmap.parse(bits, [s.name for s in sites]), sites).kv_bytes_per_token == kv


def test_gpt2_cache_with_a_scale_a_head():
    """12 layers, keys and values: 768 bytes and 12 scales of 2 bytes each at 8 bits."""
    sites = [replace(s, kv=s.kv and s.kv.with_scales(KvGranularity.HEAD)) for s in gpt2_sites()]
    assert cost_of(Bitmap.parse("8", [s.name for s in sites]), sites).kv_bytes_per_token == 12 * 2 * (768 + 12 * 2)


def test_grouped_queries_make_the_cache_smaller_and_not_the_attention():
    """Llama-like: 8 query heads share 2 heads of 4 features; k_proj and v_proj hold one part each."""
    layout = KvLayout(2, 4, ((0, 8),), 1, 32, holds=("keys",))
    parts = {"layers.0.k_proj": layout, "layers.0.v_proj": replace(layout, holds=("values",))}
    sites = [Site(name, 32, 8, False, part, quantization=HALF) for name, part in parts.items()]
    names = [site.name for site in sites]
    assert cost_of(Bitmap.parse("4", names), sites).kv_bytes_per_token == 2 * (4 + 2)
    with_context, without = (cost_of(Bitmap.parse("w8a8kv4", names), sites, context=c) for c in (100, 0))
    attention = with_context.bit_operations_per_token - without.bit_operations_per_token
    assert attention == 2 * 32 * 100 * 4 * 32


@settings(max_examples=20, deadline=None)
@given(st.sampled_from((2, 3, 4, 8, 16)), st.sampled_from((2, 3, 4, 8, 16)), st.sampled_from(list(KvGranularity)))
def test_keys_and_values_cost_their_own_bits_in_one_projection_or_in_two(keys, values, scales):
    """So ``k8v4`` takes the mean of ``kv8`` and ``kv4``, in the cache and in the operations that read it."""
    both = KvLayout(2, 4, ((8, 16), (16, 24)), 1, 8).with_scales(scales)
    fused = [Site("h.0.c_attn", 8, 24, False, both, quantization=HALF)]
    apart = [
        Site(f"h.0.{part[0]}_proj", 8, 8, False, replace(both, parts=((0, 8),), holds=(part,)), quantization=HALF)
        for part in ("keys", "values")
    ]

    def cost(sites, form, name):
        return cost_of(Bitmap.parse(f"w8a8{form}", [s.name for s in sites]), sites, context=10).to_json()[name]

    for name in ("kv_bytes_per_token", "bit_operations_per_token"):
        mixed = cost(fused, f"k{keys}v{values}", name)
        assert 2 * mixed == cost(fused, f"kv{keys}", name) + cost(fused, f"kv{values}", name)
        if name == "kv_bytes_per_token":
            assert mixed == cost(apart, f"k{keys}v{values}", name)
    named = {"h.0.k_proj": f"w8a8kv{keys}", "h.0.v_proj": f"w8a8kv{values}"}
    assert cost_of(Bitmap.parse(named, list(named)), apart) == cost_of(
        Bitmap.parse(f"w8a8k{keys}v{values}", list(named)), apart
    )


@pytest.mark.parametrize(
    ("bits", "weights", "activations", "operations"),
    [
        ("32", 339_738_624, 258_048, 86_973_087_744),
        ("8", 84_934_656 + 165_888, 64_512 + 96, 5_435_817_984),
        ("4", 42_467_328 + 165_888, 32_256 + 96, 1_358_954_496),
        ("w4", 42_467_328 + 165_888, 258_048, 10_871_635_968),
    ],
)
def test_gpt2_by_hand(bits, weights, activations, operations):
    """84,934,656 weights; 82,944 scales of 2 bytes; 64,512 input features of 48 sites."""
    sites = gpt2_sites()
    cost = cost_of(Bitmap.parse(bits, [s.name for s in sites]), sites)
    assert cost.weight_bytes == weights
    assert cost.activation_bytes_per_token == activations
    assert cost.bit_operations_per_token == operations


def test_gpt2_attention_over_a_full_context():
    """1,024 tokens: two products of 768 MACs a token and layer, queries and probabilities in 32 bits."""
    sites = gpt2_sites()
    bitmap = Bitmap.parse("8", [s.name for s in sites])
    extra = cost_of(bitmap, sites, context=1024).bit_operations_per_token - 5_435_817_984
    assert extra == 12 * 2 * 768 * 1024 * 8 * 32 == 4_831_838_208


def test_gpt2_hybrid_of_the_reference_has_27_8_percent_at_4_bits():
    sites = gpt2_sites()
    hybrid = Bitmap.parse("hybrid84", [s.name for s in sites])
    low = sum(s.weights for s in sites if hybrid[s.name].weight == 4)
    assert sum(s.weights for s in sites) == 84_934_656
    assert low == 4 * 589_824 + 3 * 7_077_888 == 23_592_960
    assert cost_of(hybrid, sites).average_bits == pytest.approx(62 / 9, rel=1e-15)


HEAD = Site("lm_head", 768, 50_257, False, is_head=True, quantization=HALF)


@pytest.mark.parametrize(
    ("unquantized", "bits", "weights", "rest"),
    [
        (Unquantized(39_505_152, 38_597_376), "8", 123_532_032 + 266_402, 39_505_152),  # a view: packed, and wte
        (Unquantized(39_505_152, 38_597_376), "32", 4 * 84_934_656, 39_505_152),  # the view is wte
        (Unquantized(39_505_152), "8", 123_532_032 + 266_402, 39_505_152),  # untied: the same two at 8 bits
        (Unquantized(39_505_152), "32", 4 * 123_532_032, 39_505_152),  # and two at 32
        (Unquantized(907_776), "8", 123_532_032 + 266_402, 907_776),  # tied_both: one packed
    ],
)
def test_a_tied_view_counts_both_copies_once_they_differ(unquantized, bits, weights, rest):
    sites = [*gpt2_sites(), HEAD]
    stored = storage_of(Bitmap.parse(bits, [s.name for s in sites]), sites, unquantized, 1000)
    assert (stored.weight_bytes, stored.adapter_bytes, stored.unquantized_bytes) == (weights, 4000, 4 * rest)
    assert stored.total_bytes == weights + 4000 + 4 * rest


def test_a_bitmap_of_other_sites_has_no_price():
    with pytest.raises(BadInputError, match="must name the model's 2 sites"):
        cost_of(Bitmap.uniform(["elsewhere"], 8), SITES)


@pytest.mark.parametrize("name", ["bitmap", "cost", "digests", "files", "metrics", "site", "statistics"])
def test_values_are_imported_without_torch(name):
    code = f"import sys, qalof.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
