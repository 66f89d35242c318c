"""A choice is bits and a group size: how bitmaps with group sizes are written, read, named, summed up and drawn."""

import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from orchestrate.cli.bitmap_view import terminal_map
from orchestrate.document.formats import bitmap_name
from qalof.bitmap import Bitmap
from qalof.bitmap_file import read_spec
from qalof.bitmap_map import block_map
from qalof.bitmap_names import bitmap_id, is_id, short_name, summary
from qalof.errors import BadInputError
from qalof.layer_bits import WIDTHS, GroupedWidth, KeyValueWidth, LayerBits, width_order
from qalof.site import Site
from search.bitmap_plot import bitmaps_picture, color_of, hatch_of

SITES = [f"h.{block}.{leaf}" for block in range(3) for leaf in ("attn.c_attn", "mlp.c_fc")]
WIDTH = st.sampled_from(WIDTHS)
SIZE = st.one_of(st.none(), st.integers(1, 512))
CACHE = st.one_of(WIDTH, st.builds(KeyValueWidth, WIDTH, WIDTH))
LAYERS = st.tuples(WIDTH, WIDTH, CACHE, SIZE).map(lambda t: LayerBits(*t[:3], None if t[0] == 32 else t[3]))


@given(LAYERS)
def test_a_choice_reads_back_from_its_text_and_its_json(bits):
    assert LayerBits.parse(str(bits)) == bits
    assert LayerBits.from_json(json.loads(json.dumps(bits.to_json()))) == bits


@given(st.lists(LAYERS, min_size=6, max_size=6))
def test_a_bitmap_reads_back_from_its_text_and_its_file(layers):
    bitmap = Bitmap(dict(zip(SITES, layers, strict=True)))
    data = json.loads(json.dumps(bitmap.to_json()))
    assert Bitmap.from_json(data, SITES) == bitmap
    # in a text, one entry stands for all sites alike
    assert Bitmap.parse(str(bitmap), SITES) == bitmap
    assert is_id(bitmap.id)


@given(LAYERS, LAYERS)
def test_choices_have_one_order_in_which_bits_come_before_scales(first, second):
    assert (first < second) + (second < first) + (first == second) == 1
    if first.weight < second.weight:
        assert first < second


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("4g32", LayerBits(4, 4, 4, 32)),
        ("w4g32", LayerBits(4, 32, 32, 32)),
        ("w4g64a8", LayerBits(4, 8, 32, 64)),
        ("w4g32a8kv8", LayerBits(4, 8, 8, 32)),
        ("w3g128kv4", LayerBits(3, 32, 4, 128)),
        ("4", LayerBits(4, 4, 4)),
    ],
)
def test_a_group_size_follows_the_bits_of_the_weight(form, expected):
    assert LayerBits.parse(form) == expected


@pytest.mark.parametrize("text", ["4g32x4,8x2", "striped:4g32/8", "all4g32", "all:w4g32a8", "4g32,8,4g64"])
def test_every_form_of_a_bitmap_takes_group_sizes(text):
    bitmap = Bitmap.parse(text, SITES)
    assert any(bits.group_size for bits in bitmap.values())
    assert Bitmap.parse(str(bitmap), SITES) == bitmap


@pytest.mark.parametrize(
    "form", ["4g", "4g0", "g32", "w4a8g32", "w4kv8g32", "4g-1", "4g32g64", "4g9999999999", "w4G32"]
)
def test_what_reads_like_no_choice_is_refused_in_one_line(form):
    with pytest.raises(BadInputError, match=r"must read like 8, 4g32, w4|of at least 1"):
        LayerBits.parse(form)


@pytest.mark.parametrize("form", ["32g32", "w32g32", "w32g8a8kv8"])
def test_a_weight_that_is_not_rounded_has_no_groups(form):
    with pytest.raises(BadInputError, match="a group shares a scale, which a weight at 32 bits does not have"):
        LayerBits.parse(form)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "32"])
def test_a_group_size_is_a_whole_number_of_features(size):
    with pytest.raises(BadInputError, match="group_size must be a whole number of at least 1"):
        LayerBits.from_json({"weight": 4, "activation": 4, "group_size": size})


