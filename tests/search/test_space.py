import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qalof.bitmap import Bitmap, LayerBits
from qalof.cost import cost_of
from qalof.errors import BadInputError
from search import BitmapSpace
from search.budget import BASE_NAMES


@pytest.fixture(scope="session")
def space(sites):
    return BitmapSpace.of(sites, weight=(8, 2, 4), activation=(4, 8), kv=(4, 8))


def test_choices_are_sorted_from_cheap_to_dear_and_kv_varies_only_where_it_is_cached(space):
    by_name = dict(zip((site.name for site in space.sites), space.choices, strict=True))
    assert by_name["h.0.attn.c_attn"] == tuple(LayerBits(w, a, k) for w in (2, 4, 8) for a in (4, 8) for k in (4, 8))
    assert by_name["h.0.mlp.c_fc"] == tuple(LayerBits(w, a, w) for w in (2, 4, 8) for a in (4, 8))
    assert space.size == (12 * 6**3) ** 2


@pytest.mark.parametrize(("kv", "expected"), [("same", LayerBits.of(4)), (None, LayerBits(4, 4, 32))])
def test_same_and_none_say_what_the_cache_gets(sites, kv, expected):
    assert all(choices[1] == expected for choices in BitmapSpace.of(sites, weight=(2, 4, 8), kv=kv).choices)


def test_uniform_bitmaps_read_as_one_number_and_keep_the_limits(sites):
    assert [str(bitmap) for bitmap in BitmapSpace.of(sites, weight=(2, 4, 8)).uniform()] == ["2", "4", "8"]
    assert [
        str(bitmap) for bitmap in BitmapSpace.of(sites, weight=(2, 4, 8), limits={"average_bits": 4}).uniform()
    ] == ["2", "4"]
    assert (
        Bitmap.uniform([site.name for site in sites], 8) in BitmapSpace.of(sites, weight=(2, 4, 8), kv=(4, 8)).uniform()
    )


@pytest.mark.parametrize("group", ["site", "block"])
def test_with_one_width_for_inputs_and_one_for_the_cache_a_uniform_bitmap_reads_as_its_widths(sites, group):
    space = BitmapSpace.of(sites, weight=(4, 8), activation=(8,), kv=(8,), group=group)
    assert [str(bitmap) for bitmap in space.uniform()] == ["w4a8kv8", "8"]
    assert str(space.bitmap([0] * len(space.units))) == "w4a8kv8"


def test_a_block_is_one_choice_and_its_kv_width_goes_to_the_site_that_has_one(sites):
    space = BitmapSpace.of(sites, weight=(4, 8), kv=(2, 8), group="block")
    assert [unit.name for unit in space.units] == ["h.0", "h.1"]
    assert space.size == 4**2
    bitmap = space.bitmap((2, 3))
    assert bitmap["h.0.attn.c_attn"] == LayerBits(8, 8, 2)
    assert bitmap["h.0.mlp.c_fc"] == LayerBits(8, 8, 8)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_encode_undoes_decode(space, data):
    indices = tuple(data.draw(st.integers(0, unit.choices - 1)) for unit in space.units)
    assert space.encode(space.bitmap(indices)) == indices


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_projection_keeps_every_limit_lowers_only_and_leaves_what_fits(space, data):
    limits = {}
    for name in data.draw(st.sets(st.sampled_from(BASE_NAMES), min_size=1)):
        low, high = space.reachable(name)
        limits[name] = data.draw(st.floats(low, high))
    bounded = space.within(limits)
    bitmap = space.bitmap([data.draw(st.integers(0, unit.choices - 1)) for unit in space.units])
    projected = bounded.project(bitmap)
    cost = cost_of(projected, space.sites).as_metrics()
    assert all(cost[name] <= limit for name, limit in limits.items())
    for before, after in zip(bitmap.values(), projected.values(), strict=True):
        assert after.weight <= before.weight
        assert after.activation <= before.activation
    assert bounded.project(bitmap) == projected
    assert bounded.project(projected) == projected
    if bounded.fits(bitmap):
        assert projected == bitmap


def test_projection_to_the_cheapest_costs_at_once_reaches_the_cheapest_bitmap(space):
    bounded = space.within({name: space.reachable(name)[0] for name in BASE_NAMES})
    dearest = space.bitmap([unit.choices - 1 for unit in space.units])
    assert bounded.project(dearest) == space.bitmap([0] * len(space.units))


@pytest.mark.parametrize("name", BASE_NAMES)
def test_reachable_is_what_the_ends_of_the_space_cost(space, name):
    ends = [space.bitmap([0] * len(space.units)), space.bitmap([unit.choices - 1 for unit in space.units])]
    assert space.reachable(name) == tuple(space.cost(bitmap).as_metrics()[name] for bitmap in ends)


def test_a_budget_out_of_reach_is_refused_with_the_range_that_is_not(sites):
    with pytest.raises(BadInputError, match=r"average_bits must be within reach: got 1.5.* goes from 2 to 8"):
        BitmapSpace.of(sites, weight=(2, 4, 8), limits={"average_bits": 1.5})
    low, high = BitmapSpace.of(sites, weight=(2, 4, 8)).reachable("weight_bytes")
    with pytest.raises(BadInputError, match=f"goes from {low:.0f} to {high:.0f}"):
        BitmapSpace.of(sites, weight=(2, 4, 8)).within({"weight_bytes": low - 1})
    assert BitmapSpace.of(sites, weight=(2, 4, 8), limits={"weight_bytes": low}).fits(
        BitmapSpace.of(sites, weight=(2, 4, 8)).bitmap([0] * 8)
    )


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_that_is_no_number_is_refused(sites, limit):
    with pytest.raises(BadInputError, match="within reach"):
        BitmapSpace.of(sites, weight=(2, 4, 8), limits={"average_bits": limit})


def test_an_unknown_limit_names_the_nearest(sites):
    with pytest.raises(BadInputError, match="did you mean 'average_bits'"):
        BitmapSpace.of(sites, weight=(2, 4, 8), limits={"avg_bits": 4})


def test_the_lower_of_two_limits_holds(sites):
    space = BitmapSpace.of(sites, weight=(2, 4, 8), limits={"average_bits": 4})
    assert space.within({"average_bits": 6}).limits == {"average_bits": 4}
    assert space.within({"average_bits": 3, "weight_bytes": 10**6}).limits == {"average_bits": 3, "weight_bytes": 10**6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": ()}, "weight must be a list of widths"),
        ({"weight": (1, 4)}, "from 2 to 16"),
        ({"activation": "sane"}, "activation must be a list of widths"),
        ({"group": "layer"}, "'site', 'block', 'component' or 'fused'"),
    ],
)
def test_widths_and_groups_that_do_not_exist_are_refused(sites, arguments, message):
    with pytest.raises(BadInputError, match=message):
        BitmapSpace.of(sites, **arguments)


def test_choices_without_a_cheapest_first_are_refused(plain_sites):
    crossed = (LayerBits(2, 8), LayerBits(4, 4))
    for choices in (crossed, (LayerBits.of(8), LayerBits.of(4))):
        with pytest.raises(BadInputError, match="first choice must be its cheapest"):
            BitmapSpace(plain_sites, (choices,) * 3)


def test_a_bitmap_of_another_space_is_refused_with_the_choices_there_are(sites):
    space = BitmapSpace.of(sites, weight=(4, 8))
    with pytest.raises(BadInputError, match=r"choices \(4, 8\): got 2"):
        space.project(Bitmap.uniform([site.name for site in sites], 2))
