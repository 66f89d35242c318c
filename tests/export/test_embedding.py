"""An embedding with a width: rounded row by row, stored once where the head shares it, priced, packed exactly."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

import qalof
import search
from qalof.bitmap import Bitmap
from qalof.cost import cost_of, storage_of
from qalof.errors import BadInputError
from qalof.export.packed import PACKED_FILE, REST_FILE, save_packed
from qalof.export.packed_load import load_packed, read_layout
from qalof.export.packed_model import PackedModel
from qalof.model.settings import SwitchSettings
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import EmbeddingMode

HEADS = ["none", "tied_view", "untied"]
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def llama(tmp_path):
    """``llama(tied)``: a folder with a random Llama."""

    def of(tied):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=tied))
        model.save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return of


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def at(model, bits, others="w8a8kv8", head=None):
    """The embedding at ``bits``, a head at ``head``."""
    widths = dict.fromkeys(model.site_names, others) | {model.site_names[0]: f"w{bits}a32kv32"}
    if head is not None:
        widths[model.site_names[-1]] = head
    return Bitmap.from_json(widths, model.site_names)


def held(folder):
    tensors = [tensor for name in (PACKED_FILE, REST_FILE) for tensor in load_file(folder / name).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("head_mode", HEADS)
def test_at_full_precision_nothing_changes_and_below_it_the_rounded_rows_are_looked_up(make, tokens, head_mode):
    plain, model = (make(SwitchSettings(head_mode=head_mode, embedding=mode)) for mode in ("none", "site"))
    assert model.site_names == ("wte", *plain.site_names)
    plain.set_bitmap("w8a8kv8")
    model.set_bitmap(at(model, 32))
    assert torch.equal(logits(model, tokens), logits(plain, tokens))
    model.set_bitmap(at(model, 3))
    own = plain.model.get_input_embeddings().weight
    rounded = model.settings.quantization.embedding.quantizer.fake_quantize(own.detach(), 3)
    assert [len(row.unique()) <= 7 for row in rounded] == [True] * len(rounded)
    if head_mode == "tied_view":  # the head rounds the shared weight for itself
        expected = plain.model.transformer.wte.weight.data.clone()
        with torch.no_grad():
            plain.model.transformer.wte.register_forward_hook(
                lambda module, inputs, output: torch.nn.functional.embedding(inputs[0], rounded)
            )
        assert torch.equal(own, expected)
    else:
        own.data.copy_(rounded)
    assert torch.equal(logits(model, tokens), logits(plain, tokens))


@pytest.mark.parametrize("kernel", ["decoded", "integer"])
@pytest.mark.parametrize(
    ("head_mode", "head"), [("none", None), ("tied_view", "w32a32"), ("tied_view", "8"), ("untied", "8")]
)
@pytest.mark.parametrize("bits", [3, 8, 32])
def test_a_packed_model_looks_up_the_rounded_rows_in_the_predicted_bytes(
    make, tokens, tmp_path, head_mode, head, bits, kernel
):
    model = make(SwitchSettings(head_mode=head_mode, embedding="site"))
    bitmap = at(model, bits, "w8a32kv32", head)
    sizes = save_packed(model, bitmap, tmp_path / "p")
    assert held(tmp_path / "p") == sizes.total_bytes == sizes.predicted_total_bytes
    assert sizes.weight_bytes == sizes.predicted_weight_bytes
    loaded = load_packed(tmp_path / "p", kernel)
    model.set_bitmap(bitmap)
    compare = torch.equal if kernel == "decoded" else lambda a, b: torch.allclose(a, b, atol=1e-3)
    assert compare(logits(loaded, tokens), logits(model, tokens))
    assert PackedModel.load(tmp_path / "p").bitmap == bitmap


def test_a_tied_weight_is_in_the_file_and_in_memory_once(make, tmp_path):
    model = make(SwitchSettings(embedding="site"))
    save_packed(model, at(model, 8), tmp_path / "p")
    names = [*load_file(tmp_path / "p" / PACKED_FILE), *load_file(tmp_path / "p" / REST_FILE)]
    assert {name for name in names if "wte" in name or "lm_head" in name} == {"wte/data", "wte/scale"}
    dequantized, integer = load_packed(tmp_path / "p"), load_packed(tmp_path / "p", "integer")
    assert dequantized.get_output_embeddings().weight is dequantized.get_input_embeddings().weight
    rows, features = model.sites[0].out_features, model.sites[0].in_features
    assert integer.get_input_embeddings().packed.nbytes == rows * (features + 2)
    assert integer.get_output_embeddings().weight.numel() == 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_is_a_site_without_an_adapter(make, llama, tokens, tmp_path, tied):
    model = make(SwitchSettings(embedding="site"), source=llama(tied))
    assert model.site_names[0] == "embed_tokens"
    assert (model.site_names[-1] == "lm_head") is not tied
    assert all(site.has_adapter == (site.name not in ("embed_tokens", "lm_head")) for site in model.sites)
    bitmap = at(model, 8, "w4a8kv8")
    sizes = save_packed(model, bitmap, tmp_path / "p")
    assert sizes.total_bytes == sizes.predicted_total_bytes == cost_of(bitmap, model.sites, rest=model.rest).total_bytes
    assert 4 * model.unquantized.parameters == sizes.unquantized_bytes == 4 * 5 * 32  # norms are all that is left
    model.set_bitmap(bitmap)
    assert torch.equal(logits(load_packed(tmp_path / "p"), tokens), logits(model, tokens))


def test_a_checkpoint_keeps_the_setting_and_its_bitmaps_name_the_embedding(make, tokens, tmp_path):
    model = make(SwitchSettings(embedding="site", norms="per_width"))
    qalof.save(model, tmp_path / "c")
    again = qalof.load(tmp_path / "c").eval()
    assert again.settings.embedding is EmbeddingMode.SITE
    for each in (model, again):
        each.set_bitmap(at(each, 4))
    assert torch.equal(logits(again, tokens), logits(model, tokens))
    stored = storage_of(model.bitmap, model.sites, model.unquantized)
    assert stored.unquantized_bytes < model.sites[0].weights * 4


def test_a_default_model_is_written_as_before():
    assert "embedding" not in SwitchSettings().to_json()
    assert "embedding" not in QuantizationScheme().to_json()
    other = QuantizationScheme.from_json({"embedding": {"quantizer": {"method": "gguf"}}})
    assert QuantizationScheme.from_json(other.to_json()) == other
    assert other.convention != QuantizationScheme().convention


def test_a_search_gives_the_embedding_widths_of_the_weight_alone_and_holds_its_bytes(make):
    model = make(SwitchSettings(embedding="site"))
    space = search.BitmapSpace.of(model, weight=(4, 8), activation=(4, 8), kv=(8,))
    assert len(space.choices[0]) == 2
    assert len(space.choices[1]) == 4
    costs = [cost_of(at(model, bits), model.sites) for bits in (4, 8)]
    weights = model.sites[0].weights
    assert costs[1].weight_bytes - costs[0].weight_bytes == weights // 2
    assert costs[0].activation_bytes_per_token == costs[1].activation_bytes_per_token
    assert costs[0].bit_operations_per_token == costs[1].bit_operations_per_token


@pytest.mark.parametrize("float_type", ["float16", "bfloat16"])
def test_what_is_not_quantized_is_stored_in_half_when_asked(make, tokens, tmp_path, float_type):
    model = make(SwitchSettings(embedding="site"))
    whole = save_packed(model, at(model, 8, "w4a8kv8"), tmp_path / "whole")
    for index, bitmap in enumerate((at(model, 8, "w4a8kv8"), at(model, 32, 32))):
        sizes = save_packed(model, bitmap, tmp_path / str(index), float_type=float_type)
        assert held(tmp_path / str(index)) == sizes.total_bytes == sizes.predicted_total_bytes
        assert 2 * sizes.unquantized_bytes == whole.unquantized_bytes
        assert sizes.adapter_bytes
        expected = make(SwitchSettings(embedding="site"))
        half = getattr(torch, float_type)
        sites = {f"{model.model.base_model_prefix}.{site.name}" for site in model.sites}
        for path, parameter in expected.model.named_parameters():
            owner = path.replace(".base_layer", "").rpartition(".")[0]
            plain = owner not in sites or path.endswith("bias") or bitmap[model.site_names[0]].weight == 32
            if plain and "lora" not in path:
                parameter.data.copy_(parameter.to(half).float())
        expected.set_bitmap(bitmap)
        assert torch.equal(logits(load_packed(tmp_path / str(index)), tokens), logits(expected, tokens))
    assert read_layout(tmp_path / "0")["float_type"] == float_type


def test_what_cannot_be_is_refused(make, tmp_path):
    with pytest.raises(BadInputError, match="take embedding none, or head_mode none"):
        SwitchSettings(embedding="site", head_mode="tied_both")
    with pytest.raises(BadInputError, match="embedding must be one of none, site"):
        SwitchSettings(embedding="8")
    with pytest.raises(BadInputError, match="lsq or an observer"):
        QuantizationScheme.from_json({"embedding": {"quantizer": "lsq"}})
    model = make(SwitchSettings(embedding="site"))
    with pytest.raises(BadInputError, match="export a packed folder"):
        model.pack_for_inference([4])
    large = make()
    large.model.transformer.ln_f.weight.data.fill_(1e6)
    with pytest.raises(BadInputError, match="beyond its range; take float32"):
        save_packed(large, 8, tmp_path / "p", float_type="float16")
