"""A forward that begins at the first changed site is that of the whole model, bit for bit, and does less."""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.evaluation.shared_prefix import SharedPrefix, prefix_bytes
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import EmbeddingMode, HeadMode

WHOLE_ROWS = {"activation": {"quantizer": {"method": "symmetric", "granularity": "tensor"}}}


def outputs(model, batches):
    with torch.no_grad():
        return [model(**batch).logits for batch in batches]


def check(model, reference="8", changed=("w4a8kv8",)):
    """Run every site alone at each change, in full and shared, over two batches with padding."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(3, 10, dtype=torch.int64)
    mask[1, 6:] = 0
    batches = [
        {"input_ids": torch.randint(3, 60, (3, 10), generator=generator), "attention_mask": mask} for _ in range(2)
    ]
    shared = SharedPrefix(model.eval(), reference)
    with shared.recording():
        first = outputs(shared, batches)
    with model.at(reference):
        assert all(map(torch.equal, first, outputs(model, batches)))
    different = 0
    for bits in changed:
        for site in model.site_names:
            with model.at(reference) as bitmap, model.at(bitmap.replace({site: bits})):
                whole = outputs(model, batches)
                with shared.changing([site]):
                    found = outputs(shared, batches)
            assert all(map(torch.equal, whole, found)), site
            different += not torch.equal(whole[0], first[0])
    return different


def test_one_changed_site_gives_the_full_forward_bit_for_bit(switchable):
    assert check(switchable) == len(switchable.site_names)


@pytest.mark.parametrize(
    "settings",
    [
        {"head_mode": HeadMode.TIED_VIEW},
        {"head_mode": HeadMode.TIED_BOTH},
        {"embedding": EmbeddingMode.SITE},
        {"norms": "per_width"},
        {"merge": "merge_then_quantize"},
        {"quantization": QuantizationScheme.from_json(WHOLE_ROWS)},
        {"quantization": QuantizationScheme.from_json({"held": "int8"})},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_so_it_is_whatever_the_settings(families, specs, stirred, name, settings):
    model = stirred(build(families(name).base, specs, SwitchSettings(**settings)))
    # activations of an embedding are inert
    assert check(model, changed=("w4a8kv8", "w8a4kv4"))


def counted(model, run):
    """How many multiply-adds of sites' layers ``run`` causes."""
    done = [0]

    def count(module, inputs, output):
        done[0] += inputs[0].numel() * output.shape[-1]

    handles = [switch.linear.register_forward_hook(count) for switch in model.switches]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return done[0]


def test_over_all_sites_it_halves_the_products(families, specs):
    # inside a branch's layer a hook on the frozen one counts what is run, not what is replaced
    model = build(families("llama").base, specs).eval()
    batch = {"input_ids": torch.arange(3, 13)[None]}
    shared = SharedPrefix(model, 32)
    with shared.recording():
        shared(**batch)

    def one_at_a_time():
        for site in model.site_names:
            for bits in ("w2", "w3", "w4", "w5", "w6", "w8"):
                with shared.changing([site]), model.at(model.bitmap.replace({site: bits})), torch.no_grad():
                    shared(**batch)

    whole = counted(model, lambda: model(**batch)) * 6 * len(model.site_names)
    # the sites of two such blocks have 58 % of the products at and after them; those of many have a half
    assert 0.57 * whole < counted(model, one_at_a_time) < 0.6 * whole


def test_several_sites_share_what_stands_before_the_first(families):
    model = build(families("gpt2").base).eval()
    batch, sites = {"input_ids": torch.arange(3, 13)[None]}, ["h.1.mlp.c_fc", "h.1.attn.c_proj"]
    shared = SharedPrefix(model, 32)
    with shared.recording():
        shared(**batch)
    with model.at(model.bitmap.replace(dict.fromkeys(sites, "w3"))), torch.no_grad(), shared.changing(sites):
        assert torch.equal(shared(**batch).logits, model(**batch).logits)


def test_other_inputs_and_generated_text_run_in_full(families):
    model = build(families("gpt2").base).eval()
    batch, other = ({"input_ids": torch.arange(start, start + 8)[None]} for start in (3, 20))
    shared = SharedPrefix(model, 32)
    with shared.recording():
        shared(**batch)
    with model.at(model.bitmap.replace({"h.1.mlp.c_proj": "w2"})), torch.no_grad(), shared.changing(["h.1.mlp.c_proj"]):
        assert torch.equal(shared(**other).logits, model(**other).logits)
        assert torch.equal(shared(**batch).logits, model(**batch).logits), "a second call that was not recorded"
        settings = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(shared.generate(**batch, **settings), model.generate(**batch, **settings))
    assert next(shared.parameters()) is next(model.parameters())


def test_the_model_is_as_it_was(families):
    model = build(families("gpt2").base).eval()
    before = model.bitmap
    shared = SharedPrefix(model, 8)
    with pytest.raises((TypeError, ValueError)), shared.recording():
        shared(nonsense=1)
    with shared.recording():
        shared(input_ids=torch.arange(3, 9)[None])
    with pytest.raises(BadInputError, match="those of the model"), shared.changing(["h.9"]):
        pass
    assert model.bitmap == before
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_memory_is_known_beforehand(families):
    model = build(families("gpt2").base)
    assert prefix_bytes(model, 100) == 100 * 32 * 2 * 4
