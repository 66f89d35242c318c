"""What a space is to a knapsack: units with menus, and costs that add up over them."""

import itertools
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qalof.bitmap import Bitmap
from qalof.cost import Rest
from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import KvLayout, Site, Unquantized
from search import BitmapSpace
from search.budget import BASE_NAMES
from search.menu import Menu

LEAVES = {
    "self_attn.q_proj": (8, 8, None),
    "self_attn.k_proj": (8, 4, KvLayout(1, 4, ((0, 4),), holds=("keys",))),
    "self_attn.v_proj": (8, 4, KvLayout(1, 4, ((0, 4),), holds=("values",))),
    "self_attn.o_proj": (8, 8, None),
    "mlp.gate_proj": (8, 12, None),
    "mlp.up_proj": (8, 12, None),
    "mlp.down_proj": (12, 8, None),
}


class Model:
    """What a space asks of a model, without weights."""

    adapters = ()

    def __init__(self, blocks=2, quantization=None):
        scheme = QuantizationScheme.from_json(quantization or {})
        inside = (
            Site(f"layers.{n}.{leaf}", i, o, False, layout, quantization=scheme)
            for n in range(blocks)
            for leaf, (i, o, layout) in LEAVES.items()
        )
        self.sites = (*inside, Site("lm_head", 8, 50, False, is_head=True, quantization=scheme))
        self.rest = Rest(Unquantized(123), {4: 2, 8: 1})


@pytest.fixture(scope="module")
def model():
    return Model()


def names(space):
    return [unit.name for unit in space.units]


def test_a_unit_tells_its_sites_and_its_menu(model):
    space = BitmapSpace.of(model, weight=(8, "4g4", 4), activation=(8,), kv=(4, 8), group="fused")
    fused = space.units[0]
    assert fused.sites == tuple(f"layers.0.self_attn.{leaf}_proj" for leaf in "qkv")
    forms = [f"w{weight}a8kv{kv}" for weight in ("4", "4g4", "8") for kv in (4, 8)]
    assert fused.menu == tuple(LayerBits.parse(form) for form in forms)
    assert [str(choice) for choice in space.units[1].menu] == ["w4a8kv4", "w4g4a8kv4", "8"]


def test_a_cache_with_keys_and_values_apart_is_a_choice_where_it_differs(model):
    menu = {"weight": (8,), "activation": (8,), "kv": (4, 8, "k8v4")}
    fused, alone = (BitmapSpace.of(model, **menu, group=group) for group in ("fused", "site"))
    by_name = {unit.name.rsplit(".")[-1]: [str(bits) for bits in unit.menu] for unit in (*fused.units, *alone.units)}
    assert by_name["q_proj+k_proj+v_proj"] == ["w8a8kv4", "w8a8k8v4", "8"]
    assert by_name["k_proj"] == by_name["v_proj"] == ["w8a8kv4", "8"]
    assert by_name["o_proj"] == ["8"]
    # what does not matter at a site is ignored
    bitmap = Bitmap.uniform([site.name for site in model.sites], "w8a8k8v4")
    assert fused.encode(bitmap) == (1, 0, 0, 0) * 2 + (0,)
    assert alone.encode(bitmap) == (0, 1, 0, 0, 0, 0, 0) * 2 + (0,)
    assert fused.cost(fused.bitmap(fused.encode(bitmap))) == alone.cost(alone.bitmap(alone.encode(bitmap)))
    assert fused.uniform()[1] == fused.bitmap(fused.encode(bitmap))


def test_the_units_of_every_kind_are_the_sites_each_once(model):
    for group in ("site", "block", "component", "fused"):
        space = BitmapSpace.of(model, weight=(4, 8), group=group)
        assert sorted(site for unit in space.units for site in unit.sites) == sorted(s.name for s in model.sites)
        assert len(set(names(space))) == len(space.units)


def test_kinds_of_units(model):
    def of(**how):
        return names(BitmapSpace.of(model, weight=(4, 8), **how))

    assert of(group="block") == ["layers.0", "layers.1", "lm_head"]
    assert of(group="component")[:2] == ["layers.0.attention", "layers.0.mlp"]
    assert of(group="fused")[:4] == [
        "layers.0.self_attn.q_proj+k_proj+v_proj",
        "layers.0.self_attn.o_proj",
        "layers.0.mlp.gate_proj+up_proj",
        "layers.0.mlp.down_proj",
    ]
    assert of(group="block", tied=["*.v_proj"]) == ["layers.0", "*.v_proj", "layers.1", "lm_head"]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_bitmap_takes_each_units_pick_at_all_its_sites(model, data):
    group = data.draw(st.sampled_from(("site", "block", "component", "fused")))
    space = BitmapSpace.of(model, weight=(3, "3g4", 4, "4g4", 8), kv=(4, 8), group=group)
    picks = [data.draw(st.integers(0, len(unit.menu) - 1)) for unit in space.units]
    bitmap = space.bitmap(picks)
    for unit, pick in zip(space.units, picks, strict=True):
        assert {(bitmap[s].weight, bitmap[s].group_size, bitmap[s].activation) for s in unit.sites} == {
            (unit.menu[pick].weight, unit.menu[pick].group_size, unit.menu[pick].activation)
        }
    assert space.encode(bitmap) == tuple(picks)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_costs_add_up_over_units_and_an_allowance_is_exactly_a_limit(model, data):
    space = BitmapSpace.of(
        model, weight=(3, "3g4", 4, "4g4", 8), kv=(4, 8), group=data.draw(st.sampled_from(("site", "fused")))
    )
    picks = [data.draw(st.integers(0, len(unit.menu) - 1)) for unit in space.units]
    cost = space.cost(space.bitmap(picks))
    for name in (*BASE_NAMES, "total_bytes"):
        added = sum(row[pick] for row, pick in zip(space.costs(name), picks, strict=True))
        value = cost.value(name)
        assert added == space.allowance(name, value)
        for limit in (value, value - 1, value + 0.5, value * (1 - 2**-53), data.draw(st.floats(0, 2 * value))):
            assert (added <= space.allowance(name, limit)) == (value <= limit)


