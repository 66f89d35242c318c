"""Every command that takes a bitmap takes one with group sizes."""

import json

import pytest
import yaml

from qalof.bitmap import Bitmap

HERE = ["workers.count=1", "workers.in_process=true"]
FORM = "w4g16a8kv8"
SPACE = {
    "weight": [4, "4g32", "4g16", 8],
    "activation": [8],
    "kv": [8],
    "group": "component",
    "menus": {"h.1.mlp.*": {"weight": [8, "8g32"]}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, since making MLflow's tables takes longer than any of them."""
    return tmp_path_factory.mktemp("groups")


@pytest.fixture
def call(monkeypatch, json_of, place):
    monkeypatch.chdir(place)
    return json_of


def test_evaluate(call, lm_checkpoint):
    rows = call("evaluate", "--checkpoint", lm_checkpoint, f"bitmaps=[{FORM}, w4a8kv8]", "limit=2", *HERE)["rows"]
    assert [row["bitmap"] for row in rows] == [FORM, "w4a8kv8"]
    assert rows[0]["cost"]["weight_bytes"] > rows[1]["cost"]["weight_bytes"]
    assert rows[0]["summary"].startswith("4 bits in groups of 16")


def test_sensitivity(call, lm_checkpoint):
    words = ["score=fisher", "weight=[4, 4g16]", "limit=2"]
    found = call("sensitivity", "--checkpoint", lm_checkpoint, *words, *HERE)
    assert "4g16" in json.dumps(found)


def test_ptq(call, place, lm_checkpoint):
    methods = [{"name": "rtn"}, {"name": "gptq", "kind": "gptq"}]
    config = {"command": "ptq", "checkpoint": str(lm_checkpoint), "bitmaps": ["w4g16a32"], "limit": 2,
              "calibration": {"examples": 4}, "methods": methods,
              "workers": {"count": 1, "threads": 1, "in_process": True}}  # fmt: skip
    (place / "ptq.yaml").write_text(yaml.safe_dump(config))
    rows = call("ptq", "--config", place / "ptq.yaml")["rows"]
    assert [row["bitmap"] for row in rows] == ["w4g16a32", "w4g16a32"]
    assert rows[0]["metrics"] != rows[1]["metrics"], "the codes of GPTQ run at this choice"


def test_profile(call, lm_checkpoint):
    found = call(
        "profile", "--checkpoint", lm_checkpoint, f"bitmaps=[{FORM}]", "repeats=1", "tokens=16", "new_tokens=2", *HERE
    )
    assert FORM in json.dumps(found)


def test_export(call, place, lm_checkpoint):
    folder = place / "packed"
    call("export", "--checkpoint", lm_checkpoint, "--bitmap", FORM, "--output", folder)
    layout = json.loads((folder / "packed.json").read_text())
    assert {bits.group_size for name, bits in Bitmap.from_json(layout["bitmap"]).items() if name.startswith("h.")} == {
        16
    }


def test_a_search_over_group_sizes_keeps_its_limit_and_writes_what_every_command_reads(call, span_checkpoint, place):
    small = ["limit=2", "max_evaluations=6", "strategy=random", "limits.weight_bytes=20000", *HERE]
    spaces = [f"space.{key}={json.dumps(value)}" for key, value in SPACE.items()]
    found = call("search", "--checkpoint", span_checkpoint, *small, *spaces, "--output", place / "out")
    assert found["evaluations"] == 6
    assert all(row["weight_bytes"] <= 20000 for row in found["front"])
    points = json.loads((place / "out" / "front.json").read_text())["points"]
    bitmaps = [Bitmap.from_json(point["bitmap"]) for point in points]
    assert {bits.group_size for bitmap in bitmaps for bits in bitmap.values()} == {None, 16, 32}
    assert all(bitmap["h.1.mlp.c_fc"].weight == 8 for bitmap in bitmaps)
    chosen = f"{place / 'out' / 'front.json'}#{bitmaps[-1].id}"
    picture = place / "bitmap.png"
    told = call("bitmap", chosen, "--checkpoint", span_checkpoint, "--picture", picture)
    assert told["bitmap"] == str(bitmaps[-1])
    assert picture.is_file()
