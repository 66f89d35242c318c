"""The precision range test: its decision, and that it leaves no trace."""

import pytest
import torch

from qalof.errors import BadInputError, NonFiniteLossError
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.squad_span import SpanSettings, SpanTask
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import CyclicPrecisionTraining
from qalof.training.objectives.precision_schedule import CyclicPrecision
from qalof.training.range_test import lower_bound, precision_range_test, relative_improvements


@pytest.mark.parametrize(
    ("improvements", "lowest"),
    [
        ({2: 0.0, 3: 0.005, 4: 0.3, 5: 0.4}, 4),
        ({5: 0.4, 4: 0.3, 3: -0.1}, 4),  # the order of the map is no matter
        ({2: 0.02, 3: 0.0}, 2),
        ({2: 0.01, 3: 0.011}, 3),  # to reach the threshold is not to exceed it
        ({2: -0.5, 3: 0.0}, None),
        ({2: float("nan"), 3: 0.2}, 3),
        ({}, None),
    ],
)
def test_the_lower_bound_is_the_first_width_that_improves_by_more_than_the_threshold(improvements, lowest):
    assert lower_bound(improvements, 0.01) == lowest


def test_improvements_are_relative_to_the_width_below():
    found = relative_improvements(4.0, {3: 2.0, 2: 4.0, 4: 1.9})
    assert found == {2: 0.0, 3: 0.5, 4: pytest.approx(0.05)}


@pytest.fixture
def trainer(random_model):
    task = SpanTask(load_tokenizer(random_model), SpanSettings(train_split="train[:24]", max_length=96, stride=16))
    model = build(BaseModel(random_model, task.head), {SHARED: AdapterSpec(4, 8, 0.1)}, seed=1)
    settings = TrainSettings(steps=4, batch_size=8, learning_rate=1e-2, seed=3)
    return Trainer(model, task, CyclicPrecisionTraining(model.sites, CyclicPrecision(4, 8, 1, 4)), settings)


def test_the_driver_runs_each_width_and_training_goes_on_as_if_it_had_not_been(trainer):
    trainer.train_step()
    weights = [p.detach().clone() for group in trainer.groups.values() for p in group]
    optimizer = {i: {k: v.clone() for k, v in s.items()} for i, s in trainer.optimizer.state_dict()["state"].items()}
    generator, bitmap, objective = torch.get_rng_state(), trainer.model.bitmap, trainer.objective
    found = precision_range_test(trainer, [8, 2, 4], iterations=3, window=2)
    assert list(found.losses) == list(found.improvements) == [2, 4, 8]
    assert found.lowest == lower_bound(found.improvements)
    for weight, parameter in zip(weights, (p for group in trainer.groups.values() for p in group), strict=True):
        assert torch.equal(weight, parameter)
    for i, state in trainer.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, optimizer[i][name]) for name, value in state.items())
    assert torch.equal(generator, torch.get_rng_state())
    assert (trainer.step, trainer.model.bitmap, trainer.objective) == (1, bitmap, objective)
    assert trainer.settings.schedule == "cosine"


def test_a_width_that_diverges_leaves_no_trace_either(trainer, monkeypatch):
    weights = [p.detach().clone() for group in trainer.groups.values() for p in group]
    good = trainer.train_step

    def diverging():
        if trainer.step == 2:
            raise NonFiniteLossError(2, "4", float("nan"))
        return good()

    monkeypatch.setattr(trainer, "train_step", diverging)
    with pytest.raises(NonFiniteLossError):
        precision_range_test(trainer, [4], iterations=3, window=1)
    assert trainer.step == 0
    assert not trainer.optimizer.state
    for weight, parameter in zip(weights, (p for group in trainer.groups.values() for p in group), strict=True):
        assert torch.equal(weight, parameter)


@pytest.mark.parametrize(("widths", "window"), [([], 1), ([4, 4], 1), ([1], 1), ([4], 4), ([4], 0)])
def test_impossible_tests_are_refused(trainer, widths, window):
    with pytest.raises(BadInputError):
        precision_range_test(trainer, widths, iterations=3, window=window)
