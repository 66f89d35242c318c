import pytest
import torch
from torch.nn import functional

import qalof
from qalof.bitmap import Bitmap
from qalof.checkpoint.model import load_parameters
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize

MODES = ["tied_view", "untied", "tied_both"]


def made(base, mode, specs=None, **more):
    return build(base, specs, SwitchSettings(head_mode=mode, **more))


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


def head_only(model, bits):
    return Bitmap.uniform(model.site_names, 32).replace({"lm_head": bits})


@pytest.fixture
def base(families):
    return families("gpt2").base


def test_without_a_mode_the_head_is_no_site(base):
    model = build(base)
    assert len(model.sites) == 8
    assert type(model.model.lm_head) is torch.nn.Linear


@pytest.mark.parametrize("mode", MODES)
def test_a_head_at_full_precision_changes_nothing(base, mode, tokens):
    model = made(base, mode)
    assert model.site_names[-1] == "lm_head"
    assert torch.equal(logits(model, tokens), logits(build(base), tokens))


def test_a_tied_view_rounds_what_the_head_uses_and_not_what_is_looked_up(base, tokens):
    model = made(base, "tied_view")
    hidden = model.model.transformer(tokens).last_hidden_state
    embedding = model.model.transformer.wte.weight
    assert model.model.lm_head.weight is embedding
    model.set_bitmap(head_only(model, "w3"))
    assert torch.equal(model.model.transformer(tokens).last_hidden_state, hidden)
    expected = functional.linear(hidden, fake_quantize(embedding, 3, Granularity.CHANNEL))
    assert torch.equal(logits(model, tokens), expected)


def test_tied_both_rounds_the_lookup_too(base, tokens):
    model, plain = made(base, "tied_both"), base.load()
    with torch.no_grad():
        weight = plain.transformer.wte.weight
        weight.copy_(fake_quantize(weight, 3, Granularity.CHANNEL))
    model.set_bitmap(head_only(model, "w3"))
    assert torch.equal(logits(model, tokens), logits(plain, tokens))
    model.set_bitmap(32)
    assert torch.equal(logits(model, tokens), logits(base.load(), tokens))


def test_untied_gives_the_head_a_copy(base):
    model = made(base, "untied")
    head, embedding = model.model.lm_head.weight, model.model.transformer.wte.weight
    assert head is not embedding
    assert head.data_ptr() != embedding.data_ptr()
    assert torch.equal(head, embedding)
    model.model.tie_weights()  # nothing may tie them again
    assert model.model.lm_head.weight is head


@pytest.mark.parametrize("mode", ["tied_view", "tied_both"])
def test_a_tied_weight_stays_one_through_moves_and_training(base, mode):
    model = made(base, mode).double().float()
    weight = model.model.lm_head.weight
    assert weight is model.model.transformer.wte.weight
    weight.requires_grad_(True)
    model.set_bitmap(4)
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_on_the_head_edits_no_embedding(base, mode, specs, stirred, tokens, tmp_path):
    model = made(base, mode, specs)
    embedding = model.model.transformer.wte.weight.detach().clone()
    stirred(model)
    for bitmap in (4, 8, 32):
        model.set_bitmap(bitmap)
        logits(model, tokens)
    assert torch.equal(model.model.transformer.wte.weight, embedding)
    assert any("lm_head" in path for path in model.trainable_groups()["4"])
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    for bitmap in (4, "w3a8", 32):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        assert torch.equal(logits(loaded, tokens), logits(model, tokens))


def test_tied_modes_need_a_tied_head(families):
    with pytest.raises(BadInputError, match=r"needs a head tied to the embedding.*take untied"):
        made(families("llama").base, "tied_view")


def test_a_head_of_its_own_is_not_copied(families):
    model = made(families("llama").base, "untied")
    assert model.model.lm_head.weight.numel() == 64 * 32
    assert model.unquantized.parameters == sum(p.numel() for p in model.model.parameters()) - sum(
        site.weights for site in model.sites
    )


def test_a_task_head_is_never_a_site(random_model):
    with pytest.raises(BadInputError, match="needs a language-modeling head: GPT2ForQuestionAnswering"):
        made(BaseModel(random_model, HeadKind.SPAN), "untied")


def test_another_head_of_its_own_is_another_base(families, tmp_path):
    base = families("llama").base
    qalof.save(made(base, "none"), tmp_path / "c")
    changed = base.load()
    with torch.no_grad():
        changed.lm_head.weight[0] += 1
    model = build(base, pretrained=changed)
    with pytest.raises(BadInputError, match="trained on other weights"):
        load_parameters(model, tmp_path / "c")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("mode", MODES)
def test_generation_sees_the_head_mode(base, mode, implementation, tokens):
    # in float64, where sums over other shapes push no value over a border between two levels
    model = made(base, mode).double()
    model.model.set_attn_implementation(implementation)
    model.set_bitmap(4)
    out = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=5, min_new_tokens=5, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    full = logits(model, out.sequences)[:, tokens.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=0, atol=1e-5, check_dtype=False)
