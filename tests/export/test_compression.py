"""The four measures of compression, and the speed of a model that stays as it was."""

import zlib

import pytest
import torch

from qalof.errors import BadInputError
from qalof.evaluation.speed import _round_anew, speed_of
from qalof.export.compression import MEASURES, compression_of, zlib_bytes
from qalof.model.adapters import AdapterSpec
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build


@pytest.fixture(scope="module", params=["tied_view", "untied", "none"])
def model(request, random_model):
    settings = SwitchSettings(head_mode=request.param)
    return build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"8": AdapterSpec(2), "4": AdapterSpec(2)}, settings)


def test_fewer_bits_are_smaller_in_every_measure_and_the_model_stays_at_its_bitmap(model):
    model.set_bitmap(8)
    eight, four = compression_of(model, "w8"), compression_of(model, "w4")
    assert str(model.bitmap) == "8"
    for measure in MEASURES:
        assert 0 < getattr(four, measure) < getattr(eight, measure)
        assert four.percent(measure, tied=False) < four.percent(measure)


def test_full_precision_is_the_original_and_its_head_is_the_only_difference_of_the_two_originals(model):
    found = compression_of(model, 32)
    embedding = 4 * model.model.get_input_embeddings().weight.numel()
    assert found.original_untied - found.original_tied == embedding
    stored = found.original_untied if model.settings.head_mode == "untied" else found.original_tied
    assert found.predicted == stored
    assert found.predicted == model.storage(32).weight_bytes + model.storage(32).unquantized_bytes


def test_zlib_counts_one_stream_at_the_highest_level():
    tensors = [torch.arange(1000, dtype=torch.int32), torch.zeros(500)]
    raw = b"".join(t.numpy().tobytes() for t in tensors)
    assert zlib_bytes(tensors) == len(zlib.compress(raw, 9))


def test_speed_is_measured_at_the_bitmap_and_a_text_too_long_is_refused(model):
    speed = speed_of(model, "w4", batch_size=1, tokens=4, new_tokens=2, repeats=1)
    assert str(model.bitmap) == "w4a32"
    assert speed.prefill_tokens_per_second > 0
    assert speed.calibration_tokens_per_second > 0
    assert speed.decode_tokens_per_second is not None
    assert speed.memory_bytes > 1e6
    with pytest.raises(BadInputError, match="120 \\+ 20\\) must fit the model's 128 positions: got 140"):
        speed_of(model, 8, tokens=120, new_tokens=20)


@pytest.mark.parametrize("merge", [str(order) for order in MergeOrder])
def test_calibration_rounds_everything_anew_and_a_forward_pass_what_it_must(random_model, monkeypatch, merge):
    specs = {"8": AdapterSpec(2), "4": AdapterSpec(2)}
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), specs, SwitchSettings(merge=merge)).eval()
    model.set_bitmap("w4")
    rounded = []
    real = SwitchableLinear.quantize_weight
    monkeypatch.setattr(
        SwitchableLinear, "quantize_weight", lambda self, weight, bits: rounded.append(1) or real(self, weight, bits)
    )
    ids = torch.arange(6)[None]
    per_site = {"branch": (1, 0), "merge_then_quantize": (1, 0), "quantize_product": (2, 0), "quantize_factors": (3, 2)}
    with torch.inference_mode():
        model(input_ids=ids)
        for run, count in zip((_round_anew, lambda model, ids: model(input_ids=ids)), per_site[merge], strict=True):
            rounded.clear()
            run(model, ids)
            assert len(rounded) == count * len(model.sites)
        assert _round_anew(model, ids).logits.equal(model(input_ids=ids).logits)
