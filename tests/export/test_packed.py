"""A packed model computes what the fake-quantized one computes, in the bytes that were predicted."""

import json

import pytest
import torch
from safetensors.torch import load_file

from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.export.packed import PACKED_FILE, save_packed
from qalof.export.packed_load import load_packed, read_layout
from qalof.model.pretrained import HeadKind, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.quantization.scheme import QuantizationScheme

HALF = {"weight": {"quantizer": {"method": "symmetric", "granularity": "channel", "scale_dtype": "float16"}}}
MIXED = "8,w4a8"
BITMAPS = [8, 4, MIXED, "w3a8,w5a6", "w2a8", 32, "32,4", "w16a16"]


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def same(model, bitmap, folder, tokens):
    """Pack ``model`` and compare outputs bit for bit; returns the loaded model and the sizes."""
    sizes = save_packed(model, bitmap, folder)
    loaded = load_packed(folder)
    model.set_bitmap(bitmap)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    return loaded, sizes


@pytest.mark.parametrize("bitmap", BITMAPS)
def test_outputs_are_those_of_the_fake_quantized_model_bit_for_bit(make, tokens, tmp_path, bitmap):
    same(make(), bitmap, tmp_path / "p", tokens)


@pytest.mark.parametrize("scheme", [HALF, {}], ids=["fp16", "fp32"])
@pytest.mark.parametrize("bitmap", BITMAPS)
def test_the_file_takes_the_predicted_bytes_exactly(make, tokens, tmp_path, bitmap, scheme):
    model = make(SwitchSettings(quantization=scheme))
    _, sizes = same(model, bitmap, tmp_path / "p", tokens)
    predicted = cost_of(model.bitmap, model.sites).weight_bytes
    assert sizes.weight_bytes == sizes.predicted_weight_bytes == predicted
    file = tmp_path / "p" / PACKED_FILE
    stored = load_file(file)
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == predicted
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + predicted
    assert read_layout(tmp_path / "p")["bytes"] == sizes.to_json()


def test_all_lines_of_the_storage_are_the_predicted_ones(make, tmp_path):
    model = make(SwitchSettings(quantization=HALF))
    sizes, storage = save_packed(model, MIXED, tmp_path / "p"), model.storage(MIXED)
    assert sizes.unquantized_bytes == storage.unquantized_bytes
    assert 0 < sizes.adapter_bytes < storage.adapter_bytes


@pytest.mark.parametrize("merge", ["merge_then_quantize", "quantize_product", "quantize_factors"])
def test_every_merge_order_is_exact(make, tokens, tmp_path, merge):
    _, sizes = same(make(SwitchSettings(merge=merge)), MIXED, tmp_path / "p", tokens)
    assert (sizes.adapter_bytes == 0) == (merge == "merge_then_quantize")


@pytest.mark.parametrize("head_mode", ["tied_view", "untied", "tied_both"])
@pytest.mark.parametrize("bitmap", [4, 32])
def test_every_head_is_exact_and_as_large_as_predicted(make, tokens, tmp_path, head_mode, bitmap):
    model = make(SwitchSettings(head_mode=head_mode, quantization=HALF))
    _, sizes = same(model, bitmap, tmp_path / "p", tokens)
    storage = model.storage(bitmap)
    assert (sizes.weight_bytes, sizes.unquantized_bytes) == (storage.weight_bytes, storage.unquantized_bytes)


@pytest.mark.parametrize("norms", ["shared", "per_width", "frozen_copies"])
def test_the_norms_of_the_active_width_travel(make, tokens, tmp_path, norms):
    same(make(SwitchSettings(norms=norms)), MIXED, tmp_path / "p", tokens)


@pytest.mark.parametrize(
    "weight",
    [
        {"method": "asymmetric", "granularity": "group", "group_size": 8, "scale_dtype": "float16"},
        {"method": "nf4", "granularity": "group", "group_size": 16},
        {"method": "tanh"},
        {"method": "symmetric", "granularity": "tensor"},
        {"method": "symmetric", "full_precision_bits": 4},
    ],
    ids=lambda weight: f"{weight['method']}-{weight.get('granularity', 'channel')}",
)
def test_other_quantizers_are_exact(make, tokens, tmp_path, weight):
    same(make(SwitchSettings(quantization={"weight": {"quantizer": weight}})), "w4a8", tmp_path / "p", tokens)


@pytest.mark.parametrize(("head", "labels"), [(HeadKind.SPAN, None), (HeadKind.CLASSIFIER, 3)])
def test_task_heads_travel(make, tokens, tmp_path, head, labels):
    model = make(head=head, labels=labels)
    save_packed(model, 4, tmp_path / "p")
    loaded = load_packed(tmp_path / "p")
    model.set_bitmap(4)
    with torch.no_grad():
        for mine, its in zip(loaded(tokens).to_tuple(), model(tokens).to_tuple(), strict=True):
            assert mine is its or not isinstance(mine, torch.Tensor) or torch.equal(mine, its)


def test_generation_with_a_quantized_cache_is_the_same(make, tokens, tmp_path):
    model = make()
    loaded, _ = same(model, "w8a8kv4", tmp_path / "p", tokens)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert torch.equal(loaded.generate(tokens, **options), model.generate(tokens, **options))


def test_a_model_without_adapters_and_with_some_sites_only(make, tokens, tmp_path):
    settings = SwitchSettings(include=("*.mlp.*",))
    _, sizes = same(make(settings, adapters=False), 4, tmp_path / "p", tokens)
    assert sizes.adapter_bytes == 0


def test_the_tokenizer_and_what_was_given_along_are_there(make, random_model, tmp_path):
    tokenizer = load_tokenizer(random_model)
    save_packed(make(), 4, tmp_path / "p", tokenizer, {"task": {"name": "lm"}})
    assert load_tokenizer(str(tmp_path / "p"))("ab c")["input_ids"] == tokenizer("ab c")["input_ids"]
    assert read_layout(tmp_path / "p")["extra"] == {"task": {"name": "lm"}}


def test_the_model_stays_as_it_was(make, tokens, tmp_path):
    model = make()
    model.set_bitmap(8)
    model.train()
    save_packed(model, 4, tmp_path / "p")
    assert str(model.bitmap) == "8"
    assert model.training


def test_a_folder_with_something_else_is_not_replaced(make, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInputError, match="must be new"):
        save_packed(make(), 4, tmp_path / "p")
    assert (tmp_path / "p" / "thesis.txt").read_text() == "mine"


def test_an_older_packed_model_is_replaced(make, tmp_path):
    for bitmap in (8, 4):
        save_packed(make(), bitmap, tmp_path / "p")
    sites = json.loads((tmp_path / "p" / "packed.json").read_text())["bitmap"]["sites"]
    assert {bits["weight"] for bits in sites.values()} == {4}


def test_the_scheme_is_read_back(make, tmp_path):
    save_packed(make(SwitchSettings(quantization=HALF)), 4, tmp_path / "p")
    stored = SwitchSettings.from_json(read_layout(tmp_path / "p")["settings"]).quantization
    assert stored == QuantizationScheme.from_json(HALF)
