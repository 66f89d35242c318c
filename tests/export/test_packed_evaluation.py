"""``qalof evaluate`` takes a packed folder at its own bitmap, and scores it as the checkpoint it was made of."""

import json
import shutil
import sys

import pytest

import qalof
from orchestrate.cli.app import main
from qalof.checkpoint.opening import load, load_any, task_of
from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.export.packed_model import PackedModel
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.switchable import build

TASK = {"name": "squad-completion", "settings": {}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint on the shipped model, and the same packed at ``8,4,8,4`` or as many blocks as there are."""
    place = tmp_path_factory.mktemp("evaluated")
    model = build(BaseModel("tiny", HeadKind.CAUSAL_LM), {"4": AdapterSpec(4, 8), "8": AdapterSpec(4, 8)}).eval()
    qalof.save(model, place / "c", {"task": TASK})
    save_packed(model, "striped84", place / "p", load_tokenizer("tiny"), {"task": TASK})
    return place


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


def test_a_packed_model_scores_as_its_checkpoint(folders):
    model, packed = load(folders / "c"), load_any(folders / "p")
    assert isinstance(packed, PackedModel)
    assert [site.name for site in packed.sites] == list(model.site_names)
    model.set_bitmap("striped84")
    scores = [
        task_of(folder).evaluate(each, limit=6) for folder, each in ((folders / "c", model), (folders / "p", packed))
    ]
    assert scores[0].to_json() == scores[1].to_json()


def test_it_needs_neither_checkpoint_nor_base(folders, tmp_path):
    alone = shutil.copytree(folders / "p", tmp_path / "p")
    layout = json.loads((alone / "packed.json").read_text())
    assert layout["base"]["source"] == "tiny"
    assert task_of(alone).fingerprint() == task_of(folders / "c").fingerprint()


def test_another_bitmap_is_refused_and_the_own_one_taken(folders):
    packed = load_any(folders / "p")
    assert packed.set_bitmap("striped84") == packed.bitmap
    with pytest.raises(BadInputError, match="runs at the bitmap it was packed at"):
        packed.set_bitmap(8)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("evaluate", "--bitmap", "8"), "packed at"),
        (("evaluate", "--bitmap", "striped84,8,8"), "84,8,8"),
        (("sensitivity",), "only `qalof evaluate` takes it"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folders, tmp_path, monkeypatch, capsys, words, part):
    place = ("--checkpoint", folders / "p", "--output", tmp_path / "o")
    code, _, error = command(monkeypatch, capsys, *words, *place)
    assert code == 2
    assert part in error
    assert "Traceback" not in error


@pytest.mark.ray
def test_the_command_evaluates_a_packed_folder(ray_session, folders, tmp_path, monkeypatch, capsys):
    words = (
        "evaluate",
        "--checkpoint",
        folders / "p",
        "--output",
        tmp_path / "o",
        "--json",
        "limit=4",
        "workers.count=1",
    )
    code, out, error = command(monkeypatch, capsys, *words)
    assert code == 0, error
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [row["bitmap"] for row in rows] == [str(load_any(folders / "p").bitmap)]
