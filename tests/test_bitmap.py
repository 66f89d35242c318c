import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qalof.bitmap import WIDTHS, Bitmap, LayerBits, block_of_sites
from qalof.errors import BadInputError

SITES = tuple(f"h.{block}.{leaf}" for block in range(3) for leaf in ("attn.c_attn", "mlp.c_fc"))

layers = st.builds(LayerBits, st.sampled_from(WIDTHS), st.sampled_from(WIDTHS), st.sampled_from(WIDTHS))
bitmaps = st.lists(layers, min_size=len(SITES), max_size=len(SITES)).map(
    lambda bits: Bitmap(dict(zip(SITES, bits, strict=True)))
)


@given(bitmaps)
def test_printed_form_reads_back_as_the_same_bitmap(bitmap):
    assert Bitmap.parse(str(bitmap), SITES) == bitmap


@given(bitmaps)
def test_json_reads_back_as_the_same_bitmap(bitmap):
    assert Bitmap.from_json(json.loads(json.dumps(bitmap.to_json())), SITES) == bitmap


@given(bitmaps, bitmaps)
def test_equal_bitmaps_hash_alike(one, other):
    assert (one == other) <= (hash(one) == hash(other))


def test_list_of_one_entry_a_block_covers_the_sites_of_each_block():
    bitmap = Bitmap.parse("8,4,2", SITES)
    assert [bitmap[site].weight for site in SITES] == [8, 8, 4, 4, 2, 2]


def test_list_of_one_entry_a_site_is_taken_in_order():
    assert [bits.weight for bits in Bitmap.parse([2, 3, 4, 5, 6, 7], SITES).values()] == [2, 3, 4, 5, 6, 7]


def test_striped_pattern_alternates_by_block():
    assert [bits.weight for bits in Bitmap.parse("striped84", SITES).values()] == [8, 8, 4, 4, 8, 8]


def test_all_pattern_is_uniform():
    assert Bitmap.parse("all4", SITES) == Bitmap.uniform(SITES, 4)


def test_weight_activation_and_kv_widths_are_read_apart():
    assert LayerBits.parse("w4a8kv2") == LayerBits(4, 8, 2)
    assert LayerBits.parse("w4a8") == LayerBits(4, 8, 32)


def test_a_site_without_a_number_is_a_block_of_its_own():
    assert block_of_sites(["h.0.a", "h.0.b", "h.1.a", "lm_head"]) == [0, 0, 1, 2]


def test_file_is_read(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(Bitmap.uniform(SITES, "w4a8").to_json()))
    assert Bitmap.parse(str(path), SITES) == Bitmap.uniform(SITES, "w4a8")


@pytest.mark.parametrize(
    ("spec", "law"),
    [
        ("1", "from 2 to 16"),
        ("17", "from 2 to 16"),
        ("8,8", r"1 .everywhere., 3 .blocks., 6 .sites.; got 2"),
        ("8x5", "got 5"),
        ("a4", "no bitmap pattern reads like"),
        ("w", "must read like"),
        ("8y", "must read like"),
        ("", "must read like"),
        ("none.json", "does not exist"),
        (True, "from 2 to 16"),
    ],
)
def test_what_is_no_bitmap_is_refused_with_the_law(spec, law):
    with pytest.raises(BadInputError, match=law):
        Bitmap.parse(spec, SITES)


def test_unknown_site_names_the_nearest_one():
    data = Bitmap.uniform(SITES, 8).to_json()
    data["sites"]["h.0.attn.c_atn"] = data["sites"].pop("h.0.attn.c_attn")
    with pytest.raises(BadInputError, match=r"no site 'h.0.attn.c_atn'; did you mean 'h.0.attn.c_attn'"):
        Bitmap.from_json(data, SITES)


def test_missing_site_is_refused():
    data = Bitmap.uniform(SITES, 8).to_json()
    del data["sites"][SITES[3]]
    with pytest.raises(BadInputError, match=f"1 missing, first '{SITES[3]}'"):
        Bitmap.from_json(data, SITES)


def test_newer_format_version_is_refused():
    with pytest.raises(BadInputError, match="version must be 1: got 2"):
        Bitmap.from_json({"version": 2, "sites": {}})


def test_replace_changes_only_what_is_named():
    changed = Bitmap.uniform(SITES, 8).replace({SITES[1]: "w4a8"})
    assert changed[SITES[1]] == LayerBits(4, 8)
    assert all(changed[site] == LayerBits.of(8) for site in SITES if site != SITES[1])
    with pytest.raises(BadInputError, match="no site"):
        changed.replace({"nowhere": 4})
