import json

import pytest

from qalof.errors import BadInputError
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.midrise import MidRise
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.quantizers import CONVENTION
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

MIXED = QuantizationScheme(
    weight=TensorScheme(Symmetric(granularity="group", group_size=64), {2: MidRise(), 8: Log(octaves=8)}),
    widths=(2, 4, 8),
)


def test_default_is_symmetric_per_channel_and_per_token_and_keeps_its_name():
    scheme = QuantizationScheme()
    assert scheme.weight.at(4) == Symmetric(granularity="channel")
    assert scheme.activation.at(4) == scheme.kv.at(8) == Symmetric(granularity="token")
    assert scheme.convention == CONVENTION == "symmetric-minmax-narrow"


def test_a_width_may_have_a_quantizer_of_its_own():
    assert [MIXED.weight.at(bits).method for bits in (2, 4, 8)] == ["midrise2", "symmetric", "log"]


def test_scheme_survives_json():
    assert QuantizationScheme.from_json(json.loads(json.dumps(MIXED.to_json()))) == MIXED
    assert QuantizationScheme.from_json({}) == QuantizationScheme()


def test_convention_names_what_numbers_mean_and_not_how_they_are_held():
    assert MIXED.convention != CONVENTION
    assert MIXED.convention != QuantizationScheme(weight=TensorScheme(Log())).convention
    assert QuantizationScheme(held="codes").convention == CONVENTION


def test_every_setting_is_read():
    data = {
        "weight": {"quantizer": "log", "by_width": {"2": "midrise2"}},
        "activation": {"quantizer": {"method": "symmetric", "granularity": "tensor"}, "observer": "ema"},
        "kv": {"quantizer": {"method": "symmetric", "granularity": "head"}},
        "widths": [4, 8],
        "held": "codes",
    }
    scheme = QuantizationScheme.from_json(data)
    assert scheme.weight.at(2) == MidRise()
    assert scheme.activation.observer.kind == "ema"
    assert scheme.kv.for_heads(16).at(4).group_size == 16
    assert scheme.widths == (4, 8)


def test_a_width_may_be_written_as_the_number_that_yaml_makes_of_it():
    as_text, as_number = ({"weight": {"quantizer": "log", "by_width": {bits: "midrise2"}}} for bits in ("2", 2))
    assert QuantizationScheme.from_json(as_number) == QuantizationScheme.from_json(as_text)


TENSOR = {"method": "symmetric", "granularity": "tensor"}
TOKEN = {"method": "symmetric", "granularity": "token"}


@pytest.mark.parametrize(
    ("data", "law"),
    [
        ({"weights": {}}, "did you mean 'weight'"),
        ({"weight": {}}, "must name its quantizer"),
        ({"weight": {"quantizer": "symmetric", "by_widths": {}}}, "did you mean 'by_width'"),
        ({"weight": {"quantizer": "symmetric", "by_width": {"1": "symmetric"}}}, "no setting '1'"),
        ({"weight": {"quantizer": "symmetric", "by_width": {"20": "symmetric"}}}, "from 2 to 16"),
        ({"weight": {"quantizer": "symmetric", "by_width": {1: "symmetric"}}}, "no setting '1'"),
        ({8: {}}, "no setting 8"),
        ({"weight": {"quantizer": {"method": "symmetric", 4: 1}}}, "no setting 4"),
        ({"weight": {"quantizer": {"method": "symmetric", "granularity": "token"}}}, "weights have channels"),
        ({"weight": {"quantizer": "symmetric", "observer": "minmax"}}, "a weight needs no observer"),
        ({"activation": {"quantizer": "symmetric"}}, "activation: what has tokens is quantized per token"),
        ({"activation": {"quantizer": {"method": "symmetric", "granularity": "token"}, "observer": "ema"}},
         "with an observer take tensor, group or head"),
        ({"activation": {"quantizer": {"method": "log", "granularity": "tensor"}, "observer": "ema"}}, "octaves"),
        ({"activation": {"quantizer": {"method": "midrise2", "granularity": "tensor"}, "observer": "ema"}}, "mean"),
        ({"activation": {"quantizer": {"method": "lsq", "granularity": "token"}}}, "outlives its tokens"),
        ({"activation": {"quantizer": {"method": "lsq", "granularity": "tensor"}}}, "gradient_count features"),
        ({"kv": {"quantizer": TENSOR}}, "looks ahead"),
        ({"weight": {"quantizer": "symmetric", "outlier_threshold": 6.0}}, "to activations only: got it for weight"),
        ({"activation": {"quantizer": TOKEN, "outlier_threshold": 0}}, "above 0"),
        ({"activation": {"quantizer": TENSOR, "outlier_threshold": 6.0, "observer": "ema"}}, "dynamic ranges only"),
        ({"held": "bytes"}, "held must be"),
        ({"widths": [1]}, "from 2 to 16"),
    ],
)  # fmt: skip
def test_a_quantizer_that_cannot_serve_where_it_stands_is_refused(data, law):
    with pytest.raises(BadInputError, match=law):
        QuantizationScheme.from_json(data)


def test_observed_tensors_may_share_one_range_in_the_cache():
    scheme = QuantizationScheme.from_json({"kv": {"quantizer": TENSOR, "observer": "minmax"}})
    assert scheme.kv.observer is not None


def test_learned_activations_take_no_observer():
    lsq = Lsq(granularity="tensor", gradient_count="features")
    with pytest.raises(BadInputError, match="takes no observer"):
        QuantizationScheme.from_json({"activation": {"quantizer": lsq.to_json(), "observer": "minmax"}})
    assert QuantizationScheme(activation=TensorScheme(lsq), widths=(4,)).activation.at(4) == lsq
