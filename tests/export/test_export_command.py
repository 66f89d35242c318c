"""``qalof export`` writes a packed folder or GGUF; bad input is one line and exit code 2."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig

import qalof
from orchestrate.cli.app import main
from qalof.checkpoint import opening as checkpoints
from qalof.cost import cost_of
from qalof.export.gguf_file import gguf_values, read_gguf
from qalof.export.gguf_tensors import tensor_bytes
from qalof.export.packed_load import load_packed, read_layout
from qalof.files import open_sealed
from qalof.model.pretrained import load_tokenizer
from qalof.model.settings import SwitchSettings

EXACT = ("--embedding-bits", "none")


@pytest.fixture(scope="module")
def checkpoint(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    qalof.save(make(), folder, {"note": 1})
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
    words = ("--checkpoint", checkpoint, "--bitmap", "8,w4a8", "--output", tmp_path / "p", *EXACT, "--json")
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
        ({"--format": "onnx"}, "packed, gguf, gguf-lora, compressed-tensors"),
        ({"--format": "compressed-tensors", "--bitmap": "w8a32kv32"}, "Conv1D"),
        ({"--format": "compressed-tensors", "--embedding-bits": "8"}, "must be none for compressed-tensors"),
        ({"--format": "compressed-tensors", "--output": "."}, "must be new"),
        ({"--embedding-bits": "some"}, "none or a width"),
        ({"--embedding-bits": "17"}, "17"),
        ({"--float-type": "float8"}, "float32, float16, bfloat16"),
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
    qalof.save(
        make(SwitchSettings(merge="merge_then_quantize", quantization={"weight": {"quantizer": {"method": "gguf"}}})),
        folder,
        {},
    )
    return folder


@pytest.mark.parametrize(("bitmap", "kind"), [("w4a32kv32", "Q4_0"), ("w8a32kv32", "Q8_0")])
def test_a_checkpoint_becomes_a_gguf_file_at_each_width(call, exact, tmp_path, bitmap, kind):
    path = tmp_path / "m.gguf"
    words = ("--checkpoint", exact, "--bitmap", bitmap, "--output", path, "--format", "gguf", *EXACT)
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


def test_an_export_rounds_the_embedding_to_eight_bits_says_so_and_what_it_writes_runs_with_it(
    call, checkpoint, tokens, tmp_path
):
    words = ("--checkpoint", checkpoint, "--bitmap", "w4a8", "--output", tmp_path / "p", "--float-type", "float16")
    result = json.loads(call(*words, "--json")[1].splitlines()[-1])
    assert result["embedding"] == {"bits": 8, "sites": ["wte"], "largest_difference": pytest.approx(0, abs=0.01)}
    assert result["embedding"]["largest_difference"] > 0
    assert result["total_bytes"] == result["predicted_total_bytes"]
    said = call(*words)[1]
    assert "wte rounded to 8 bits" in said
    assert all(len(line) <= 80 for line in said.splitlines()[1:]), "a line of text fits; a path stays whole"
    plain, packed = checkpoints.load(checkpoint), load_packed(tmp_path / "p")
    scheme = plain.settings.quantization.embedding.quantizer
    table = plain.model.get_input_embeddings().weight
    assert torch.equal(packed.get_input_embeddings().weight, scheme.fake_quantize(table.detach(), 8))
    with torch.no_grad():
        table.copy_(scheme.fake_quantize(table.detach(), 8))
        for path, parameter in plain.model.named_parameters():
            if parameter.dim() == 1 or "wpe" in path:
                parameter.copy_(parameter.half().float())
        plain.set_bitmap("w4a8")
        assert torch.equal(packed(tokens).logits, plain(tokens).logits)


def test_an_embedding_with_a_width_takes_it_from_the_bitmap(call, make, tmp_path):
    qalof.save(make(SwitchSettings(embedding="site")), tmp_path / "c")
    words = ("--checkpoint", tmp_path / "c", "--bitmap", "w4a8", "--output", tmp_path / "p")
    result = json.loads(call(*words, "--json")[1].splitlines()[-1])
    assert result["embedding"]["bits"] is None
    assert read_layout(tmp_path / "p")["bitmap"]["sites"]["wte"]["weight"] == 4
    code, _, error = call(*words, "--embedding-bits", "8")
    assert (code, error.count("\n")) == (2, 1)
    assert "name the width in the bitmap" in error


@pytest.mark.parametrize(("bits", "kind"), [(None, "Q8_0"), ("4", "Q4_0"), ("16", "F16"), ("none", "BF16")])
def test_a_gguf_file_holds_the_embedding_at_its_width_in_the_predicted_bytes(call, exact, tmp_path, bits, kind):
    path = tmp_path / "m.gguf"
    words = ("--checkpoint", exact, "--bitmap", "w4a32kv32", "--output", path, "--format", "gguf", "--json")
    extra = (() if bits is None else ("--embedding-bits", bits), ("--float-type", "bfloat16"))
    code, out, error = call(*words, *extra[0], *extra[1])
    assert code == 0, error
    result = json.loads(out.splitlines()[-1])
    assert result["exact_weights"]
    assert result["types"][kind] == (9 if kind == "Q4_0" else 1)
    assert result["tensor_bytes"] == result["predicted_tensor_bytes"]
    assert path.stat().st_size == result["tensor_bytes"] + result["header_bytes"]
    model = checkpoints.load(exact)
    table = model.model.get_input_embeddings().weight.detach()
    error = (read_gguf(path)["token_embd.weight"] - table).abs().max()
    assert error == (result["embedding"]["largest_difference"] if bits != "none" else error)
    assert 0 < error < (0.3 if kind == "Q4_0" else 0.02)
    # the sites' tensors take what the cost model says of this quantizer
    sizes = {name: tensor_bytes("Q4_0", tensor.numel()) for name, tensor in read_gguf(path).items()}
    blocks = [name for name in sizes if name.startswith("blk.") and read_gguf(path)[name].dim() == 2]
    assert sum(sizes[name] for name in blocks) == cost_of(model.set_bitmap("w4a32kv32"), model.sites).weight_bytes


def test_a_checkpoint_becomes_a_folder_that_transformers_opens(call, make, random_model, tokens, tmp_path):
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    load_tokenizer(random_model).save_pretrained(tmp_path / "base")
    config = LlamaConfig(
        vocab_size=1544, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    settings = SwitchSettings(merge="merge_then_quantize", quantization={"weight": {"quantizer": {"method": "gguf"}}})
    qalof.save(make(settings, source=str(tmp_path / "base")), tmp_path / "c", {})
    bitmap = ",".join(["w5a32kv32", "w4a32kv32"] * 3 + ["w32"])
    words = ("--checkpoint", tmp_path / "c", "--bitmap", bitmap, "--output", tmp_path / "f", "--format",
             "compressed-tensors")  # fmt: skip
    code, out, error = call(*words, "--json")
    assert code == 0, error
    result = json.loads(out.splitlines()[-1])
    assert (result["exact_weights"], result["differing_sites"], result["oldest_reader"]) == (True, [], "0.18")
    assert result["groups"] == {"4 bits in groups of 32": 3, "5 bits in groups of 32": 3}
    assert result["file_bytes"] > result["tensor_bytes"]
    said = call(*words)[1]
    assert "bit for bit" in said
    assert "compressed-tensors 0.18 or later" in " ".join(said.split())
    model, theirs = checkpoints.load(tmp_path / "c"), AutoModelForCausalLM.from_pretrained(tmp_path / "f")
    model.set_bitmap(bitmap)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(tokens).logits, model(tokens).logits)


FAMILIES = {
    "scaled": GemmaConfig(
        vocab_size=1544, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    ),
    "narrow": GPT2Config(vocab_size=1544, n_positions=32, n_embd=48, n_layer=1, n_head=2, bos_token_id=0,
                         eos_token_id=0),
}  # fmt: skip
"""Models whose embedding is scaled, and whose rows are no whole blocks of a GGUF file."""


@pytest.mark.parametrize(
    ("family", "form", "bits"),
    [
        ("scaled", "packed", None), ("scaled", "gguf", "4"), ("scaled", "gguf-lora", None), ("narrow", "gguf", None),
        ("narrow", "gguf-lora", "5"), ("narrow", "gguf", "3"),
    ],
)  # fmt: skip
def test_an_embedding_that_an_export_cannot_round_is_refused_with_the_option_that_leaves_it_alone(
    call, make, random_model, tmp_path, family, form, bits
):
    load_tokenizer(random_model).save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(tmp_path / "base")
    qalof.save(make(source=str(tmp_path / "base")), tmp_path / "c", {})
    output = tmp_path / ("m.gguf" if form == "gguf" else "m")
    words = ["--checkpoint", tmp_path / "c", "--bitmap", "32", "--output", output, "--format", form]
    code, _, error = call(*words, *([] if bits is None else ["--embedding-bits", bits]))
    assert code == 2
    assert "; --embedding-bits none leaves it as it is" in error
    assert not output.exists()
    if (family, form) in (("scaled", "packed"), ("narrow", "gguf")):
        assert call(*words, *EXACT)[0] == 0
