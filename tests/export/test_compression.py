"""The four measures of compression, and the speed of a model that stays as it was."""

import zlib

import pytest
import torch

from qalof.errors import BadInputError
from qalof.evaluation.speed import speed_of
from qalof.export.compression import MEASURES, compression_of, zlib_bytes
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import BaseModel, build


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
    assert speed.decode_tokens_per_second is not None
    assert speed.memory_bytes > 1e6
    with pytest.raises(BadInputError, match="128 positions: got 120 \\+ 20"):
        speed_of(model, 8, tokens=120, new_tokens=20)
