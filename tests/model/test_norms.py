import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering

import qalof
from qalof.errors import BadInputError
from qalof.model.norms import SwitchableNorm, norm_sites
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.sites import find_sites
from qalof.model.switchable import build
from qalof.site import HeadMode


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


def made(family, specs, norms, **more):
    return build(family.base, specs, SwitchSettings(norms=norms, **more))


def test_a_norm_goes_with_the_site_that_runs_next(families):
    expected = {
        "gpt2": {"h.0.ln_1": "h.0.attn.c_attn", "h.1.ln_2": "h.1.mlp.c_fc", "ln_f": "h.1.mlp.c_proj"},
        "llama": {
            "layers.0.input_layernorm": "layers.0.self_attn.q_proj",
            "layers.1.post_attention_layernorm": "layers.1.mlp.gate_proj",
            "norm": "layers.1.mlp.down_proj",
        },
        "opt": {"decoder.layers.1.final_layer_norm": "decoder.layers.1.fc1"},
    }
    for name, owners in expected.items():
        model = families(name).base.load()
        sites = find_sites(model)
        found = norm_sites(model, sites)
        for norm, site in owners.items():
            assert sites[found[norm]].name == site
    model = families("gpt2").base.load()
    assert norm_sites(model, find_sites(model, HeadMode.TIED_VIEW))["ln_f"] == 8


@pytest.mark.parametrize("norms", ["shared", "per_width", "frozen_copies"])
def test_fresh_norms_change_nothing(family, specs, norms, tokens):
    model, plain = made(family, specs, norms), build(family.base, specs)
    for bitmap in (32, 8, "striped84"):
        model.set_bitmap(bitmap)
        plain.set_bitmap(bitmap)
        assert torch.equal(logits(model, tokens), logits(plain, tokens))


def test_copies_of_a_width_are_trained_with_its_adapter_alone(family, specs, tokens):
    model = made(family, specs, "per_width")
    model.set_bitmap(4)
    model(tokens, labels=tokens).loss.backward()
    groups = model.trainable_groups()
    assert set(groups) == {"4", "8"}
    own = {path: p for path, p in groups["4"].items() if "lora_" not in path}
    assert len(own) == len(list(family.base.load().named_parameters())) - len(
        [1 for path, _ in family.base.load().named_parameters() if "norm" not in path.lower() and ".ln_" not in path]
    )
    assert all(p.grad is not None and p.requires_grad for p in own.values())
    assert all(p.grad is None for p in groups["8"].values())


def test_shared_norms_are_a_group_of_their_own(family, specs, tokens):
    model = made(family, specs, "shared")
    model.set_bitmap(8)
    model(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in model.trainable_groups()["norms"].values())


def test_frozen_copies_are_not_trained(families, specs):
    model = made(families("gpt2"), specs, "frozen_copies")
    copies = [m for m in model.modules() if isinstance(m, SwitchableNorm)]
    assert len(copies) == 5
    assert not any(p.requires_grad for norm in copies for p in norm.parameters())


def test_each_block_runs_the_copy_of_its_own_width(families, specs, stirred):
    model = stirred(made(families("gpt2"), specs, "per_width"))
    model.set_bitmap("striped84")
    blocks = model.model.transformer.h
    assert [block.ln_1.active for block in blocks] == ["8", "4"]
    model.use_adapter(None)
    assert blocks[0].ln_1.active is None


@pytest.mark.parametrize("norms", ["shared", "per_width"])
def test_trained_norms_are_saved_and_open_with_plain_peft(family, specs, norms, stirred, tokens, tmp_path):
    model = stirred(made(family, specs, norms))
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    for bitmap in (32, 8, 4):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    plain = AutoModelForCausalLM.from_pretrained(family.folder)
    peft = PeftModel.from_pretrained(plain, tmp_path / "c" / "adapters" / "4").eval()
    model.set_bitmap(32)
    model.use_adapter("4")
    torch.testing.assert_close(logits(peft, tokens), logits(model, tokens), rtol=0, atol=2e-5)


def test_norms_and_a_task_head_travel_together(random_model, specs, stirred, tokens, tmp_path):
    base = BaseModel(random_model, HeadKind.SPAN)
    model = stirred(build(base, specs, SwitchSettings(norms="per_width")))
    qalof.save(model, tmp_path / "c")
    plain = AutoModelForQuestionAnswering.from_pretrained(random_model)
    peft = PeftModel.from_pretrained(plain, tmp_path / "c" / "adapters" / "8").eval()
    model.set_bitmap(32)
    model.use_adapter("8")
    with torch.no_grad():
        torch.testing.assert_close(peft(tokens).start_logits, model(tokens).start_logits, rtol=0, atol=2e-5)


def test_copies_need_adapters_to_be_named_by(families):
    with pytest.raises(BadInputError, match=r"norms per_width makes one copy per adapter: there are none; take shared"):
        made(families("gpt2"), {}, "per_width")
