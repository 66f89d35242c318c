"""Schemes by name are schemes like any other, and what they spell is what is stored."""

from pathlib import Path

import pytest
import torch

from orchestrate.config.loader import load_config, to_plain
from orchestrate.config.train import TrainConfig
from qalof.errors import BadInputError
from qalof.quantization.named_schemes import SCHEMES
from qalof.quantization.scheme import QuantizationScheme

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", list(SCHEMES))
def test_a_name_is_a_whole_scheme_that_is_read_back_from_what_it_spells(name):
    scheme = QuantizationScheme.from_json(name)
    assert QuantizationScheme.from_json({"scheme": name}) == scheme
    assert QuantizationScheme.from_json(scheme.to_json()) == scheme
    for bits in (4, 8):
        weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
        rounded = scheme.weight.at(bits).fake_quantize(weight, bits)
        assert (rounded - weight).square().mean() < (0.03 if bits == 4 else 0.001)


@pytest.mark.parametrize("name", ["s1", "s2", "s3"])
def test_the_references_that_round_per_channel_and_token_are_the_default(name):
    assert QuantizationScheme.from_json(name) == QuantizationScheme()


def test_keys_beside_the_name_are_laid_over_the_scheme():
    scheme = QuantizationScheme.from_json({"scheme": "grouped", "held": "int8"})
    assert scheme.held == "int8"
    assert scheme.weight == QuantizationScheme.from_json("grouped").weight


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BadInputError, match="did you mean 'grouped'"):
        QuantizationScheme.from_json("groupde")


@pytest.mark.parametrize("override", ["switch.quantization=grouped", "switch.quantization={scheme: grouped}"])
def test_a_config_names_a_scheme_and_records_it_in_full(override):
    config = load_config(TrainConfig, CONFIGS / "train" / "sp_tiny.yaml", [override])
    assert config.switch.quantization == QuantizationScheme.from_json("grouped")
    assert to_plain(config)["switch"]["quantization"]["weight"]["quantizer"]["group_size"] == 32
