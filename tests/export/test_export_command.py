"""``qalof export`` writes a packed folder; bad input is one line and exit code 2."""

import json
import sys

import pytest
import torch

from orchestrate.cli import main
from qalof import checkpoints
from qalof.export.packed_load import load_packed, read_layout


@pytest.fixture(scope="module")
def checkpoint(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    make().save(folder, {"note": 1})
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    """Run ``qalof export``; returns exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["qalof", "export", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_checkpoint_becomes_a_packed_model(call, checkpoint, tokens, tmp_path):
    words = ("--checkpoint", checkpoint, "--bitmap", "8,w4a8", "--output", tmp_path / "p", "--json")
    code, out, error = call(*words)
    assert code == 0, error
    result = json.loads(out.splitlines()[-1])
    assert result["weight_bytes"] == read_layout(tmp_path / "p")["bytes"]["weight_bytes"]
    assert read_layout(tmp_path / "p")["extra"] == {"note": 1}
    model = checkpoints.load(checkpoint)
    model.set_bitmap("8,w4a8")
    with torch.no_grad():
        assert torch.equal(load_packed(tmp_path / "p")(tokens).logits, model(tokens).logits)
    assert call(*words[:-1])[1].count("bytes") == 4


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ({"--checkpoint": "/no/such/checkpoint"}, "/no/such/checkpoint"),
        ({"--bitmap": "17"}, "17"),
        ({"--bitmap": "8,8,8"}, "3"),
        ({"--output": "."}, "must be new"),
        ({"--bitmap": None}, "--bitmap"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(call, checkpoint, tmp_path, monkeypatch, words, part):
    monkeypatch.chdir(tmp_path)
    asked = {"--checkpoint": checkpoint, "--bitmap": "8", "--output": tmp_path / "p"} | words
    code, _, error = call(*(word for pair in asked.items() if pair[1] is not None for word in pair))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert part in error
    assert not (tmp_path / "p").exists()
