"""A bitmap of any size is a line, a map in the terminal and a picture."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrate.cli.app import app
from orchestrate.cli.bitmap_view import find_bitmap, terminal_map, write_picture
from qalof.bitmap import Bitmap
from qalof.bitmap_map import block_map, maps_worth_showing
from qalof.errors import BadInputError
from qalof.layer_bits import WIDTHS, LayerBits
from search.bitmap_plot import color_of, ink_on, thinned

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj")


def large(blocks, forms=("w4a8kv8", "w6a8kv8", "w3a16kv4")):
    names = [f"layers.{block}.{kind}" for block in range(blocks) for kind in KINDS] + ["lm_head"]
    return Bitmap({name: LayerBits.parse(forms[(at * 5) % 7 % len(forms)]) for at, name in enumerate(names)})


@pytest.mark.parametrize("blocks", [1, 30, 286])
def test_a_map_has_every_site_once_in_its_place(blocks):
    bitmap = large(blocks)
    found = block_map(bitmap)
    assert found.kinds == ("q_proj", "k_proj", "gate_proj", "down_proj", "lm_head")
    assert found.blocks == blocks
    assert found.widths[1] == tuple(bitmap[f"layers.{block}.{KINDS[1]}"].weight for block in range(blocks))
    assert found.widths[4] == (bitmap["lm_head"].weight, *(None,) * (blocks - 1))
    assert sum(bits is not None for row in found.widths for bits in row) == len(bitmap)


def test_kinds_that_share_their_last_part_keep_their_whole_path():
    bitmap = Bitmap.uniform(["h.0.attn.c_proj", "h.0.mlp.c_proj"], 4)
    assert block_map(bitmap).kinds == ("attn.c_proj", "mlp.c_proj")


def test_inputs_and_cache_are_shown_where_they_say_more_than_the_weights():
    assert maps_worth_showing(large(2)) == ["weight", "activation", "kv"]
    assert maps_worth_showing(large(2, ("w4a8", "w6a8"))) == ["weight"]
    assert maps_worth_showing(large(2, ("4", "6"))) == ["weight"]


@pytest.mark.parametrize("blocks", [1, 30, 286])
def test_a_terminal_of_80_columns_holds_the_map(blocks):
    bitmap = large(blocks)
    console = Console(file=io.StringIO(), width=80, color_system="truecolor", force_terminal=True)
    plain = [line.plain for line in terminal_map(bitmap, 80)]
    assert max(map(len, plain)) <= 80
    assert sum(len([w for w in line.split() if w.isdigit()]) for line in plain if "blocks" not in line) >= len(bitmap)
    for line in terminal_map(bitmap, 80):
        console.print(line, no_wrap=True)
    assert "\x1b[" in console.file.getvalue()


@pytest.mark.parametrize(("blocks", "parts"), [(12, [12]), (30, [15, 15]), (32, [16, 16]), (47, [16, 16, 15])])
def test_a_map_in_several_parts_is_cut_into_equal_ones(blocks, parts):
    titles = [line.plain for line in terminal_map(large(blocks, ("w4a8", "w6a8")), 80) if "blocks" in line.plain]
    ends = [tuple(map(int, title.split("blocks ")[1].split(" to "))) for title in titles]
    assert [last - first + 1 for first, last in ends] == parts


def test_every_width_has_a_color_of_its_own_on_which_text_can_be_read():
    colors = [color_of(bits) for bits in WIDTHS]
    assert len(set(colors)) == len(WIDTHS)
    brightness = [sum(color) for color in colors]
    assert brightness[0] == min(brightness), "fewest bits are darkest"
    assert {ink_on(bits) for bits in WIDTHS} == {"black", "white"}


def written(folder, bitmap):
    path = folder / "front.json"
    path.write_text(json.dumps({"points": [{"bitmap": bitmap.to_json()}], "front": [0]}))
    return path


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_command_shows_a_bitmap_of_a_file_and_draws_it(tmp_path, name, magic):
    bitmap = large(30)
    path = written(tmp_path, bitmap)
    said = CliRunner().invoke(app, ["bitmap", f"{path}#{bitmap.id}", "--picture", str(tmp_path / name)])
    assert said.exit_code == 0, said.output
    assert said.output.startswith(f"#{bitmap.id}: 4.27 bits: 29 % of sites at 3")
    assert max(map(len, said.output.splitlines())) <= 80
    assert (tmp_path / name).read_bytes().startswith(magic)
    told = CliRunner().invoke(app, ["bitmap", f"{path}#1", "--json"])
    assert json.loads(told.output)["id"] == bitmap.id


def test_a_text_alone_says_of_no_model_what_it_means(tmp_path):
    with pytest.raises(BadInputError, match="give its --checkpoint"):
        find_bitmap("striped84")
    with pytest.raises(BadInputError, match=r"must end in \.png or \.svg"):
        write_picture(large(1), "", tmp_path / "a.gif")


def test_many_panels_are_thinned_and_both_ends_kept():
    names = [str(n) for n in range(100)]
    kept = thinned(names)
    assert len(kept) == 12
    assert (kept[0], kept[-1]) == ("0", "99")
    assert thinned(names[:5]) == names[:5]
