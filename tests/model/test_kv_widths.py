"""Keys and values at widths of their own: each is rounded as the cache of its width rounds it, in every family."""

import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed
from qalof.model.layers.kv_cache import quantize_kv
from qalof.model.settings import SwitchSettings
from qalof.model.sites import find_sites
from qalof.model.switchable import build
from qalof.site import KvLayout

KINDS = pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
"""Fused in runs, fused by head, and two projections."""
FUSED_AND_APART = pytest.mark.parametrize("name", ["gpt2", "llama"])


def test_a_layout_says_what_is_keys_and_what_is_values(family):
    layouts = [site.kv for site in find_sites(family.base.load()) if site.kv]
    assert [part for layout in layouts for part in layout.holds] in (["keys", "values"] * 2, ["values", "keys"] * 2)
    for layout in layouts:
        assert dict(zip(layout.holds, layout.widths(8), strict=True)) == dict.fromkeys(layout.holds, 8)


def test_a_layout_must_say_what_each_part_is():
    with pytest.raises(BadInputError, match="got 1 parts that hold keys, values; give holds one entry per part"):
        KvLayout(1, 4, ((0, 4),))


@pytest.mark.parametrize("granularity", ["token", "head"])
@KINDS
@torch.no_grad()
def test_each_part_is_rounded_as_at_its_own_width(families, name, granularity):
    model = build(families(name).base, settings=SwitchSettings(kv_granularity=granularity))
    for switch in model.switches:
        layout = switch.site.kv
        if layout is None:
            continue
        x = torch.randn(2, 5, switch.site.out_features, generator=torch.Generator().manual_seed(0))
        rounded = {
            form: quantize_kv(x, layout, qalof.LayerBits.parse(f"w8a8{form}").kv, switch.linear.kv_quantizers)
            for form in ("kv32", "kv8", "kv3", "k8v3", "k3v32")
        }
        parts = {form: _parts(y, layout) for form, y in rounded.items()}
        for part in layout.holds:
            keys = part == "keys"
            assert torch.equal(parts["k8v3"][part], parts["kv8" if keys else "kv3"][part])
            assert torch.equal(parts["k3v32"][part], parts["kv3" if keys else "kv32"][part])
            assert not torch.equal(parts["k8v3"][part], parts["kv3" if keys else "kv8"][part])


@FUSED_AND_APART
@torch.no_grad()
def test_decoding_with_a_cache_of_two_widths_equals_the_full_forward(families, name, tokens, specs, stirred):
    model = stirred(build(families(name).base, specs)).double()
    model.set_bitmap("w4a8k8v3")
    out = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), min_new_tokens=4, max_new_tokens=4, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    full = model(out.sequences).logits[:, tokens.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=0, atol=1e-5, check_dtype=False)
    for other in ("w4a8kv8", "w4a8kv3", "w4a8k3v8"):
        model.set_bitmap(other)
        assert not torch.allclose(model(out.sequences).logits[:, tokens.shape[1] - 1 : -1], full, atol=1e-3)


@FUSED_AND_APART
@torch.no_grad()
def test_a_checkpoint_and_a_packed_folder_compute_what_the_model_computes(
    families, name, tokens, specs, stirred, tmp_path
):
    model = stirred(build(families(name).base, specs)).eval()
    mixed = ",".join(["w4a8k8v3", "w8a8kv4"])
    model.set_bitmap(mixed)
    expected = model(tokens).logits
    qalof.save(model, tmp_path / "checkpoint")
    loaded = qalof.load(tmp_path / "checkpoint").eval()
    loaded.set_bitmap(mixed)
    assert torch.equal(loaded(tokens).logits, expected)
    save_packed(model, mixed, tmp_path / "packed")
    assert torch.equal(load_packed(tmp_path / "packed")(tokens).logits, expected)


@FUSED_AND_APART
def test_adapters_learn_through_a_cache_of_two_widths(families, name, tokens, specs, stirred):
    model = stirred(build(families(name).base, specs))
    found = {}
    for form in ("k8v3", "kv8", "kv3"):
        model.zero_grad(set_to_none=True)
        model.set_bitmap(f"w4a8{form}")
        model(tokens, labels=tokens).loss.backward()
        found[form] = torch.cat([p.grad.flatten() for p in model.trainable_groups()["4"].values()])
        assert found[form].isfinite().all()
    assert all((found["k8v3"] - found[other]).abs().max() > 0 for other in ("kv8", "kv3"))


def _parts(y, layout):
    """What a projection of (..., out) gives to the cache, by what it is."""
    grouped = y.unflatten(-1, (layout.groups, -1))
    return {part: grouped[..., start:stop] for part, (start, stop) in zip(layout.holds, layout.parts, strict=True)}
