"""Bitmaps have short ids and one-line summaries, and every file of a run gives them back."""

import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qalof.bitmap import Bitmap
from qalof.bitmap_file import file_of, names_file
from qalof.bitmap_names import SHORT, bitmap_id, is_id, short_name, summary
from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj")  # fmt: skip


@dataclass(frozen=True)
class Layer:
    name: str
    weights: int
    kv_features: int


def layers(blocks):
    return [
        Layer(
            f"layers.{block}.{kind}", 576 * (1536 if "mlp" in kind else 576), 192 * (kind[10:] in ("k_proj", "v_proj"))
        )
        for block in range(blocks)
        for kind in KINDS
    ]


def mixed(blocks, seed=0, widths=("w4a8kv8", "w6a8kv8", "w8a8kv4")):
    names = [layer.name for layer in layers(blocks)]
    return Bitmap({name: LayerBits.parse(widths[(7 * at + seed) % 11 % len(widths)]) for at, name in enumerate(names)})


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_an_id_is_six_characters_that_depend_on_the_widths_alone(blocks, seed):
    bitmap = mixed(blocks, seed)
    assert is_id(bitmap.id)
    assert bitmap.id == Bitmap.from_json(json.loads(json.dumps(bitmap.to_json()))).id == bitmap_id(str(bitmap))
    assert not bitmap.id.isdigit()


def test_ids_are_the_same_in_every_release():
    assert bitmap_id("8x12,4x4") == "ogo666"


def test_different_bitmaps_have_different_ids():
    names = [layer.name for layer in layers(30)]
    uniform = Bitmap.uniform(names, 8)
    found = {uniform.replace({name: bits}).id for name in names for bits in range(2, 8)}
    assert len(found) == 6 * len(names)


@pytest.mark.parametrize("text", ["4", "32", "w4a8kv8", "8x2,4x2"])
def test_a_short_text_is_its_own_name(text):
    assert short_name(text) == text


def test_a_long_bitmap_is_named_by_its_id():
    bitmap = mixed(30)
    assert len(str(bitmap)) > SHORT
    assert short_name(bitmap) == f"#{bitmap.id}" == short_name(str(bitmap))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("4", "4 bits"),
        ("w4a8kv8", "4 bits; activations at 8; KV at 8"),
        ("w4a4kv8", "4 bits; KV at 8"),
        ("w4", "4 bits; activations at 32; KV at 32"),
    ],
)
def test_a_uniform_bitmap_is_summarized_by_its_widths(form, said):
    sites = layers(3)
    assert summary(Bitmap.uniform([site.name for site in sites], form), sites) == said


def test_a_summary_weighs_widths_by_weights_inputs_by_sites_and_the_cache_by_features():
    sites = layers(2)
    names = [site.name for site in sites]
    bitmap = Bitmap.uniform(names, "w6a8kv8").replace(
        {name: "w4a8kv8" for name in names if "mlp" in name} | {name: "w6a16kv4" for name in names if "k_proj" in name}
    )
    assert summary(bitmap, sites) == (
        "4.67 bits: 67 % of weights at 4, 33 % at 6; activations 86 % of sites at 8, 14 % at 16; "
        "KV 50 % of it at 4, 50 % at 8"
    )
    assert summary(bitmap).startswith("5.14 bits: 43 % of sites at 4, 57 % at 6; activations 86 % of sites")


def test_a_summary_is_one_line_of_bounded_length_at_any_size():
    for blocks in (1, 30, 286):
        sites = layers(blocks)
        bitmap = Bitmap({s.name: LayerBits(2 + i % 15, 2 + i % 13, 2 + i % 11) for i, s in enumerate(sites)})
        assert len(summary(bitmap, sites)) < 260
        assert "\n" not in summary(bitmap, sites)


def test_what_is_no_bitmap_keeps_its_name():
    for text in ("a drawn bitmap of 4 to 8 bits", "one bitmap in three", ""):
        assert short_name(text) == text


# --- files ---


def front(bitmaps, chosen):
    return {"version": 2, "front": chosen, "points": [{"bitmap": bitmap.to_json()} for bitmap in bitmaps]}


def written(folder, name, content):
    path = folder / name
    lines = content if name.endswith("l") else [content]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