def test_a_menu_is_sorted_by_bits_and_then_by_the_bytes_of_the_models_own_scales():
    def menu(quantization, weight):
        return [str(bits) for bits in BitmapSpace.of(Model(quantization=quantization), weight=weight).units[0].menu]

    groups = {"weight": {"quantizer": {"method": "symmetric", "granularity": "group", "group_size": 4}}}
    assert menu(None, ("4g2", 8, "4g4", 4)) == ["4", "4g4", "4g2", "8"]
    assert menu(groups, ("4g2", 8, "4g8", 4)) == ["4g8", "4", "4g2", "8"]


def test_a_menu_without_a_cheapest_choice_is_refused_with_the_way_out(model):
    with pytest.raises(BadInputError, match=r"w?3g1a?.*, is not; add a choice that is, or drop this one"):
        BitmapSpace.of(model, weight=("3g1", 8))


def test_fixed_sites_keep_their_choice_and_cost_what_they_cost(model):
    space = BitmapSpace.of(model, weight=(4, 8), group="fused", fixed={"lm_head": "w8a8", "*.down_proj": 8})
    assert [str(bits) for bits in space.units[-1].menu] == ["w8a8"]
    cheapest = space.bitmap([0] * len(space.units))
    assert cheapest["layers.1.mlp.down_proj"] == LayerBits.of(8)
    assert cheapest["layers.1.mlp.up_proj"] == LayerBits.of(4)
    assert space.size == 2 ** (len(space.units) - 3)


def test_a_pattern_has_a_menu_of_its_own_and_takes_the_rest_from_the_spaces(model):
    menus = {"*.v_proj": {"weight": ("8g4", 8)}, "lm_head": Menu((6, 8), (8,), None)}
    space = BitmapSpace.of(model, weight=(4, 8), activation=(4, 8), kv=(8,), menus=menus)
    by_name = {unit.name: [str(bits) for bits in unit.menu] for unit in space.units}
    assert by_name["layers.0.self_attn.v_proj"] == ["w8a4kv8", "8", "w8g4a4kv8", "8g4"]
    assert by_name["lm_head"] == ["w6a8", "w8a8"]
    assert by_name["layers.0.self_attn.o_proj"] == ["w4a4kv8", "w4a8kv8", "w8a4kv8", "8"]


def test_keys_are_chosen_apart_from_values_where_they_are_sites_of_their_own(model):
    space = BitmapSpace.of(model, weight=(8,), activation=(8,), kv=(4, 8))
    found = {
        (b["layers.0.self_attn.k_proj"].kv, b["layers.0.self_attn.v_proj"].kv)
        for b in map(space.bitmap, itertools.product(*(range(u.choices) for u in space.units)))
    }
    assert found == {(4, 4), (4, 8), (8, 4), (8, 8)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tied": ["*.w_proj"]}, "tied must match a site"),
        ({"tied": ["*.v_proj", "layers.0.*"]}, "may be tied once"),
        ({"fixed": {"head": 8}}, "a menu must be of a site: 'head' matches none"),
        ({"fixed": {"lm_head": 8}, "menus": {"lm_*": {"weight": [4]}}}, "a site may have one menu"),
        ({"fixed": {"lm_head": 8}, "menus": {"lm_head": {"weight": [4]}}}, "has both"),
        ({"menus": {"lm_head": {"bits": [4]}}}, "no setting 'bits'"),
        ({"group": "block", "fixed": {"*.v_proj": 8}}, "sites that are chosen together must have one menu"),
        ({"weight": ("4a8",)}, "must read like"),
        ({"weight": ("w4a8",)}, "a weight width must read like 4, w4 or 4g32"),
        ({"weight": ("32g4",)}, "a group shares a scale"),
        ({"weight": "4g32"}, "weight must be a list of widths"),
    ],
)  # fmt: skip
def test_what_no_space_can_be_is_refused_in_one_line(model, arguments, message):
    with pytest.raises(BadInputError, match=message):
        BitmapSpace.of(model, **({"weight": (4, 8)} | arguments))


def test_a_limit_on_average_bits_alone_says_that_scales_are_free(model, caplog):
    limits = {"average_bits": 5.0}
    with caplog.at_level(logging.WARNING):
        BitmapSpace.of(model, weight=(4, 8), limits=limits)
        BitmapSpace.of(model, weight=(4, "4g4", 8), limits=limits | {"weight_bytes": 1e9})
        assert not caplog.records
        BitmapSpace.of(model, weight=(4, "4g4", 8), limits=limits)
    assert "average_bits counts codes and no scales" in caplog.text


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, [3, 4, 5, 6, 7, 8]),
        ({"weight": {"quantizer": "gguf"}}, [4, 5, 8]),
        ({"weight": {"quantizer": {"method": "nf4", "group_size": 4}}}, [4]),
        ({"weight": {"quantizer": "lsq"}, "widths": [2, 4, 8]}, [4, 8]),
    ],
)
def test_the_default_menu_has_the_widths_of_3_to_8_bits_that_the_model_has(quantization, expected):
    space = BitmapSpace.of(Model(quantization=quantization))
    assert sorted({bits.weight for unit in space.units for bits in unit.menu}) == expected
    assert space.uniform()[0] == Bitmap.uniform([site.name for site in space.sites], expected[0])
