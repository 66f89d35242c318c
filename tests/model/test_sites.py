import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

import qalof
from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.layers.kv_layout import map_kv
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.sites import count_unquantized, find_sites
from qalof.model.switchable import build
from qalof.site import HeadMode, KvLayout


@pytest.fixture(scope="module")
def gpt2_124m():
    """GPT-2 as it is published, without its numbers."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    model.tie_weights()
    return model


def test_gpt2_has_48_sites_and_49_with_the_head(gpt2_124m):
    sites = find_sites(gpt2_124m)
    assert len(sites) == 48
    assert sum(site.weights for site in sites) == 84_934_656
    assert sum(site.weights for site in sites if ".attn." in site.name) == 28_311_552
    assert sum(site.weights for site in sites if ".mlp." in site.name) == 56_623_104
    assert sum(site.out_features for site in sites) == 82_944
    with_head = find_sites(gpt2_124m, HeadMode.TIED_VIEW)
    assert len(with_head) == 49
    assert (with_head[-1].name, with_head[-1].weights) == ("lm_head", 38_597_376)
    assert [site.name for site in sites][:4] == ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"]
    assert sites[0].kv == KvLayout(12, 64, ((768, 1536), (1536, 2304)), 1, 768)


@pytest.mark.parametrize(
    ("mode", "rest"),
    [("none", 39_505_152), ("tied_view", 39_505_152), ("untied", 39_505_152), ("tied_both", 907_776)],
)
def test_what_is_never_quantized_in_gpt2(gpt2_124m, mode, rest):
    """124,439,808 less 84,934,656; less 38,597,376 where the embedding is quantized: norms, positions and biases."""
    mode = HeadMode(mode)
    found = count_unquantized(gpt2_124m, find_sites(gpt2_124m, mode), mode)
    assert found.parameters == rest
    assert found.norms == 38_400
    assert 907_776 == 38_400 + 786_432 + 12 * 6_912


def test_patterns_choose_sites_by_name(gpt2_124m):
    names = [site.name for site in find_sites(gpt2_124m, include=["*.mlp.*"], exclude=["h.0.*", "h.1.*"])]
    assert names == [f"h.{block}.mlp.{leaf}" for block in range(2, 12) for leaf in ("c_fc", "c_proj")]


@pytest.mark.parametrize(
    ("include", "exclude", "law"),
    [
        (["*.mlp.c_fx"], (), r"include must match a site: '\*.mlp.c_fx' matches none; did you mean 'h.\d+.mlp.c_fc'"),
        (["*"], ["lm_head"], "exclude must match a site: 'lm_head' matches none; known: h.0.attn.c_attn"),
        (["h.0.*"], ["*"], "include and exclude must leave a site"),
    ],
)
def test_a_pattern_that_matches_nothing_says_what_exists(gpt2_124m, include, exclude, law):
    with pytest.raises(BadInputError, match=law):
        find_sites(gpt2_124m, include=include, exclude=exclude)


def test_sites_left_out_stay_plain_and_the_choice_is_saved(families, specs, tokens, tmp_path):
    base = families("llama").base
    model = build(base, specs, SwitchSettings(include=["*.mlp.*", "*.v_proj"], exclude=["layers.0.*"]))
    assert model.site_names == tuple(
        f"layers.1.{leaf}" for leaf in ("self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    )
    assert type(model.model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    model.set_bitmap(4)
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    loaded.set_bitmap(4)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_an_inert_kv_width_is_no_error_where_the_cache_is_left_out_on_purpose(families, tokens):
    model = build(families("gpt2").base, settings=SwitchSettings(include=["*.mlp.*"]))
    model.set_bitmap(8)
    assert not any(site.kv for site in model.sites)


def test_a_fused_projection_of_an_unknown_family_refuses_a_kv_width(tmp_path):
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(tmp_path)
    model = build(BaseModel(str(tmp_path), HeadKind.CAUSAL_LM))
    assert len(model.sites) == 8
    with pytest.raises(BadInputError, match=r"where BloomForCausalLM keeps its keys and values.*such as w8a8"):
        model.set_bitmap(8)
    assert str(model.bitmap) == "32"
    model.set_bitmap("w8a8")
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[3, 4, 5]])).logits).all()
    exact = build(BaseModel(str(tmp_path), HeadKind.CAUSAL_LM), {"4": AdapterSpec()}, SwitchSettings(policy="exact"))
    assert str(exact.bitmap) == "w4a4"


def test_a_projection_whose_size_does_not_fit_its_heads_has_no_layout():
    config = GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=64, add_cross_attention=True)
    sites = {site.name: site.kv for site in find_sites(GPT2LMHeadModel(config))}
    assert sites["h.0.attn.c_attn"] is not None
    assert sites["h.0.crossattention.c_attn"] is None


def test_any_model_with_linear_layers_can_be_walked():
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    names = [site.name for site in find_sites(BertForMaskedLM(config))]
    assert "encoder.layer.0.attention.self.query" in names


def test_keys_and_values_of_a_projection_interleaved_by_head():
    """Two heads of two features: q q k k v v | q q k k v v."""
    layout = KvLayout(2, 2, ((2, 4), (4, 6)), groups=2)
    projected = torch.arange(12.0).reshape(1, 1, 12)
    seen = []

    def change(features):
        seen.append(features)
        return -features

    changed = map_kv(projected, layout, change)
    assert seen[0].tolist() == [[[[2, 3], [8, 9]]]]
    assert seen[1].tolist() == [[[[4, 5], [10, 11]]]]
    assert changed.flatten().tolist() == [0, 1, -2, -3, -4, -5, 6, 7, -8, -9, -10, -11]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group", ""])
def test_kv_scales_that_look_ahead_are_refused(granularity):
    with pytest.raises(BadInputError, match=r"kv_granularity must be token or head.*differ from the full forward"):
        SwitchSettings(kv_granularity=granularity)


@pytest.mark.parametrize(
    ("arguments", "law"),
    [
        ({"policy": "nearest_highr"}, "policy must be one of exact.*did you mean 'nearest_higher'"),
        ({"head_mode": "tied"}, "head_mode must be one of none, tied_view, untied, tied_both"),
        ({"merge": "b"}, "merge must be one of branch"),
        ({"norms": "all"}, "norms must be one of frozen"),
        ({"include": "*.mlp.*"}, r"include must be a list of patterns.*write \['\*.mlp.\*'\]"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(arguments, law):
    with pytest.raises(BadInputError, match=law):
        SwitchSettings(**arguments)


def test_settings_are_read_back_as_they_were():
    settings = SwitchSettings("nearest", "untied", ["*.mlp.*"], ["h.0.*"], "quantize_factors", "quantized", "shared")
    assert SwitchSettings.from_json(settings.to_json()) == settings
    with pytest.raises(BadInputError, match="no setting 'mergee'; did you mean 'merge'"):
        SwitchSettings.from_json({"mergee": "branch"})
