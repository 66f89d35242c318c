import pytest

from qalof.bitmap import Bitmap
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.model.kv_layout import KvLayout
from qalof.model.sites import Site

SITES = (
    Site("h.0.attn.c_attn", 10, 30, True, KvLayout(1, 10, ((10, 20), (20, 30)), 1, 10)),
    Site("h.0.mlp.c_fc", 10, 40, True),
)


KV = KvLayout(12, 64, ((768, 1536), (1536, 2304)), 1, 768)


def gpt2_sites():
    shapes = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
    return [
        Site(f"h.{block}.{leaf}", *shape, True, kv=KV if leaf == "attn.c_attn" else None)
        for block in range(12)
        for leaf, shape in shapes.items()
    ]


def test_hand_worked_cost():
    cost = cost_of(Bitmap.parse(["w4a8kv8", "w8a8"], [s.name for s in SITES]), SITES)
    assert cost.average_bits == pytest.approx((300 * 4 + 400 * 8) / 700)
    assert cost.weight_bytes == 30 * (5 + 2) + 40 * (10 + 2)
    assert cost.kv_bytes_per_token == 20 + 2 * 2
    assert cost.bit_operations_per_token == 300 * 4 * 8 + 400 * 8 * 8


def test_rows_are_padded_to_whole_bytes():
    assert cost_of(Bitmap.parse("w3a8", [s.name for s in SITES]), SITES).weight_bytes == 70 * (4 + 2)


def test_pass_through_costs_four_bytes_a_weight_and_no_scale():
    assert cost_of(Bitmap.parse("32", [s.name for s in SITES]), SITES).weight_bytes == 700 * 4


@pytest.mark.parametrize(("bits", "kv"), [("32", 73_728), ("8", 18_480), ("4", 9_264)])
def test_gpt2_cache_bytes_a_token_match_the_known_figures(bits, kv):
    sites = gpt2_sites()
    assert cost_of(Bitmap.parse(bits, [s.name for s in sites]), sites).kv_bytes_per_token == kv


def test_gpt2_hybrid_of_the_reference_averages_6_89_bits():
    sites = gpt2_sites()
    low = [
        s.name
        for s in sites
        if s.name.split(".")[1] in ("9", "10", "11")
        or (s.name.endswith("attn.c_proj") and int(s.name.split(".")[1]) < 4)
    ]
    hybrid = Bitmap.uniform([s.name for s in sites], 8).replace(dict.fromkeys(low, 4))
    assert sum(s.weights for s in sites) == 84_934_656
    assert cost_of(hybrid, sites).average_bits == pytest.approx(6.89, abs=0.005)


def test_a_bitmap_of_other_sites_has_no_price():
    with pytest.raises(BadInputError, match="must name the model's 2 sites"):
        cost_of(Bitmap.uniform(["elsewhere"], 8), SITES)
