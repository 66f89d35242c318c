"""Costs add up over sites, exactly: the cost of a bitmap is the sum of its sites' and what no bitmap changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qalof.bitmap import Bitmap
from qalof.cost import COST_NAMES, Rest, cost_of, packed_storage, site_cost, weight_bytes
from qalof.errors import BadInputError
from qalof.latency import LatencyTable, choice_of, digest_of
from qalof.layer_bits import GroupedWidth, KeyValueWidth, LayerBits
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import KvLayout, Site, Unquantized

BITS = (2, 3, 4, 5, 8, 16, 32)
CACHE = st.sampled_from(BITS) | st.builds(KeyValueWidth, st.sampled_from(BITS), st.sampled_from(BITS))
LAYER = st.tuples(*[st.sampled_from(BITS)] * 2, CACHE, st.sampled_from((None, 1, 7, 32, 64))).map(
    lambda t: LayerBits(*t[:3], None if t[0] == 32 else t[3])
)
SCHEMES = [
    {},
    {"weight": {"quantizer": {"method": "asymmetric", "granularity": "group", "group_size": 16}}},
    {"weight": {"quantizer": {"method": "symmetric", "scale_dtype": "float16", "full_precision_bits": 16}}},
]


def make_sites(scheme):
    known = QuantizationScheme.from_json(scheme)
    return (
        Site("wte", 48, 100, False, quantization=known.for_embedding(), is_embedding=True, has_adapter=False),
        Site("h.0.attn.c_attn", 48, 144, True, KvLayout(4, 12, ((48, 96), (96, 144))), quantization=known),
        Site("h.0.mlp.c_fc", 48, 70, True, quantization=known),
        Site("h.0.mlp.c_proj", 70, 48, False, quantization=known),
        Site("lm_head", 48, 100, False, is_head=True, quantization=known),
    )


RESTS = [
    None,
    Rest(Unquantized(1000, buffer_bytes=12), {2: 4, 4: 8, 8: 2}, quantizer_bytes=40),
    Rest(Unquantized(5800, head_view=4800), {}, frozenset({4, 8, 32})),
    Rest(Unquantized(5800, head_view=4800), dict.fromkeys(BITS, 3)),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=["channel", "groups", "fp16"])
@pytest.mark.parametrize("rest", RESTS, ids=["sites", "branches", "merged", "tied"])
@settings(max_examples=10, deadline=None)
@given(layers=st.lists(LAYER, min_size=5, max_size=5), context=st.sampled_from((0, 1024)))
def test_the_cost_of_a_bitmap_is_the_sum_of_its_sites_and_a_constant(scheme, rest, layers, context):
    sites = make_sites(scheme)
    bitmap = Bitmap({site.name: bits for site, bits in zip(sites, layers, strict=True)})
    times = {site.name: {choice_of(bitmap[site.name]): 7 * index} for index, site in enumerate(sites)}
    table = LatencyTable(times, digest_of(sites))
    whole = cost_of(bitmap, sites, context, rest, table)
    parts = [site_cost(site, bitmap[site.name], context, rest, table) for site in sites]
    for name in COST_NAMES:
        if getattr(whole, name) is None:
            assert rest is None
            continue
        added = sum(part.value(name) for part in parts)
        if name == "average_bits":
            assert whole.average_bits == added / sum(site.weights for site in sites)
        elif name == "latency_seconds":
            assert whole.latency_seconds == added / 10**9
        elif name == "total_bytes":
            assert whole.total_bytes == added + rest.nbytes == packed_storage(bitmap, sites, rest).total_bytes
        else:
            assert whole.value(name) == added
    assert sum(parts[1:], parts[0]).value("weight_bytes") == whole.weight_bytes


@pytest.mark.parametrize("method", sorted(set(Quantizer.registry) - {"lsq"}))
@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_a_group_size_costs_what_a_scheme_of_that_granularity_costs(method, size):
    kind = Quantizer.registry[method]
    bits = kind.only_bits or (4 if kind.lowest_bits <= 4 else 8)
    plain = QuantizationScheme.from_json({"weight": {"quantizer": {"method": method}}})
    grouped = {"method": method, "granularity": "group", "group_size": size}
    own = QuantizationScheme.from_json({"weight": {"quantizer": grouped}})
    site, same = (Site("h.0.a", 48, 30, False, quantization=scheme) for scheme in (plain, own))
    assert weight_bytes(site, GroupedWidth(bits, size)) == weight_bytes(same, bits)


def test_scales_count_by_hand():
    site = Site("h.0.a", 100, 10, False)
    # 100 codes of 4 bits are 50 bytes a row; 4 groups of 32, the last of 4 features, have a scale of 4 bytes each
    assert weight_bytes(site, 4) == 10 * (50 + 4)
    assert weight_bytes(site, GroupedWidth(4, 32)) == 10 * (50 + 4 * 4)
    assert weight_bytes(site, GroupedWidth(4, 1000)) == weight_bytes(site, 4)


def test_a_group_size_that_a_quantizer_cannot_have_costs_nothing_but_an_error():
    strict = {"weight": {"quantizer": {"method": "symmetric", "require_divisible": True}}}
    site = Site("h.0.a", 100, 10, False, quantization=QuantizationScheme.from_json(strict))
    assert site_cost(site, LayerBits.parse("4g25")).weight_bytes == 10 * (50 + 4 * 4)
    with pytest.raises(BadInputError, match="group_size must divide in_features: got 32 for 100"):
        site_cost(site, LayerBits.parse("4g32"))
    learned = QuantizationScheme.from_json({"weight": {"quantizer": "lsq"}, "widths": [4]})
    with pytest.raises(BadInputError, match="lsq learns its steps for the granularity of its scheme alone"):
        site_cost(Site("h.0.a", 100, 10, False, quantization=learned), LayerBits.parse("4g32"))


def test_the_price_of_a_whole_model_is_asked_of_a_model():
    with pytest.raises(BadInputError, match="total_bytes is known of a whole model"):
        site_cost(Site("h.0.a", 8, 8, False), LayerBits.of(4)).value("total_bytes")