BITMAPS = [mixed(4, seed) for seed in range(1, 5)]
SITES = BITMAPS[0].sites
FILES = {
    "front.json": front(BITMAPS, [0, 1, 2, 3]),
    "search.jsonl": [{"bitmap": one.to_json(), "evaluation": {}} for one in BITMAPS],
    "evaluations.json": [{"bitmap": one.to_json(), "evaluation": {}} for one in BITMAPS],
    "evaluations.jsonl": [{"bitmap": one.to_json(), "evaluation": {}} for one in BITMAPS],
    "result.json": {"rows": [{"bitmap": str(one), "metrics": {}} for one in BITMAPS], "task": "squad-span"},
    "search/result.json": {"front": [{"bitmap": str(one), "f1": 1.0} for one in BITMAPS], "evaluations": 4},
    "attack/result.json": {"robustness": {"bitmaps": [str(one) for one in BITMAPS]}},
    "bitmaps.json": [one.to_json() for one in BITMAPS],
    "texts.json": [str(one) for one in BITMAPS],
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_run_gives_its_bitmaps_back_by_id_and_by_position(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = written(tmp_path, name, FILES[name])
    for number, bitmap in enumerate(BITMAPS, start=1):
        assert Bitmap.parse(f"{path}#{bitmap.id}", SITES) == bitmap
        assert Bitmap.parse(f"{path}#{number}", SITES) == bitmap
    for wrong in ("0", "5", "-1", "zzzzzz", "x", "1.0"):
        with pytest.raises(BadInputError, match=rf"{re.escape(path)}"):
            Bitmap.parse(f"{path}#{wrong}", SITES)
    with pytest.raises(BadInputError, match=rf"holds 4 bitmaps: choose one, such as .*#{BITMAPS[0].id}"):
        Bitmap.parse(path, SITES)


def test_positions_of_a_search_are_rows_of_its_front_and_ids_all_that_was_evaluated(tmp_path):
    path = written(tmp_path, "front.json", front(BITMAPS, [2, 0]))
    assert Bitmap.parse(f"{path}#1", SITES) == BITMAPS[2]
    assert Bitmap.parse(f"{path}#{BITMAPS[3].id}", SITES) == BITMAPS[3]


@pytest.mark.parametrize("content", [BITMAPS[0].to_json(), dict.fromkeys(SITES, 4), {"bitmap": BITMAPS[0].to_json()}])
def test_a_file_with_one_bitmap_needs_no_choice(tmp_path, content):
    path = written(tmp_path, "own.json", content)
    expected = BITMAPS[0] if "version" in json.dumps(content) else Bitmap.uniform(SITES, 4)
    assert Bitmap.parse(path, SITES) == expected
    assert Bitmap.parse(f"{path}#1", SITES) == expected
    assert Bitmap.parse(f"{path}#{expected.id}", SITES) == expected


@pytest.mark.parametrize("content", [[], {}, {"rows": []}, {"loss": [1, 2]}, 3, "text", {"front": [], "points": []}])
def test_a_file_without_a_bitmap_is_refused_by_name(tmp_path, content):
    path = written(tmp_path, "other.json", content)
    with pytest.raises(BadInputError, match=rf"{re.escape(path)} must hold a bitmap|sites must|object"):
        Bitmap.parse(path, SITES)


def test_a_bitmap_of_another_model_is_refused(tmp_path):
    path = written(tmp_path, "front.json", front(BITMAPS, [0]))
    with pytest.raises(BadInputError, match="the model has no site"):
        Bitmap.parse(f"{path}#1", ["h.0.attn.c_attn"])


def test_a_hash_within_a_file_name_belongs_to_the_name(tmp_path):
    path = written(tmp_path, "run#2.json", BITMAPS[0].to_json())
    assert Bitmap.parse(path, SITES) == BITMAPS[0]
    assert Bitmap.parse(f"{path}#1", SITES) == BITMAPS[0]
    assert str(file_of(f"{path}#1")) == path
    assert names_file(path)
    assert not names_file("striped84")


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "front.json", front(BITMAPS, [0]))
    assert Bitmap.parse("~/front.json#1", SITES) == BITMAPS[0]
