"""A GGUF file holds exactly the values it should, by three readers: ours, the gguf package's and transformers'."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from qalof.errors import BadInputError
from qalof.export.gguf_file import gguf_values, read_gguf, write_gguf
from qalof.model.pretrained import load_tokenizer
from qalof.model.settings import SwitchSettings

gguf = pytest.importorskip("gguf")
MIXED = "8,4,16,32,4,8,32,16"


@pytest.fixture(scope="module")
def tokenizer(random_model):
    return load_tokenizer(random_model)


@pytest.fixture
def settings():
    return SwitchSettings(head_mode="tied_view")


def merged(model, bitmap, index, leaf):
    """A weight with its branch, read off the modules by hand."""
    model.set_bitmap(bitmap)
    layer = model.model.get_submodule(f"transformer.h.{index}.{leaf}")
    a, b, scaling = layer.factors(layer.active)
    return (layer.base_layer.weight + scaling * (b @ a)).detach()


@pytest.mark.parametrize("bitmap", [4, 8, 16, 32, MIXED])
def test_every_tensor_is_read_back_bit_for_bit(make, tokenizer, tmp_path, bitmap):
    model = make()
    types = write_gguf(model, bitmap, tmp_path / "m.gguf", tokenizer)
    expected, found = gguf_values(model, bitmap), read_gguf(tmp_path / "m.gguf")
    assert set(found) == set(expected) == set(types)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_gguf_package_reads_the_same_values_of_merged_weights(make, tokenizer, tmp_path):
    model = make()
    types = write_gguf(model, MIXED, tmp_path / "m.gguf", tokenizer)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kinds = ["Q8_0", "Q4_0", "F16", "F32", "Q4_0", "Q8_0", "F32", "F16"]
    leaves = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    places = [(index, leaf) for index in range(2) for leaf in leaves]
    for (index, leaf), kind in zip(places, kinds, strict=True):
        name = f"blk.{index}.{leaves[leaf]}.weight"
        assert types[name] == kind == tensors[name].tensor_type.name
        # the package's own quantizer, on weights merged here
        stored = gguf.quants.quantize(merged(model, MIXED, index, leaf).numpy(), gguf.GGMLQuantizationType[kind])
        assert np.array_equal(np.asarray(tensors[name].data), stored)


@pytest.mark.parametrize("bitmap", [8, MIXED])
def test_transformers_runs_the_file_as_a_model_with_these_weights(make, tokenizer, tokens, tmp_path, bitmap):
    model = make()
    write_gguf(model, bitmap, tmp_path / "m.gguf", tokenizer)
    plain = GPT2LMHeadModel.from_pretrained(model.base.source).eval()
    # transformers reads no n_positions from a file, and would take 1024: it is told the config
    options = {"gguf_file": "m.gguf", "config": plain.config, "dtype": torch.float32}
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path, **options).eval()
    names = {"attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    for name, tensor in gguf_values(model, bitmap).items():
        part = name.split(".")
        if part[0] == "blk" and part[2] in names and part[3] == "weight":
            plain.get_submodule(f"transformer.h.{part[1]}.{names[part[2]]}").weight.data = tensor.T.contiguous()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, plain(tokens).logits)


def test_the_header_says_what_a_reader_needs(make, tokenizer, tmp_path):
    write_gguf(make(), 4, tmp_path / "m.gguf", tokenizer)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    expected = {
        "general.architecture": "gpt2", "gpt2.block_count": 2, "gpt2.context_length": 128,
        "gpt2.embedding_length": 32, "gpt2.feed_forward_length": 128, "gpt2.attention.head_count": 2,
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_0, "tokenizer.ggml.model": "gpt2",
    }  # fmt: skip
    assert {name: fields[name].contents() for name in expected} == expected
    assert len(fields["tokenizer.ggml.tokens"].contents()) == len(tokenizer)


def test_a_head_of_its_own_width_is_a_tensor_of_its_own(make, settings, tokenizer, tmp_path):
    types = write_gguf(make(settings), "8x8,4", tmp_path / "m.gguf", tokenizer)
    assert (types["output.weight"], types["token_embd.weight"]) == ("Q4_0", "F32")
    assert "output.weight" not in write_gguf(make(), 8, tmp_path / "m.gguf", tokenizer)


def test_widths_and_models_without_a_type_are_refused(make, tokenizer, tmp_path):
    with pytest.raises(BadInputError, match="has 6"):
        write_gguf(make(), 6, tmp_path / "m.gguf", tokenizer)
    with pytest.raises(BadInputError, match="language-modeling head"):
        write_gguf(make(head="span"), 8, tmp_path / "m.gguf", tokenizer)
    assert not list(tmp_path.iterdir())
    (tmp_path / "m.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInputError, match="must be a GGUF file"):
        read_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_file_cut_short_is_refused(make, tokenizer, tmp_path, share):
    path = tmp_path / "m.gguf"
    write_gguf(make(), 8, path, tokenizer)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInputError, match="must be a GGUF file"):
        read_gguf(path)