def test_the_format_version_changes_only_where_there_is_a_group_size():
    plain, grouped = Bitmap.parse("w4a8", SITES), Bitmap.parse("w4g32a8", SITES)
    assert plain.to_json() == {
        "version": 1,
        "sites": {site: {"weight": 4, "activation": 8, "kv": 32} for site in SITES},
    }
    assert grouped.to_json()["version"] == 2
    assert grouped.to_json()["sites"][SITES[0]] == {"weight": 4, "activation": 8, "kv": 32, "group_size": 32}
    assert Bitmap.from_json(plain.to_json(), SITES) == plain
    apart = Bitmap.parse("w4a8k8v4", SITES)
    assert apart.to_json()["version"] == 3
    assert apart.to_json()["sites"][SITES[0]] == {"weight": 4, "activation": 8, "kv": "k8v4"}
    assert Bitmap.parse("w4a8k8v8", SITES) == Bitmap.parse("w4a8kv8", SITES)
    assert summary(apart) == "4 bits; activations at 8; KV at k8v4"


def test_two_group_sizes_are_two_bitmaps(tmp_path):
    texts = ["4", "4g64", "4g32", "4g32x2,4x4", "4x2,4g32x4"]
    bitmaps = [Bitmap.parse(text, SITES) for text in texts]
    assert len({bitmap.id for bitmap in bitmaps}) == len(set(bitmaps)) == len(texts)
    path = tmp_path / "bitmaps.json"
    path.write_text(json.dumps({"bitmaps": [bitmap.to_json() for bitmap in bitmaps]}))
    for bitmap in bitmaps:
        assert Bitmap.from_json(read_spec(f"{path}#{bitmap.id}")) == bitmap
        assert Bitmap.parse(f"{path}#{bitmap.id}", SITES) == bitmap


def test_a_long_bitmap_is_named_by_its_id_and_a_short_one_by_its_text():
    assert short_name(Bitmap.parse("w4g32a8kv8", SITES)) == "w4g32a8kv8"
    long = Bitmap.parse("4g32,8,4g64,3,4g32,2", SITES)
    assert short_name(long) == f"#{long.id}" == f"#{bitmap_id(str(long))}"
    assert short_name(str(long)) == f"#{long.id}"


def test_a_summary_says_which_share_of_the_weights_is_in_which_groups():
    sites = [Site(name, 8, 8, False) for name in SITES]
    assert summary(Bitmap.parse("4g32", SITES), sites) == "4 bits in groups of 32"
    assert summary(Bitmap.parse("w4g32a8", SITES), sites) == "4 bits in groups of 32; activations at 8"
    mixed = summary(Bitmap.parse("4g32x3,4x2,8", SITES), sites)
    assert mixed.startswith("4.67 bits: 33 % of weights at 4, 50 % at 4g32, 17 % at 8")


def test_a_map_shows_the_group_sizes_on_the_colors_of_the_bits():
    bitmap = Bitmap.parse("4g32,8,4,8,4g128,8", SITES)
    (row, _) = block_map(bitmap).widths
    assert row == (GroupedWidth(4, 32), 4, GroupedWidth(4, 128))
    assert color_of(row[0]) == color_of(4)
    assert hatch_of(4) is None
    assert hatch_of(row[0]) != hatch_of(row[2])
    text = "\n".join(str(line) for line in terminal_map(bitmap, 80))
    assert all(f" {width} " in text for width in ("4g32", "4", "4g128", "8"))
    assert sorted(row, key=width_order) == [4, GroupedWidth(4, 128), GroupedWidth(4, 32)]


def test_a_picture_of_a_choice_differs_from_that_of_its_bits_alone():
    pictures = [imread(BytesIO(bitmaps_picture({"one": Bitmap.parse(text, SITES)}))) for text in ("4", "4g32", "4g128")]
    shapes = {picture.shape for picture in pictures}
    assert len(shapes) > 1 or all((pictures[0] != other).any() for other in pictures[1:])


@pytest.mark.parametrize(
    ("text", "name"),
    [("4", "4 bits"), ("32", "full precision"), ("4g32", "4 bits in groups of 32"), ("w4g32a8", "w4g32a8")],
)
def test_prose_names_a_uniform_choice_in_words(text, name):
    assert bitmap_name(text) == name
