"""What holds for every family: sites, switching, training, files, and a KV cache that is rounded where it lies."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import qalof
from qalof.layer_bits import LayerBits
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.settings import SwitchSettings
from qalof.model.sites import find_sites
from qalof.model.switchable import build
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize
from qalof.site import HeadMode

SPECS_OF_WIDTHS = (32, 8, 4, "w4a8", "striped84")


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


def site_module(model, name):
    return model.model.get_submodule(f"{model.model.base_model_prefix}.{name}")


def test_every_linear_layer_of_the_blocks_is_a_site(family):
    sites = find_sites(family.base.load())
    outside = {site.name for site in sites} - family.sites
    assert {site.name for site in sites} >= family.sites
    assert outside <= {"decoder.project_in", "decoder.project_out"}
    assert all(site.fan_in_fan_out == (family.name == "gpt2") for site in sites)


def test_the_head_is_one_more_site_and_the_last(family):
    model = family.base.load()
    mode = HeadMode.UNTIED
    assert [site.name for site in find_sites(model, mode)] == [*(s.name for s in find_sites(model)), "lm_head"]
    assert find_sites(model, mode)[-1].weights == model.get_output_embeddings().weight.numel()


def test_a_fresh_model_at_full_precision_is_the_pretrained_model(family, specs, tokens):
    model = build(family.base, specs)
    torch.testing.assert_close(logits(model, tokens), logits(family.base.load(), tokens), rtol=0, atol=1e-6)


def test_fewer_bits_move_the_output_further(family, tokens):
    model = build(family.base)
    reference = logits(model, tokens)
    errors = []
    for bits in (8, 5, 3):
        model.set_bitmap(bits)
        errors.append(float((logits(model, tokens) - reference).abs().mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


def test_switching_back_gives_the_same_bits(switchable, tokens):
    switchable.set_bitmap(4)
    before = logits(switchable, tokens)
    switchable.set_bitmap("striped84")
    assert not torch.equal(logits(switchable, tokens), before)
    switchable.set_bitmap(4)
    assert torch.equal(logits(switchable, tokens), before)


def test_a_training_step_moves_the_active_adapter_alone_and_lowers_the_loss(family, specs, tokens):
    model = build(family.base, specs)
    groups = model.trainable_groups()
    assert all(p.requires_grad for group in groups.values() for p in group.values())
    optimizer = torch.optim.AdamW([p for group in groups.values() for p in group.values()], lr=1e-2)
    model.set_bitmap(4)
    idle = {path: p.detach().clone() for path, p in groups["8"].items()}
    losses = []
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in groups["4"].values())
    assert all(torch.equal(p, idle[path]) for path, p in groups["8"].items())


def test_a_saved_checkpoint_loads_to_the_same_bits(switchable, tokens, tmp_path):
    qalof.save(switchable, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    for spec in SPECS_OF_WIDTHS:
        switchable.set_bitmap(spec)
        loaded.set_bitmap(spec)
        assert torch.equal(logits(loaded, tokens), logits(switchable, tokens))


def test_a_saved_adapter_opens_with_plain_peft_which_can_merge_it(switchable, family, tokens, tmp_path):
    qalof.save(switchable, tmp_path / "c")
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(family.folder), tmp_path / "c" / "adapters" / "4"
    ).eval()
    assert peft.peft_config["default"].fan_in_fan_out == (family.name == "gpt2")
    switchable.set_bitmap(32)
    switchable.use_adapter("4")
    expected = logits(switchable, tokens)
    torch.testing.assert_close(logits(peft, tokens), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(logits(peft.merge_and_unload(), tokens), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("head", [HeadKind.SPAN, HeadKind.CLASSIFIER])
def test_task_heads_stand_on_the_pretrained_transformer(family, head, tokens, specs, stirred, tmp_path):
    if head is HeadKind.SPAN and family.name in ("phi", "phi3"):
        pytest.skip("transformers has no span head for Phi")
    base = BaseModel(family.folder, head, labels=3 if head is HeadKind.CLASSIFIER else None)
    plain, causal = base.load(), family.base.load()
    mine, its = (getattr(m, m.base_model_prefix).state_dict() for m in (plain, causal))
    assert set(mine) == set(its)
    assert all(torch.equal(mine[name], its[name]) for name in its)

    model = stirred(build(base, specs))
    assert set(model.site_names) >= family.sites
    model.set_bitmap(4)
    output = model(tokens)
    (output.start_logits if head is HeadKind.SPAN else output.logits).sum().backward()
    assert all(p.grad is not None for p in model.trainable_groups()["head"].values())
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    loaded.set_bitmap(4)
    again = loaded(tokens)
    assert all(torch.equal(output[key], again[key]) for key in output if torch.is_tensor(output[key]))


class Cache:
    """What a forward pass leaves in the KV cache, and what left the projections that fill it."""

    def __init__(self, model, tokens):
        self.features = {}
        handles = [
            site_module(model, site.name).register_forward_hook(self._keep(site))
            for site in model.sites
            if site.kv is not None
        ]
        with torch.no_grad():
            cache = model(tokens, use_cache=True).past_key_values
        self.keys = [self._rows(layer.keys) for layer in cache.layers]
        self.values = [self._rows(layer.values) for layer in cache.layers]
        for handle in handles:
            handle.remove()

    def _keep(self, site):
        def keep(module, inputs, output):
            self.features[site.name] = output.detach()

        return keep

    @staticmethod
    def _rows(cached):
        return cached.transpose(1, 2).flatten(-2)


def test_the_cache_holds_values_rounded_token_by_token(family, tokens):
    model = build(family.base)
    exact = Cache(model, tokens)
    model.set_bitmap("w32a32kv3")
    rounded = Cache(model, tokens)
    expected = fake_quantize(exact.values[0], 3, Granularity.TOKEN)
    assert torch.equal(rounded.values[0], expected)
    for values in rounded.values:  # each token has one scale, so at most seven values
        assert max(len(row.unique()) for row in values.flatten(0, 1)) <= 7


def test_keys_are_rounded_before_they_are_rotated(family, tokens):
    """At position 0 a rotation is the identity, so that the first token's cached keys are the rounded ones."""
    model = build(family.base)
    exact = Cache(model, tokens)
    model.set_bitmap("w32a32kv3")
    rounded = Cache(model, tokens)
    first = exact.keys[0][:, :1]
    if family.name == "qwen3":  # normalized after rounding
        raw = exact.features["layers.0.self_attn.k_proj"][:, :1]
        norm = model.model.model.layers[0].self_attn.k_norm
        with torch.no_grad():
            expected = norm(fake_quantize(raw, 3, Granularity.TOKEN).unflatten(-1, (2, 8))).flatten(-2)
    else:
        expected = fake_quantize(first, 3, Granularity.TOKEN)
    assert torch.equal(rounded.keys[0][:, :1], expected)


