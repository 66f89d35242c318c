"""A packed folder run by integer kernels: the file's bytes in memory, the packed model's outputs."""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.export.packed_linear import PackedLinear
from qalof.export.packed_load import kernels, load_packed
from qalof.model.settings import SwitchSettings

ASYMMETRIC = {"weight": {"quantizer": {"method": "asymmetric"}}}


def two(model, bitmap, folder):
    sizes = save_packed(model, bitmap, folder)
    return load_packed(folder), load_packed(folder, kernel="integer"), sizes


@pytest.mark.parametrize("bitmap", ["w8a8", "w4a8", "8,w4a8kv4", "w3a8,w5a6", "w2a4"])
@pytest.mark.parametrize("settings", [{}, {"merge": "merge_then_quantize"}, {"merge": "quantize_product"}], ids=str)
def test_outputs_are_those_of_the_decoded_model_up_to_the_rounding_of_sums(make, tokens, tmp_path, bitmap, settings):
    dequantized, integer, _ = two(make(SwitchSettings(**settings)), bitmap, tmp_path / "p")
    with torch.no_grad():
        expected, got = dequantized(tokens).logits, integer(tokens).logits
    error = (expected - got).abs()
    assert error.median() < 1e-5 * expected.abs().max()
    assert error.max() < 0.05 * expected.abs().max()
    assert {str(kernel) for kernel in kernels(integer).values()} == {"int_mm"}
    assert {kernel.reason for kernel in kernels(dequantized).values()} == {"the weight is held decoded"}


@pytest.mark.parametrize("settings", [{}, {"quantization": ASYMMETRIC}, {"head_mode": "tied_both"}], ids=str)
def test_the_tensors_take_the_bytes_of_the_file(make, tmp_path, settings):
    _, integer, sizes = two(make(SwitchSettings(**settings)), 4, tmp_path / "p")
    tied = settings.get("head_mode") == "tied_both"
    layers = [module for module in integer.modules() if isinstance(module, PackedLinear) and module.packed is not None]
    held = sum(layer.packed.nbytes for layer in layers)
    assert held == sizes.weight_bytes if not tied else held < sizes.weight_bytes
    if not tied:
        values = {id(t): t.numel() * t.element_size() for t in [*integer.parameters(), *integer.buffers()]}
        masks = sum(t.numel() for name, t in integer.named_buffers() if name.endswith("attn.bias"))
        assert sum(values.values()) - masks == sizes.unquantized_bytes + sizes.adapter_bytes


@pytest.mark.parametrize("bitmap", ["32", "w16a16", "w8a32"])
def test_what_is_decoded_or_not_quantized_is_exact(make, tokens, tmp_path, bitmap):
    dequantized, integer, _ = two(make(), bitmap, tmp_path / "p")
    with torch.no_grad():
        assert torch.equal(dequantized(tokens).logits, integer(tokens).logits)


def test_generation_is_the_same(make, tokens, tmp_path):
    dequantized, integer, _ = two(make(), "w8a8kv8", tmp_path / "p")
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert torch.equal(dequantized.generate(tokens, **options), integer.generate(tokens, **options))


def test_writing_into_a_loaded_model_leaves_its_file_alone(make, tokens, tmp_path):
    _, integer, _ = two(make(), 8, tmp_path / "p")
    integer.get_input_embeddings().weight.data.zero_()
    load_packed(tmp_path / "p")  # checks the checksums


def test_another_kernel_is_refused(make, tmp_path):
    save_packed(make(), 8, tmp_path / "p")
    with pytest.raises(BadInputError, match="decoded or integer"):
        load_packed(tmp_path / "p", kernel="fast")
