"""Draws are the same on every processor: what is on record here was drawn on another one.

`make test-portable` repeats these tests as other processors would run them.
"""

import hashlib

import pytest
import torch
from torch import nn

from qalof.attacks.methods.gbda import gumbel
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from qalof.rng import PortableDropout, make_dropout_portable, portable_draws

SIZES = (1, 7, 16, 17, 256, 1003)


def digest(*tensors: torch.Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def drawn(fill, dtype=torch.float32):
    torch.manual_seed(0)
    with portable_draws():
        return [fill(torch.empty(size, dtype=dtype)) for size in SIZES]


FILLS = {
    "normal": (lambda t: t.normal_(0.5, 0.02), "05f1c6d87234aaf7"),
    "uniform": (lambda t: t.uniform_(-0.3, 0.7), "1385efd9dc530584"),
    "kaiming": (lambda t: nn.init.kaiming_uniform_(t[None], a=5**0.5), "496b5e6cfd01baf4"),
    "linear": (lambda t: nn.Linear(len(t), 3).weight.detach(), "838a59add91e9214"),
}
every_fill = pytest.mark.parametrize("name", FILLS)


@every_fill
def test_draws_are_those_on_record(name):
    fill, recorded = FILLS[name]
    assert digest(*drawn(fill)) == recorded


@every_fill
def test_draws_are_torchs_own_up_to_their_last_bit_and_leave_its_generator_where_torch_does(name):
    fill, _ = FILLS[name]
    ours, then = drawn(fill), torch.rand(())
    torch.manual_seed(0)
    for mine, theirs in zip(ours, [fill(torch.empty(size)) for size in SIZES], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    assert torch.equal(torch.rand(()), then)


@pytest.mark.parametrize("name", ["normal", "uniform", "kaiming"])
def test_a_tensor_in_float64_is_filled_with_the_numbers_of_one_in_float32(name):
    fill, _ = FILLS[name]
    for narrow, wide in zip(drawn(fill), drawn(fill, torch.float64), strict=True):
        assert torch.equal(narrow.double(), wide)


def test_a_transposed_tensor_is_filled_too():
    with portable_draws():
        filled = torch.zeros(4, 8).T.normal_()
    assert (filled != 0).all()


@pytest.mark.parametrize(("init", "recorded"), [("kaiming", "375c769d212affbb"), ("gaussian", "60403506ca9b1433")])
def test_adapters_and_new_heads_begin_as_on_record(init, recorded):
    model = build(BaseModel("tiny", HeadKind.SPAN), {"4": AdapterSpec(4, 8, init=init)}, seed=3)
    factors = [p for name, p in sorted(model.named_parameters()) if "lora_A" in name]
    assert digest(*factors, model.model.qa_outputs.weight) == recorded


def test_dropout_masks_are_those_on_record_and_keep_the_mean():
    layer = PortableDropout(0.25)
    torch.manual_seed(0)
    masked = layer(torch.ones(200, 100))
    assert digest(masked) == "9aa8959263fdb713"
    assert masked.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(masked.mean()) == pytest.approx(1, abs=0.02)
    torch.manual_seed(0)
    assert torch.equal(layer(torch.ones(200, 100).double()) != 0, masked != 0)
    assert torch.equal(layer.eval()(masked), masked)
    assert not PortableDropout(1.0)(masked).any()


def test_the_gradient_of_dropout_is_its_mask():
    x = torch.ones(50, requires_grad=True)
    out = PortableDropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_every_dropout_of_a_switchable_model_is_portable(random_model):
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4, dropout=0.1)})
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
    assert kinds == {PortableDropout}
    plain = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2))
    make_dropout_portable(plain)
    assert type(plain[0]) is PortableDropout


def test_gumbel_noise_is_that_on_record():
    noise = gumbel((7, 31), torch.Generator().manual_seed(0))
    assert digest(noise) == "c9407124543b3e5d"
