"""A model of real size is as small as its bits: SmolLM2-135M at 4 bits in groups of 32, its embedding at 8."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import qalof
from qalof.bitmap import Bitmap
from qalof.cost import packed_storage
from qalof.export.gguf_tensors import tensor_bytes
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build

WEIGHTS, EMBEDDING, NORMS = 106_168_320, 49_152 * 576, 61 * 576
GROUPS = {
    "method": "symmetric",
    "granularity": "group",
    "group_size": 32,
    "scale_dtype": "float16",
}
SIZES = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(("float_bytes", "norms"), [(4, 4 * NORMS), (2, 2 * NORMS)])
def test_its_packed_folder_is_priced_without_its_numbers(float_bytes, norms):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.tie_weights()
    settings = SwitchSettings(embedding="site", quantization={"weight": {"quantizer": GROUPS}})
    switchable = build(BaseModel("smol", HeadKind.CAUSAL_LM), settings=settings, pretrained=model)
    assert len(switchable.sites) == 211
    widths = dict.fromkeys(switchable.site_names, "w4") | {"embed_tokens": "w8"}
    stored = packed_storage(Bitmap.from_json(widths), switchable.sites, switchable.rest, float_bytes)
    assert stored.weight_bytes == WEIGHTS * 9 // 16 + EMBEDDING + 2 * 49_152
    assert stored.unquantized_bytes == norms
    assert stored.total_bytes == 88_270_080 - 2 * NORMS * (float_bytes == 2)


@pytest.mark.real
def test_what_is_exported_takes_that_and_not_twice_as_much(real_gguf, tmp_path):
    from orchestrate.jobs.export.write import export_checkpoint

    settings = SwitchSettings(merge="merge_then_quantize", quantization={"weight": {"quantizer": {"method": "gguf"}}})
    qalof.save(build(BaseModel(str(real_gguf), HeadKind.CAUSAL_LM), {}, settings), tmp_path / "c")
    packed = export_checkpoint(tmp_path / "c", "w4a32kv32", tmp_path / "p")
    assert packed["total_bytes"] == packed["predicted_total_bytes"] == 88_270_080
    files = sum(file.stat().st_size for file in (tmp_path / "p").glob("*.safetensors"))
    assert files == packed["total_bytes"] + packed["header_bytes"] < 88_400_000
    whole = export_checkpoint(tmp_path / "c", "w4a32kv32", tmp_path / "m.gguf", "gguf")
    expected = tensor_bytes("Q4_0", WEIGHTS) + tensor_bytes("Q8_0", EMBEDDING) + 4 * NORMS
    assert whole["tensor_bytes"] == whole["predicted_tensor_bytes"] == expected
    assert whole["exact_weights"]
    assert whole["files"]["m.gguf"] < 95_000_000
