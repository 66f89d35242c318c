"""A compressed-tensors folder is what transformers' own loader makes our model of; what does not fit is refused."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.compressed_tensors import gather, save_compressed
from qalof.model.settings import SwitchSettings
from qalof.post_training.gptq import compensate
from qalof.quantization.packing import pack_rows

compressed = pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

CHANNEL = {"method": "symmetric", "granularity": "channel"}
GROUPS = {"method": "symmetric", "granularity": "group", "group_size": 8, "scale_dtype": "float16"}
QUANTIZERS = {
    "channel": CHANNEL,
    "full range": {**CHANNEL, "range": "full"},
    "tensor": {"method": "symmetric", "granularity": "tensor"},
    "groups": GROUPS,
    "gguf": {"method": "gguf", "granularity": "group", "group_size": 32},
}
"""Quantizers whose values are code times scale."""
MIXED = ["w8a32kv32", "w4a32kv32", "w32a32kv32", "w4a32kv32", "w8a32kv32"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a random Llama of two blocks, with a head of its own and biases in attention."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, attention_bias=True,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def of(make, llama):
    """``of(quantizer, ...)``: a switchable Llama with merged adapters, or without any."""

    def build(quantizer, adapters=True, merge="merge_then_quantize", **settings):
        quantization = {"weight": {"quantizer": quantizer}}
        return make(SwitchSettings(merge=merge, quantization=quantization, **settings), source=llama, adapters=adapters)

    return build


def mixed(model, kinds=MIXED):
    """A bitmap in which the kinds take turns."""
    return Bitmap.parse([kinds[at % len(kinds)] for at in range(len(model.sites))], [s.name for s in model.sites])


def read(folder, **given):
    return AutoModelForCausalLM.from_pretrained(folder, **given).eval()


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_transformers_computes_the_same_logits_from_mixed_widths(of, name, adapters, tokens, tmp_path):
    model = of(QUANTIZERS[name], adapters)
    bitmap = mixed(model)
    found = save_compressed(model, bitmap, tmp_path / "c")
    assert not found.differing
    with model.at(bitmap, eval=True), torch.no_grad():
        ours = model(tokens).logits
        theirs = read(tmp_path / "c")(tokens).logits
    assert torch.equal(theirs, ours), "the same weights in fp32, and the same operations"


@pytest.mark.parametrize("name", ["channel", "groups"])
def test_in_float16_the_logits_are_ours_within_its_rounding(of, name, tokens, tmp_path):
    model = of(QUANTIZERS[name])
    bitmap = mixed(model)
    save_compressed(model, bitmap, tmp_path / "c", float_type="float16")
    loaded = read(tmp_path / "c")
    assert loaded.dtype is torch.float16
    with model.at(bitmap, eval=True), torch.no_grad():
        ours = model(tokens).logits
        theirs = loaded(tokens).logits.float()
    assert (theirs - ours).abs().max() < 50 * 2**-11 * ours.abs().max()
    assert not torch.equal(theirs, ours)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("columns", [5, 32, 64, 72])
def test_codes_are_packed_as_the_package_packs_them(bits, columns):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (3, columns), generator=torch.Generator().manual_seed(bits), dtype=torch.int8)
    data = pack_rows(codes.to(torch.int32) + half, bits)
    ours = torch.nn.functional.pad(data, (0, -data.shape[1] % 4)).contiguous().view(torch.int32)
    assert torch.equal(ours, pack_to_int32(codes, bits))


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
def test_every_width_of_the_format_is_read_back(of, bits, tokens, tmp_path):
    model = of(CHANNEL, adapters=False)
    save_compressed(model, f"w{bits}a32kv32", tmp_path / "c")
    with model.at(f"w{bits}a32kv32", eval=True), torch.no_grad():
        assert torch.equal(read(tmp_path / "c")(tokens).logits, model(tokens).logits)


def test_the_config_is_one_that_the_package_reads_and_names_every_layer_once(of, tmp_path):
    from compressed_tensors.quantization import QuantizationConfig

    model = of(GROUPS)
    bitmap = mixed(model)
    save_compressed(model, bitmap, tmp_path / "c")
    written = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate({k: v for k, v in written.items() if k != "version"})
    assert written["version"] == compressed.__version__
    widths = {target: group.weights.num_bits for group in parsed.config_groups.values() for target in group.targets}
    assert widths == {f"model.{site}": bits.weight for site, bits in bitmap.items() if bits.weight < 32}
    plain = {f"model.{site}" for site, bits in bitmap.items() if bits.weight == 32}
    assert set(parsed.ignore) == {*plain, "lm_head"}
    assert {group.weights.group_size for group in parsed.config_groups.values()} == {8}


def test_codes_that_gptq_found_are_written_as_they_are(of, tokens, tmp_path):
    model = of(CHANNEL, adapters=False)
    compensate(model, [{"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}], [4])
    assert not save_compressed(model, "w4a32kv32", tmp_path / "c").differing
    with model.at("w4a32kv32", eval=True), torch.no_grad():
        assert torch.equal(read(tmp_path / "c")(tokens).logits, model(tokens).logits)


def test_what_merging_changes_is_counted_site_by_site(of):
    model = of(CHANNEL, merge="branch")
    found = gather(model, mixed(model), "float32")
    packed = {site.name for site in model.sites if mixed(model)[site.name].weight < 32}
    assert packed <= set(found.differing)
    assert all(difference > 0 for difference in found.differing.values())


@pytest.mark.parametrize(
    ("quantizer", "bitmap", "settings", "said"),
    [
        (CHANNEL, "w9a32kv32", {}, "2 to 8"),
        (CHANNEL, "w8a8kv32", {}, "inputs"),
        (CHANNEL, "w8a32kv8", {}, "KV cache"),
        (CHANNEL, "w8a32k32v8", {}, "KV cache"),
        ({"method": "asymmetric", "granularity": "channel"}, "w8a32kv32", {}, "zero points"),
        ({"method": "log", "granularity": "channel"}, "w4a32kv32", {}, "quantizer log"),
        ({"method": "nf4", "granularity": "group", "group_size": 8}, "w4a32kv32", {}, "quantizer nf4"),
        ({**GROUPS, "group_size": 24}, "w4a32kv32", {}, "24 for 32"),
        (CHANNEL, "w8a32kv32", {"embedding": "site"}, "Embedding"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_by_name_and_nothing_is_written(
    of, quantizer, bitmap, settings, said, tmp_path
):
    model = of(quantizer, adapters=False, **settings)
    with pytest.raises(BadInputError, match=said) as caught:
        save_compressed(model, bitmap, tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_layers_that_are_not_linear_and_a_tied_head_are_refused(make):
    conv = make(SwitchSettings(), adapters=False)
    with pytest.raises(BadInputError, match="Conv1D"):
        gather(conv, "w8a32kv32", "float32")
    tied = make(SwitchSettings(head_mode="tied_view", include=("lm_head",)), adapters=False)
    with pytest.raises(BadInputError, match="embedding shares"):
        gather(tied, "w8a32kv32", "float32")


def test_an_unrounded_head_that_shares_the_embedding_is_shared_when_it_is_read(make, llama, tokens, tmp_path):
    config = LlamaConfig.from_pretrained(llama)
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    model = make(SwitchSettings(merge="merge_then_quantize"), source=str(tmp_path / "tied"))
    save_compressed(model, mixed(model), tmp_path / "c")
    loaded = read(tmp_path / "c")
    with model.at(mixed(model), eval=True), torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_an_older_folder_is_replaced_and_anything_else_is_refused(of, tmp_path):
    model = of(CHANNEL, adapters=False)
    for bitmap in ("w8a32kv32", "w4a32kv32"):
        save_compressed(model, bitmap, tmp_path / "c")
    groups = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert [group["weights"]["num_bits"] for group in groups.values()] == [4]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    with pytest.raises(BadInputError, match="other"):
        save_compressed(model, 32, tmp_path / "other")
