"""What quantizers have learned or observed travels with a packed model, and other families pack too."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed, read_layout
from qalof.model.calibration import calibrate
from qalof.model.settings import SwitchSettings

STATIC = {
    "activation": {"quantizer": {"method": "asymmetric", "granularity": "tensor"}, "observer": {"kind": "minmax"}},
    "kv": {"quantizer": {"method": "symmetric", "granularity": "tensor"}, "observer": {"kind": "minmax"}},
}
LEARNED = {
    "weight": {"quantizer": {"method": "lsq", "granularity": "channel"}},
    "activation": {"quantizer": {"method": "lsq", "granularity": "tensor", "gradient_count": "features"}},
    "widths": [4, 8],
}
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip


def same(model, bitmap, folder, tokens):
    save_packed(model, bitmap, folder)
    loaded = load_packed(folder)
    model.set_bitmap(bitmap)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("scheme", [STATIC, LEARNED], ids=["static", "lsq"])
def test_static_ranges_and_learned_steps_are_exact(make, tokens, tmp_path, scheme):
    model = make(SwitchSettings(quantization=scheme))
    calibrate(model, [{"input_ids": tokens}], ["w8a8kv8", "w4a8kv8"])
    same(model, "w8a8kv8,w4a8kv8", tmp_path / "p", tokens)


def test_learned_steps_of_weights_pack_in_fp16_at_the_predicted_size(make, tokens, tmp_path):
    weight = {"quantizer": {"method": "lsq", "granularity": "channel", "scale_dtype": "float16"}}
    model = make(SwitchSettings(quantization={"weight": weight, "widths": [4, 8]}))
    same(model, 4, tmp_path / "p", tokens)
    sizes = read_layout(tmp_path / "p")["bytes"]
    assert sizes["weight_bytes"] == sizes["predicted_weight_bytes"]


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen2Config(**SIZES, tie_word_embeddings=True)])
def test_other_families_are_exact(make, tokens, tmp_path, config):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    same(make(source=str(tmp_path / "base")), "8,w4a8kv4", tmp_path / "p", tokens)


def test_uncalibrated_ranges_are_refused_where_they_are_needed(make, tokens, tmp_path):
    save_packed(make(SwitchSettings(quantization=STATIC)), 8, tmp_path / "p")
    with pytest.raises(BadInputError, match="calibrat|observ"):
        load_packed(tmp_path / "p")(tokens)