def test_queries_stay_as_they_are(family, tokens):
    model = build(family.base)
    exact = Cache(model, tokens)
    model.set_bitmap("w32a32kv2")
    rounded = Cache(model, tokens)
    for site in model.sites[: len(model.sites) // 2]:
        if site.kv is None:
            continue
        changed = (exact.features[site.name] != rounded.features[site.name]).flatten(0, 1).any(0).sum()
        assert 0 < changed <= site.kv_features


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("cache", "granularity"), [("dynamic", "token"), ("static", "head")])
def test_cached_decoding_equals_the_full_forward(family, implementation, cache, granularity, tokens, specs, stirred):
    """To float tolerance: sums over other shapes round otherwise, here by at most 8e-7 of logits of about 4.

    In double precision, so that such a difference does not push a value over a rounding boundary: in single precision
    one of these models moved by 0.03 that way, a rounding step of its cache.
    """
    model = stirred(build(family.base, specs, SwitchSettings(kv_granularity=granularity))).double()
    model.model.set_attn_implementation(implementation)
    assert model.model.config._attn_implementation == implementation
    model.set_bitmap("w4a8kv3")
    out = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), min_new_tokens=12, max_new_tokens=12, do_sample=False,
        output_logits=True, return_dict_in_generate=True, cache_implementation=cache,
    )  # fmt: skip
    full = logits(model, out.sequences)[:, tokens.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=0, atol=1e-5, check_dtype=False)
    model.set_bitmap("w4a8kv32")
    assert not torch.allclose(logits(model, out.sequences)[:, tokens.shape[1] - 1 : -1], full, atol=1e-2)


def test_right_padding_changes_no_logit(switchable, tokens):
    switchable.double().set_bitmap("w4a4kv4")
    padded = torch.cat([tokens, torch.full((2, 4), 5)], dim=1)
    mask = torch.cat([torch.ones_like(tokens), torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        got = switchable(padded, attention_mask=mask).logits[:, : tokens.shape[1]]
    # rotary positions and RMS norms are float32 within transformers
    torch.testing.assert_close(got, logits(switchable, tokens), rtol=0, atol=1e-5)


def test_recomputed_blocks_run_with_the_bits_of_their_own_forward(switchable, tokens):
    def gradients():
        switchable.zero_grad(set_to_none=True)
        losses = []
        for bits in (8, 4):
            switchable.set_bitmap(bits)
            losses.append(switchable(tokens, labels=tokens, use_cache=False).loss)
        sum(losses).backward()  # both backward passes run while the last bitmap is set
        assert switchable.bitmap[switchable.site_names[0]] == LayerBits.of(4)
        return [p.grad for group in switchable.trainable_groups().values() for p in group.values()]

    switchable.train()
    kept = gradients()
    switchable.recompute_activations()
    assert all(torch.equal(a, b) for a, b in zip(kept, gradients(), strict=True))


def test_a_saved_head_adapter_opens_with_plain_peft(family, tokens, stirred, tmp_path):
    model = stirred(build(family.base, {"4": AdapterSpec(4, 8)}, SwitchSettings(head_mode="untied")))
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    loaded.set_bitmap(4)
    model.set_bitmap(4)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    plain = load_pretrained(family.folder, HeadKind.CAUSAL_LM)
    peft = PeftModel.from_pretrained(plain, tmp_path / "c" / "adapters" / "4").eval()
    model.set_bitmap(32)
    torch.testing.assert_close(logits(peft, tokens), logits(model, tokens), rtol=0, atol=2e-5)
