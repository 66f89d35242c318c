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


BLOCK = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
GPT2 = tuple(f"h.{block}.{leaf}" for block in range(12) for leaf in BLOCK)
GPT2_49 = (*GPT2, "lm_head")


def widths(spec, sites=GPT2):
    return [bits.weight for bits in Bitmap.parse(spec, sites).values()]


@pytest.mark.parametrize("count", [1, 12, 48])
def test_the_lists_of_s2_mean_the_same_with_and_without_a_head(count):
    """A head that a list of blocks or of 48 layers does not name stays at 32; one entry is for all."""
    entries = [2 + index % 7 for index in range(count)]
    head = entries[0] if count == 1 else 32
    assert widths(entries, GPT2_49) == [*widths(entries), head]
    assert widths(",".join(map(str, entries))) == widths(entries)


def test_a_list_may_name_the_head_too():
    assert widths([8] * 48 + [4], GPT2_49) == [8] * 48 + [4]
    assert widths([8] * 12 + [4], GPT2_49) == [8] * 48 + [4]


def test_a_list_of_another_length_is_refused_with_all_that_would_do():
    with pytest.raises(BadInputError, match=r"1 .everywhere., 12 .numbered blocks., 13 .blocks., 48 .* got 11"):
        Bitmap.parse([8] * 11, GPT2_49)


def test_stripes_leave_the_head_at_the_first_width():
    assert widths("striped84", GPT2_49) == ([8] * 4 + [4] * 4) * 6 + [8]
    assert widths("striped:16/4", GPT2[:8]) == [16] * 4 + [4] * 4


def test_s1_hybrid():
    """4 bits at attn.c_proj of blocks 0 to 3 and everywhere in blocks 9 to 11."""
    expected = [
        4 if block >= 9 or (block < 4 and leaf == "attn.c_proj") else 8 for block in range(12) for leaf in BLOCK
    ]
    assert widths("hybrid84") == expected
    assert widths("hybrid:w8a8/w4a8", GPT2_49) == [*expected, 8]


@pytest.mark.parametrize(
    ("attention", "mlp", "head"),
    [(4, 4, 4), (3, 4, 4), (4, 3, 4), (4, 4, 3), (5, 5, 5), (4, 5, 5), (5, 4, 5), (5, 5, 4)],
)
def test_s3_component_grid(attention, mlp, head):
    expected = [attention, attention, mlp, mlp] * 12
    assert widths(f"components:w{attention}/w{mlp}/w{head}", GPT2_49) == [*expected, head]
    assert widths(f"components:{attention}/{mlp}") == expected
    assert widths(f"components:{attention}/{mlp}", GPT2_49) == [*expected, 32]


@pytest.mark.parametrize("grid", ["4444", "5444", "4544", "4454", "4445", "5555", "6555", "5655", "5565", "5556"])
def test_s3_layer_grid(grid):
    first, middle, last, head = map(int, grid)
    expected = [first] * 16 + [middle] * 16 + [last] * 16
    assert widths("thirds:" + "/".join(grid), GPT2_49) == [*expected, head]
    assert widths(f"thirds{grid}", GPT2_49) == [*expected, head]
    assert widths(f"thirds:{first}/{middle}/{last}") == expected


@pytest.mark.parametrize("pattern", ["all8", "striped84", "hybrid84", "components:4/8", "thirds:6/5/4"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 24, 31])
@pytest.mark.parametrize("head", [(), ("lm_head",)])
def test_patterns_work_for_any_number_of_blocks(pattern, blocks, head):
    sites = (*(f"layers.{b}.{leaf}" for b in range(blocks) for leaf in ("self_attn.o_proj", "mlp.up_proj")), *head)
    bitmap = Bitmap.parse(pattern, sites)
    assert bitmap.sites == sites
    assert Bitmap.parse(str(bitmap), sites) == bitmap


def test_thirds_of_blocks_are_as_equal_as_can_be():
    sites = tuple(f"h.{block}.mlp.c_fc" for block in range(7))
    assert widths("thirds:6/5/4", sites) == [6, 6, 6, 5, 5, 4, 4]


def test_components_of_every_family_are_known():
    attention = ("self_attn.q_proj", "attention.query_key_value", "attn.c_proj", "self_attention.dense")
    mlp = ("mlp.dense_h_to_4h", "fc1", "fc2", "mlp.gate_proj", "feed_forward.w1", "ffn.up_proj")
    sites = tuple(f"layers.0.{leaf}" for leaf in (*attention, *mlp))
    assert widths("components:4/8", sites) == [4] * len(attention) + [8] * len(mlp)


@pytest.mark.parametrize(
    ("spec", "law"),
    [
        ("strip84", "did you mean 'striped'"),
        ("striped8", "pattern striped takes 2 widths, like striped84: got 'striped8'"),
        ("striped:8/4/2", "takes 2 widths"),
        ("all", "pattern all takes 1 widths, like all8: got 'all'"),
        ("striped", "pattern striped takes 2 widths, like striped84: got 'striped'"),
        ("components:4/17", "from 2 to 16"),
        ("components:4/8/8", r"only where it is a site: got 8.*another head_mode than none"),
        ("thirds:4/4/4/4", "only where it is a site"),
        ("8x9999999", "run in a bitmap must read like 8x4"),
        ("8x", "run in a bitmap must read like 8x4"),
        ("²", "must read like"),
        ({"h.0.attn.c_attn": 8}, "47 missing"),
        ({"sites": [8]}, "sites must be an object"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused_with_the_law(spec, law):
    with pytest.raises(BadInputError, match=law):
        Bitmap.parse(spec, GPT2)


def test_a_component_that_is_neither_is_named():
    with pytest.raises(BadInputError, match="'layers.0.router' is neither"):
        Bitmap.parse("components:4/8", ["layers.0.router"])


def test_a_map_of_sites_is_read():
    assert Bitmap.parse(dict.fromkeys(SITES, "w4a8"), SITES) == Bitmap.uniform(SITES, "w4a8")


def test_weights_alone_may_be_named():
    assert LayerBits.parse("w4") == LayerBits(4, 32, 32)
    assert LayerBits.parse("w4kv8") == LayerBits(4, 32, 8)


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
    with pytest.raises(BadInputError, match="version must be from 1 to 3: got 4"):
        Bitmap.from_json({"version": 4, "sites": {}})


def test_replace_changes_only_what_is_named():
    changed = Bitmap.uniform(SITES, 8).replace({SITES[1]: "w4a8"})
    assert changed[SITES[1]] == LayerBits(4, 8)
    assert all(changed[site] == LayerBits.of(8) for site in SITES if site != SITES[1])
    with pytest.raises(BadInputError, match="no site"):
        changed.replace({"nowhere": 4})
