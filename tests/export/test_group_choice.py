"""A bitmap with group sizes in files: what is packed is what runs, and GGUF has blocks of 32 or refuses."""

import json

import pytest
import torch
from transformers import LlamaConfig

from qalof.errors import BadInputError
from qalof.export.compression import compression_of
from qalof.export.gguf_tensors import departures, gather, tensor_bytes
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed
from qalof.model.settings import SwitchSettings

MIXED = "w4g16a8kv8,w3g7a8kv8"
QUANTIZERS = ["symmetric", "asymmetric", "log", "tanh", "nf4"]


@pytest.mark.parametrize("method", QUANTIZERS)
@torch.no_grad()
def test_a_packed_folder_computes_what_the_model_computes(make, tokens, tmp_path, method):
    model = make(SwitchSettings(quantization={"weight": {"quantizer": {"method": method}}}))
    bitmap = MIXED if method != "nf4" else "w4g16a8kv8,w4a8kv8"
    model.set_bitmap(bitmap)
    expected = model(tokens).logits
    save_packed(model, bitmap, tmp_path / "packed")
    assert torch.equal(load_packed(tmp_path / "packed")(tokens).logits, expected)
    integer = load_packed(tmp_path / "packed", "integer")(tokens).logits
    assert (integer - expected).abs().median() < 1e-5 * expected.abs().max()
    layout = json.loads((tmp_path / "packed" / "packed.json").read_text())
    assert layout["bitmap"]["version"] == 2
    sizes = {described["weight"]["quantizer"]["group_size"] for described in layout["sites"].values()}
    assert {16} < sizes


@pytest.mark.parametrize("merge", ["merge_then_quantize", "quantize_product", "quantize_factors"])
@torch.no_grad()
def test_branches_are_rounded_in_the_groups_of_their_site(make, tokens, tmp_path, merge):
    model = make(SwitchSettings(merge=merge))
    model.set_bitmap(MIXED)
    expected = model(tokens).logits
    save_packed(model, MIXED, tmp_path / "packed")
    assert torch.equal(load_packed(tmp_path / "packed")(tokens).logits, expected)


def test_smaller_groups_compress_to_more_bytes(make):
    model = make(adapters=False)
    packed = [compression_of(model, bitmap) for bitmap in ("w4", "w4g32", "w4g16")]
    assert packed[0].packed < packed[1].packed < packed[2].packed
    assert all(one.packed == one.predicted for one in packed)


@pytest.fixture
def llama(make, tmp_path):
    """``llama(settings)``: a model whose rows are multiples of 32."""

    def of(settings=None):
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
        return make(settings, source=str(tmp_path / "base"))

    return of


def test_a_site_in_groups_of_32_is_a_block_type_of_gguf_whatever_its_quantizer(llama):
    model = llama()
    tensors = gather(model, "w4g32a32kv32,w8g32a32kv32")
    kinds = {tensors.types[tensors.sites[site]] for site in model.site_names}
    assert kinds == {"Q4_0", "Q8_0"}
    site = model.sites[0]
    assert tensor_bytes("Q4_0", site.weights) == site.weights // 32 * 18


def test_what_runs_as_gguf_rounds_loses_nothing_in_the_file(llama):
    """The scheme's own granularity is per channel; the choice makes the blocks."""
    scheme = {"weight": {"quantizer": {"method": "gguf", "granularity": "channel", "group_size": None}}}
    model = llama(SwitchSettings(merge="merge_then_quantize", quantization=scheme))
    assert departures(model, "w4g32a32kv32,w8g32a32kv32") == {}
    assert departures(model, "w4a32kv32,w8g32a32kv32")
    cost = sum(
        site.weights // 32 * (18 if bits.weight == 4 else 34)
        for site, bits in zip(model.sites, model.set_bitmap("w4g32a32kv32,w8g32a32kv32").values(), strict=True)
    )
    from qalof.cost import cost_of

    assert cost_of(model.bitmap, model.sites).weight_bytes == cost


@pytest.mark.parametrize("form", ["w4g64", "w4g16", "w16g32", "w8g31"])
def test_a_mix_that_gguf_cannot_hold_is_one_clear_error(llama, form):
    bits = form.removeprefix("w")
    with pytest.raises(BadInputError, match=f"groups of a GGUF file have 32 weights.* has {bits}; take groups of 32"):
        gather(llama(), f"{form}a32kv32")
