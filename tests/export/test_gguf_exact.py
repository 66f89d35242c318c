"""Trained with GGUF's own blocks and merged before rounding, a model loses nothing in the file: not one bit."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from qalof.errors import BadInputError
from qalof.export.gguf_file import read_gguf, write_gguf, write_gguf_lora
from qalof.export.gguf_tensors import departures
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed
from qalof.model.pretrained import load_tokenizer
from qalof.model.settings import SwitchSettings

gguf = pytest.importorskip("gguf")
SCHEME = {"weight": {"quantizer": {"method": "gguf"}, "by_width": {"16": {"method": "float16"}}}}
AFFINE = {"weight": {"quantizer": {"method": "gguf_affine"}}}
MERGED = {"merge": "merge_then_quantize", "quantization": SCHEME}
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
GPT2_ORDER = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
LLAMA_ORDER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = (("attn", 1), ("ffn", 2))
KEPT = "w{}a32kv32"


def bitmap_of(*widths):
    return ",".join(KEPT.format(width) for width in widths)


@pytest.fixture(scope="module")
def tokenizer(random_model):
    return load_tokenizer(random_model)


@pytest.fixture
def family(tmp_path, tokenizer):
    """``family(config)``: a folder with a random model of that family, its biases and norms drawn too."""

    def of(config):
        torch.manual_seed(0)
        config.vocab_size = len(tokenizer)
        plain = AutoModelForCausalLM.from_config(config)
        for parameter in plain.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        plain.save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return of


def train(model, bitmaps, tokens, steps=2):
    optimizer = torch.optim.AdamW([p for group in model.trainable_groups().values() for p in group.values()], lr=0.01)
    model.train()
    for _ in range(steps):
        for bitmap in bitmaps:
            model.set_bitmap(bitmap)
            model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def multiplied(model, bitmap, tokens, monkeypatch):
    """Every weight that a forward pass multiplies by, in order."""
    seen = []
    with monkeypatch.context() as patch, torch.no_grad():
        original = functional.linear
        patch.setattr(
            functional, "linear", lambda x, w, b=None: (seen.append(w.detach().clone()), original(x, w, b))[1]
        )
        model.set_bitmap(bitmap)
        model(tokens)
    return seen


def unrounded(model):
    """Tensors of a GPT-2 that are no sites' weights, norms those of the active width, by GGUF's names."""
    base = model.model.transformer
    tensors = {"token_embd.weight": base.wte.weight, "position_embd.weight": base.wpe.weight}
    norms = {"output_norm": "ln_f"} | {f"blk.{i}.{g}_norm": f"h.{i}.ln_{n}" for i in (0, 1) for g, n in NORMS}
    for name, path in norms.items():
        norm = base.get_submodule(path)
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] = getattr(norm.norm if norm.active is None else norm.copies[norm.active], part)
    for block in (0, 1):
        for name, path in zip(GPT2_ORDER, ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), strict=True):
            tensors[f"blk.{block}.{name}.bias"] = base.get_submodule(f"h.{block}.{path}").base_layer.bias
    return tensors


def bits(tensor):
    return np.ascontiguousarray(tensor.numpy()).view(np.int32)


def interleaved(weight, heads):
    """Rows as llama.cpp's converter orders them."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


@pytest.mark.parametrize(
    ("scheme", "widths"), [(SCHEME, (4,) * 9), (SCHEME, (8,) * 9), (SCHEME, (5, 8, 16, 32, 4, 4, 8, 5, 8)),
                           (AFFINE, (4, 5) * 4 + (32,))],
)  # fmt: skip
def test_every_tensor_of_a_trained_gpt2_is_what_the_model_computes_with(
    make, tokenizer, tokens, tmp_path, monkeypatch, scheme, widths
):
    model = make(
        SwitchSettings(merge="merge_then_quantize", quantization=scheme, head_mode="untied", norms="per_width")
    )
    bitmap = bitmap_of(*widths)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name}
    train(model, [bitmap], tokens)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    write_gguf(model, bitmap, tmp_path / "m.gguf", tokenizer)
    found, used = read_gguf(tmp_path / "m.gguf"), multiplied(model, bitmap, tokens, monkeypatch)
    names = [f"blk.{block}.{short}.weight" for block in range(2) for short in GPT2_ORDER] + ["output.weight"]
    for name, weight in zip(names, used, strict=True):
        assert np.array_equal(bits(found.pop(name)), bits(weight)), name
    expected = unrounded(model)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(bits(found[name]), bits(tensor.detach())), name
    assert departures(model, bitmap) == {}


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZES), LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
               Qwen2Config(**SIZES, tie_word_embeddings=True)], ids=["llama", "llama with biases", "qwen2"],
)  # fmt: skip
def test_llama_and_qwen2_too_with_rows_in_the_order_of_the_file(
    make, family, tokenizer, tokens, tmp_path, monkeypatch, config
):
    model = make(SwitchSettings(**MERGED), source=family(config))
    bitmap = bitmap_of(*(4, 8) * 7)
    train(model, [bitmap], tokens, steps=1)
    write_gguf(model, bitmap, tmp_path / "m.gguf", tokenizer)
    found, used = read_gguf(tmp_path / "m.gguf"), multiplied(model, bitmap, tokens, monkeypatch)
    heads = {"attn_q": 4, "attn_k": 2} if config.model_type == "llama" else {}
    names = [f"blk.{block}.{short}" for block in range(2) for short in LLAMA_ORDER]
    for name, weight in zip(names, used[:-1], strict=True):
        short = name.rpartition(".")[2]
        expected = interleaved(weight, heads[short]) if short in heads else weight
        assert np.array_equal(bits(found[f"{name}.weight"]), bits(expected)), name
    assert ("output.weight" in found) != config.tie_word_embeddings
    if getattr(config, "attention_bias", False):
        bias = model.model.model.layers[0].self_attn.k_proj.base_layer.bias.detach()
        assert torch.equal(found["blk.0.attn_k.bias"], interleaved(bias, 2))
    assert departures(model, bitmap) == {}


