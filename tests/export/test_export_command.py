"""``qalof export`` writes a packed folder or GGUF; bad input is one line and exit code 2."""

import json
import sys

import pytest
import torch

from orchestrate.cli import main
from qalof import checkpoints
from qalof.export.gguf_file import gguf_values, read_gguf
from qalof.export.packed_load import load_packed, read_layout
from qalof.files import open_sealed
from qalof.model.settings import SwitchSettings


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
    assert result["total_bytes"] == result["predicted_total_bytes"]
    assert call(*words[:-1])[1].count("bytes") == 7


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ({"--checkpoint": "/no/such/checkpoint"}, "/no/such/checkpoint"),
        ({"--bitmap": "17"}, "17"),
        ({"--bitmap": "8,8,8"}, "3"),
        ({"--output": "."}, "must be new"),
        ({"--bitmap": None}, "--bitmap"),
        ({"--format": "onnx"}, "packed, gguf, gguf-lora"),
        ({"--format": "gguf"}, "NAME.gguf"),
        ({"--format": "gguf", "--output": "p.gguf", "--bitmap": "6"}, "Q4_0"),
        ({"--format": "gguf-lora", "--output": "."}, "must be new"),
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


@pytest.fixture(scope="module")
def exact(make, tmp_path_factory):
    """A checkpoint of GGUF's own blocks, merged before rounding."""
    folder = tmp_path_factory.mktemp("exact") / "c"
    make(SwitchSettings(merge="merge_then_quantize", quantization={"weight": {"quantizer": {"method": "gguf"}}})).save(
        folder, {}
    )
    return folder


@pytest.mark.parametrize(("bitmap", "kind"), [("w4a32kv32", "Q4_0"), ("w8a32kv32", "Q8_0")])
def test_a_checkpoint_becomes_a_gguf_file_at_each_width(call, exact, tmp_path, bitmap, kind):
    path = tmp_path / "m.gguf"
    words = ("--checkpoint", exact, "--bitmap", bitmap, "--output", path, "--format", "gguf")
    code, out, error = call(*words, "--json")
    assert code == 0, error
    result = json.loads(out.splitlines()[-1])
    assert result["exact_weights"]
    assert result["unquantized_inputs"]
    assert result["types"][kind] == 8
    assert result["files"] == {"m.gguf": path.stat().st_size}
    expected, found = gguf_values(checkpoints.load(exact), bitmap), read_gguf(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert "bit for bit" in call(*words)[1]


def test_a_file_that_departs_from_the_model_says_by_how_much(call, checkpoint, tmp_path):
    words = ("--checkpoint", checkpoint, "--bitmap", "8", "--output", tmp_path / "m.gguf", "--format", "gguf")
    result = json.loads(call(*words, "--json")[1].splitlines()[-1])
    assert not result["exact_weights"]
    assert not result["unquantized_inputs"]
    assert len(result["differing_sites"]) == 8
    assert result["largest_difference"] > 0
    assert "8 sites differ" in call(*words)[1]


def test_a_checkpoint_becomes_a_base_and_its_adapters(call, checkpoint, tmp_path):
    words = (
        "--checkpoint",
        checkpoint,
        "--bitmap",
        "w32,w4a32kv32",
        "--output",
        tmp_path / "f",
        "--format",
        "gguf-lora",
    )
    for _ in range(2):  # an older export is replaced
        code, out, error = call(*words, "--json")
        assert code == 0, error
    result = json.loads(out.splitlines()[-1])
    assert set(result["files"]) == {"base.gguf", "lora-4.gguf", "lora-8.gguf", "lora-active.gguf"}
    assert open_sealed(tmp_path / "f", "export", 1)["kind"] == "gguf-lora"
    plain = checkpoints.load(checkpoint).model.transformer.h[0].mlp.c_fc.base_layer.weight
    assert torch.equal(read_gguf(tmp_path / "f" / "base.gguf")["blk.0.ffn_up.weight"], plain)
