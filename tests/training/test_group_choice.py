"""Training at bitmaps with group sizes: adapters are by width, and a checkpoint runs at every group size."""

import pytest
import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import InTurn, StepwisePrecision, SwitchablePrecision


@pytest.fixture(scope="module")
def task(random_model):
    return qalof.task("language-modeling", source=random_model, max_length=16, stride=16, train_split="train[:40]")


def trained(task, source, forms, turns=False, seed=0):
    model = build(BaseModel(source, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4), "8": AdapterSpec(2, 4)}, seed=seed)
    bitmaps = tuple(Bitmap.parse(form, model.site_names) for form in forms)
    objective = StepwisePrecision(InTurn(bitmaps), model.sites) if turns else SwitchablePrecision(bitmaps, model.sites)
    settings = TrainSettings(steps=4, batch_size=4, learning_rate=1e-2, seed=1)
    return model, Trainer(model, task, objective, settings)


def weights(model, name):
    return {path: parameter.detach().clone() for path, parameter in model.trainable_groups()[name].items()}


def test_the_adapter_of_the_bits_learns_at_every_group_size_and_no_other(task, random_model, tmp_path):
    model, trainer = trained(task, random_model, ["w4g8", "w4g16", "w4"], turns=True)
    before = {name: weights(model, name) for name in ("4", "8")}
    seen = []
    for _ in range(3):
        seen += trainer.train_step().losses
    assert seen == ["w4g8a32", "w4g16a32", "w4a32"]
    assert all(torch.equal(old, weights(model, "8")[path]) for path, old in before["8"].items())
    assert any(not torch.equal(old, weights(model, "4")[path]) for path, old in before["4"].items())
    # a checkpoint has nothing of a group size: it runs at each of them
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    ids = torch.arange(5, 21).reshape(1, -1)
    for form in ("w4g8", "w4g16", "w8g32"):
        with torch.no_grad(), loaded.at(form, eval=True), model.at(form, eval=True):
            assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_training_at_a_choice_equals_training_with_that_granularity(task, random_model, monkeypatch):
    losses = []
    for forms, granularity in ((["w8", "w4g8"], None), (["w8", "w4"], 8)):
        model, trainer = trained(task, random_model, forms)
        if granularity:
            for switch in model.switches:
                plain = switch.linear.scheme.weight.quantizer
                by_width = {4: plain.in_groups(granularity)}
                scheme = type(switch.linear.scheme.weight)(plain, by_width)
                object.__setattr__(switch.linear.scheme, "weight", scheme)
                switch.linear.weight_quantizer.scheme = scheme
        losses.append([list(trainer.train_step().losses.values()) for _ in range(3)])
    assert losses[0] == losses[1]
