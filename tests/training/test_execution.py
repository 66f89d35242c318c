"""How a step is carried out: full fine-tuning, rounded gradients, autocast, recomputation; all resumable."""

from dataclasses import replace

import pytest
import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.checkpoint.trainer import load_checkpoint, save_checkpoint
from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.tasks.squad_span import SpanSettings, SpanTask
from qalof.training.gradient_rounding import round_stochastically
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import CyclicPrecisionTraining, SwitchablePrecision
from qalof.training.objectives.precision_schedule import CyclicPrecision

SETTINGS = TrainSettings(steps=4, batch_size=4, micro_batch_size=2, learning_rate=1e-3, seed=3)
LSQ = {"weight": {"quantizer": {"method": "lsq", "granularity": "channel"}}, "widths": [8, 4]}


@pytest.fixture(scope="module")
def make(random_model):
    task = SpanTask(load_tokenizer(random_model), SpanSettings(train_split="train[:12]", max_length=64, stride=16))

    def factory(settings=SETTINGS, specs=None, gradient_bits=None, mixed=False, quantization=None):
        switch = SwitchSettings(full_finetune=settings.full_finetune, quantization=quantization or {})
        model = build(BaseModel(random_model, task.head), specs or {}, switch, seed=1)
        if mixed:
            maps = [Bitmap.parse(form, model.site_names) for form in ("striped84", "striped48")]
            objective = SwitchablePrecision(maps, model.sites)
        else:
            schedule = CyclicPrecision(4, 8, 1, settings.steps)
            objective = CyclicPrecisionTraining(model.sites, schedule, gradient_bits)
        return Trainer(model, task, objective, settings)

    return factory


def run(trainer, until):
    while trainer.step < until:
        trainer.train_step()
    groups = trainer.model.trainable_groups()
    return {f"{g}/{path}": p.detach().clone() for g, group in groups.items() for path, p in group.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


SPECS = {"8": AdapterSpec(2, 4), "4": AdapterSpec(2, 4)}
FULL = replace(SETTINGS, full_finetune=True)
RUNS = {
    "full": {"settings": FULL},
    "full-adapters": {"settings": FULL, "specs": SPECS},
    "full-lsq-gradients": {"settings": FULL, "quantization": LSQ, "gradient_bits": 8},
    "gradients": {"specs": {"shared": AdapterSpec(2, 4)}, "gradient_bits": 8},
    "bf16": {"settings": replace(SETTINGS, precision="bf16"), "specs": {"shared": AdapterSpec(2, 4)}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_from_its_checkpoint_ends_with_the_same_weights_bit_for_bit(make, name, tmp_path):
    def started():
        trainer = make(**RUNS[name])
        if name == "full-lsq-gradients":
            trainer.objective = SwitchablePrecision(
                [Bitmap.uniform(trainer.model.site_names, bits) for bits in (8, 4)], trainer.model.sites
            )
            trainer.objective.gradient_bits = 8
            trainer.calibrate()
        return trainer

    whole = run(started(), 4)
    before = started()
    run(before, 2)
    save_checkpoint(before, tmp_path / "c", {})
    after = started()
    load_checkpoint(after, tmp_path / "c")
    assert_equal(run(after, 4), whole)


def test_fully_tuned_weights_move_and_are_loaded_with_the_model(make, tmp_path):
    trainer = make(**RUNS["full"])
    start = run(trainer, 0)
    trained = run(trainer, 2)
    still = {name for name, tensor in start.items() if torch.equal(tensor, trained[name])}
    assert not {name for name in still if name.endswith((".c_attn.weight", ".c_fc.weight", "wte.weight"))}
    qalof.save(trainer.model, tmp_path / "m")
    loaded = qalof.load(tmp_path / "m").eval()
    ids = torch.arange(12)[None]
    for bits in (32, 4):
        outputs = []
        for model in (loaded, trainer.model.eval()):
            model.set_bitmap(bits)
            outputs.append(model(input_ids=ids).start_logits)
        assert torch.equal(*outputs)


def test_full_fine_tuning_of_a_model_that_would_not_save_it_is_refused(make):
    trainer = make(specs=SPECS)
    with pytest.raises(BadInputError, match="full_finetune"):
        Trainer(trainer.model, trainer.task, trainer.objective, FULL)


def test_the_mean_of_a_stochastically_rounded_gradient_is_the_gradient():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(40, generator=generator)
    draws = torch.stack([round_stochastically(gradient, 3, generator) for _ in range(4000)])
    step = (gradient.max() - gradient.min()) / 7
    assert len(draws.unique()) <= 8
    # the standard error of a mean of roundings is at most half a step over the root of their number
    assert (draws.mean(dim=0) - gradient).abs().max() < 4 * step / 2 / 4000**0.5
    constant = torch.full((5,), 0.3)
    assert torch.equal(round_stochastically(constant, 8, generator), constant)


def test_rounded_gradients_differ_from_plain_ones_and_leave_no_hook(make):
    plain, rounded = make(specs=SPECS), make(specs=SPECS, gradient_bits=4)
    assert plain.train_step().losses == rounded.train_step().losses
    pairs = [(p.grad, q.grad) for g in plain.groups for p, q in zip(plain.groups[g], rounded.groups[g], strict=True)]
    assert any(p is not None and not torch.equal(p, q) for p, q in pairs)
    assert run(rounded, 2).keys() == run(plain, 2).keys()


@pytest.mark.parametrize("specs", [SPECS])
def test_recomputed_activations_give_the_same_gradients_with_mixed_bitmaps_switched_between(make, specs):
    kept = make(specs=specs, mixed=True)
    again = make(replace(SETTINGS, activation_checkpointing=True), specs=specs, mixed=True)
    assert kept.train_step().losses == again.train_step().losses
    for name, group in kept.groups.items():
        for p, q in zip(group, again.groups[name], strict=True):
            assert torch.equal(p.grad, q.grad)


def test_bf16_is_close_to_fp32_and_keeps_parameters_in_fp32(make):
    full, half = make(specs=SPECS), make(replace(SETTINGS, precision="bf16"), specs=SPECS)
    expected, got = full.train_step().losses, half.train_step().losses
    assert got == pytest.approx(expected, rel=0.05)
    assert got != expected
    assert {p.dtype for group in half.groups.values() for p in group} == {torch.float32}


def test_what_cannot_be_compiled_is_refused(make):
    with pytest.raises(BadInputError, match="gradient_bits"):
        make(replace(SETTINGS, compile=True), specs=SPECS, gradient_bits=8)
