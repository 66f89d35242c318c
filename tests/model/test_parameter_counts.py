"""The references' parameter counts, exactly, on GPT-2 as it is published but without its numbers (meta tensors)."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, masking_utils

from qalof.model.adapters import REFERENCE_SPECS, AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.sites import find_sites
from qalof.model.switchable import build
from qalof.site import HeadMode


def gpt2():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def sites():
    """49, the head last."""
    return find_sites(gpt2(), HeadMode.UNTIED)


def counts(settings, specs):
    model = build(BaseModel("gpt2", HeadKind.CAUSAL_LM), specs, settings, pretrained=gpt2())
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for group in model.trainable_groups().values() for p in group.values())
    assert trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total, total - trainable, trainable


def test_parameters_per_unit_of_rank(sites):
    one = AdapterSpec(rank=1)
    by_name = {site.name: one.parameters([site]) for site in sites}
    assert by_name["h.0.attn.c_attn"] == 3_072
    assert by_name["h.0.attn.c_proj"] == 1_536
    assert by_name["h.0.mlp.c_fc"] == by_name["h.0.mlp.c_proj"] == 3_840
    assert one.parameters(sites[:4]) == 12_288
    assert one.parameters(sites[:48]) == 147_456
    assert by_name["lm_head"] == 51_025
    assert one.parameters(sites) == 198_481


def test_s4_cyclic_precision_training():
    """One adapter of rank 16 on 49 sites, the head untied, LayerNorms trained."""
    settings = SwitchSettings(head_mode="untied", norms="shared")
    assert counts(settings, REFERENCE_SPECS["s4-cpt"]) == (166_212_880, 162_998_784, 3_214_096)


@pytest.mark.slow
def test_s4_switchable_precision(monkeypatch):
    """14 adapters of rank 64 on 48 sites, and 14 copies of the LayerNorms that are not trained."""
    # the forward pass that finds each norm's site would read the mask's numbers, which meta tensors lack
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *tensors: True)
    settings = SwitchSettings(norms="frozen_copies")
    assert counts(settings, REFERENCE_SPECS["s4-sp"]) == (257_097_984, 124_977_408, 132_120_576)


def test_s3_and_s1_totals(sites):
    assert sum(spec.rank for spec in REFERENCE_SPECS["s3"].values()) == 56
    assert sum(spec.parameters(sites) for spec in REFERENCE_SPECS["s3"].values()) == 11_114_936
    assert sum(spec.parameters(sites[:48]) for spec in REFERENCE_SPECS["s1"].values()) == 2_359_296


def test_s3_ranks_and_alphas():
    """Rank 8 from 6 bits up and 16 below; alpha twice the rank, four times at 4 bits."""
    found = {name: (spec.rank, spec.alpha, spec.scaling) for name, spec in REFERENCE_SPECS["s3"].items()}
    assert found == {"4": (16, 64, 4), "5": (16, 32, 2), "6": (8, 16, 2), "8": (8, 16, 2), "16": (8, 16, 2)}


def test_bytes_of_the_published_model_by_line():
    """48 sites at 8 bits: 84,934,656 bytes and 4 for each of 82,944 channels; S1's two adapters; the rest in fp32."""
    model = build(BaseModel("gpt2", HeadKind.CAUSAL_LM), REFERENCE_SPECS["s1"], pretrained=gpt2())
    stored = model.storage(8)
    assert stored.weight_bytes == 84_934_656 + 4 * 82_944
    assert stored.adapter_bytes == 4 * 2_359_296
    assert stored.unquantized_bytes == 4 * 39_505_152
    assert stored.total_bytes == 85_266_432 + 9_437_184 + 158_020_608
    assert build(BaseModel("gpt2", HeadKind.CAUSAL_LM), pretrained=gpt2()).storage(32).total_bytes == 4 * 124_439_808


@pytest.mark.parametrize(
    ("mode", "weights_at_4", "rest", "total_at_32"),
    [
        ("tied_view", 19_298_688 + 201_028, 39_505_152, 124_439_808),
        ("untied", 19_298_688 + 201_028, 39_505_152, 163_037_184),
        ("tied_both", 19_298_688 + 201_028, 907_776, 124_439_808),
    ],
)
def test_bytes_of_the_head_by_mode(mode, weights_at_4, rest, total_at_32):
    """The head at 4 bits: 38,597,376 / 2 bytes and an fp32 scale per row, 50,257; the rest with a copy or not."""
    model = build(BaseModel("gpt2", HeadKind.CAUSAL_LM), settings=SwitchSettings(head_mode=mode), pretrained=gpt2())
    stored = model.storage(4)
    assert stored.weight_bytes == 42_467_328 + 331_776 + weights_at_4
    assert stored.unquantized_bytes == 4 * rest
    assert model.storage(32).total_bytes == 4 * total_at_32