def test_a_packed_model_of_these_blocks_is_exact_as_well(make, tokens, tmp_path):
    model = make(SwitchSettings(**MERGED))
    save_packed(model, bitmap_of(*(4, 5, 8, 16) * 2), tmp_path / "p")
    model.set_bitmap(bitmap_of(*(4, 5, 8, 16) * 2))
    with torch.no_grad():
        assert torch.equal(load_packed(tmp_path / "p")(tokens).logits, model(tokens).logits)


def test_what_the_file_does_not_hold_exactly_is_said(make):
    merged = make(SwitchSettings(merge="merge_then_quantize"))
    assert set(departures(merged, 8)) == {site.name for site in merged.sites}
    assert departures(merged, 32) == {}
    added = make(SwitchSettings(quantization=SCHEME))
    assert len(departures(added, 4)) == len(added.sites)
    assert departures(added, 4, merge=False) == {}
    half = make(SwitchSettings(merge="merge_then_quantize", quantization={"weight": {"quantizer": {"method": "gguf"}}}))
    with pytest.raises(BadInputError, match="has 4, 5, 8 bits: got 16"):
        departures(half, 16)


def test_adapters_beside_a_base_are_those_of_the_model(make, tokenizer, tmp_path):
    model = make(SwitchSettings(quantization=SCHEME))
    write_gguf_lora(model, bitmap_of(*(4, 8) * 4), tmp_path, tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {
        "base.gguf", "lora-4.gguf", "lora-8.gguf", "lora-active.gguf"
    }  # fmt: skip
    for name, site, alpha in (("4", "blk.0.ffn_up", 8), ("8", "blk.0.ffn_up", 4), ("active", "blk.1.ffn_up", 8)):
        reader = gguf.GGUFReader(tmp_path / f"lora-{name}.gguf")
        assert reader.fields["adapter.lora.alpha"].contents() == alpha
        assert reader.fields["general.type"].contents() == "adapter"
        found = {tensor.name: tensor.data for tensor in reader.tensors}
        assert len(found) == 2 * len(model.sites)
        index = int(site[4])
        layer = model.model.transformer.h[index].mlp.c_fc
        a, b, scaling = layer.factors("4" if name == "active" else name)
        assert np.array_equal(found[f"{site}.weight.lora_a"], a.detach().numpy())
        assert np.array_equal(found[f"{site}.weight.lora_b"], b.detach().numpy())
        assert scaling == alpha / len(a)
    layer = model.model.transformer.h[0].attn.c_attn  # runs adapter 4; attn.c_proj runs 8, whose alpha is half
    product = found["blk.0.attn_output.weight.lora_b"] @ found["blk.0.attn_output.weight.lora_a"] * (8 / 2)
    a, b, scaling = model.model.transformer.h[0].attn.c_proj.factors("8")
    assert np.allclose(product, (scaling * (b @ a)).detach().numpy(), atol=1e-6)


def test_a_model_without_adapters_has_no_adapter_files(make, tokenizer, tmp_path):
    with pytest.raises(BadInputError, match="take gguf"):
        write_gguf_lora(make(adapters=False), 8, tmp_path / "f", tokenizer)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (LlamaConfig(**SIZES, hidden_act="gelu"), "silu"),
        (LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "rotary"),
        (LlamaConfig(**SIZES, head_dim=32), "head_dim 32"),
        (Qwen2Config(**SIZES, use_sliding_window=True), "use_sliding_window"),
    ],
)
def test_what_a_file_cannot_say_of_a_family_is_refused(make, family, tokenizer, tmp_path, config, part):
    model = make(source=family(config))
    with pytest.raises(BadInputError, match=part):
        write_gguf(model, 8, tmp_path / "m.gguf", tokenizer)
    assert not (tmp_path / "m.gguf").exists()


def test_a_file_of_something_else_is_not_replaced(make, tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInputError, match="must be new"):
        write_gguf(make(), 8, tmp_path / "thesis.txt", tokenizer)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
