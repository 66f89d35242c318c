"""What a device must not change: outputs, switching, a training step, scores, attacks, rounded caches, packed weights.

On a machine with an NVIDIA GPU ``pytest -m gpu`` runs each test there; the same tests run on the CPU everywhere.
"""

from dataclasses import replace

import pytest
import torch

import qalof
from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackExample, AttackStatus
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import Distillation, SwitchablePrecision

BITMAPS = (32, 8, "w4a8kv4", "striped84")
SPECS = {"8": AdapterSpec(2, 4), "4": AdapterSpec(4, 8)}
TASKS = {
    "language-modeling": {"max_length": 64, "stride": 32},
    "squad-span": {"validation_split": "validation[:24]", "max_length": 128, "stride": 16},
    "classification": {"max_length": 64},
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA GPU; on one that has, `pytest -m gpu` runs these tests")
    return request.param


def made(source, head=HeadKind.CAUSAL_LM, settings=None, labels=None):
    """A model whose branches are drawn at random, so that each width has an output of its own."""
    model = build(BaseModel(source, head, labels=labels), SPECS, settings)
    generator = torch.Generator().manual_seed(1)
    for group in model.trainable_groups().values():
        for parameter in group.values():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(3, 60, (4, 24), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model, ids, bitmap):
    model.set_bitmap(bitmap)
    return model(input_ids=ids.to(model.device)).logits.cpu()


@pytest.mark.parametrize("bitmap", BITMAPS)
def test_a_forward_pass_gives_the_logits_of_the_cpu(random_model, device, ids, bitmap):
    # in float64, where another order of sums pushes no value over a border between two levels
    here, there = made(random_model).double(), made(random_model).double().to(device)
    torch.testing.assert_close(logits(there, ids, bitmap), logits(here, ids, bitmap), rtol=1e-9, atol=1e-9)


def test_switching_bitmaps_moves_no_weight_and_leads_back_to_the_same_bits(random_model, device, ids):
    model = made(random_model).to(device)
    before = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    first = {bitmap: logits(model, ids, bitmap) for bitmap in BITMAPS}
    for bitmap in reversed(BITMAPS):
        assert torch.equal(logits(model, ids, bitmap), first[bitmap])
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == before
    assert {tensor.device.type for tensor in model.parameters()} == {device}


def trained(source, device, steps=3, **settings):
    task = qalof.task("squad-completion", source=source, train_split="train[:16]", max_length=128)
    model = build(BaseModel(source, task.head), SPECS, seed=1).to(device)
    maps = [qalof.Bitmap.uniform(model.site_names, bits) for bits in (8, 4)]
    objective = SwitchablePrecision(maps, model.sites, Distillation())
    trainer = Trainer(model, task, objective, TrainSettings(steps, 8, 4, learning_rate=1e-2, seed=3, **settings))
    return trainer, [trainer.train_step().losses for _ in range(steps)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_steps_give_the_losses_of_the_cpu_to_the_precision_they_are_taken_in(random_model, device, precision):
    """fp32: to 1 %, for a rounding step moves whole levels; bf16: to 5 %, for it keeps 8 bits of mantissa."""
    trainer, there = trained(random_model, device, precision=precision)
    _, here = trained(random_model, "cpu")
    for one, other in zip(there, here, strict=True):
        assert one == pytest.approx(other, rel=0.01 if precision == "fp32" else 0.05)
    assert all(p.dtype is torch.float32 and torch.isfinite(p).all() for g in trainer.groups.values() for p in g)
    assert bool(trainer.optimizer.defaults["fused"]) == (device == "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU to compile for")
def test_compiled_steps_in_bf16_with_a_fused_optimizer_learn_as_plain_ones(random_model):
    compiled, there = trained(random_model, "cuda", precision="bf16", compile=True)
    _, here = trained(random_model, "cuda", precision="bf16")
    assert compiled.optimizer.defaults["fused"]
    for one, other in zip(there, here, strict=True):
        assert one == pytest.approx(other, rel=0.05)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("bitmap", [32, "w4a8kv4"])
def test_a_score_is_that_of_the_cpu(random_model, device, name, bitmap):
    """In float64 to 1e-9; :mod:`qalof.tasks.language_modeling` says what float32 leaves."""
    task = qalof.task(name, source=random_model, **TASKS[name])
    scores = []
    for place in ("cpu", device):
        model = made(random_model, task.head, labels=task.labels).double().to(place)
        model.set_bitmap(bitmap)
        scores.append(task.evaluate(model, limit=8))
    assert scores[1].metrics == pytest.approx(scores[0].metrics, rel=1e-9)


ATTACKS = {
    "gbda": GbdaSettings(iterations=4, batch=2, samples=4, max_length=64, learning_rate=0.5),
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=64),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_where_the_model_is_and_its_results_are_consistent(random_model, device, name):
    model = made(random_model, HeadKind.CLASSIFIER, labels=2).to(device)
    lm, tokenizer = load_pretrained(random_model, HeadKind.CAUSAL_LM).to(device), load_tokenizer(random_model)
    texts = ["We found the film good in the evening.", "They had a dull room by the window."]
    examples = [AttackExample(index, text, index) for index, text in enumerate(texts)]
    results = attack_examples(model, lm, tokenizer, examples, 8, ATTACKS[name])
    assert [result.example_id for result in results] == [0, 1]
    for result in results:
        assert result.status in set(AttackStatus)
        assert (result.words_changed > 0) == (result.adversarial_text != result.original_text)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_generation_with_a_rounded_cache_gives_the_logits_of_the_full_forward(
    random_model, device, ids, implementation
):
    model = made(random_model).double().to(device)
    model.model.set_attn_implementation(implementation)
    model.set_bitmap("w8a8kv3")
    shown = ids.to(device)
    out = model.generate(
        shown, attention_mask=torch.ones_like(shown), max_new_tokens=6, min_new_tokens=6, do_sample=False,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    full = logits(model, out.sequences, "w8a8kv3")[:, ids.shape[1] - 1 : -1]
    found = torch.stack(out.logits, dim=1).cpu()
    torch.testing.assert_close(found, full, rtol=0, atol=1e-5, check_dtype=False)
    assert not torch.allclose(logits(model, out.sequences, "w8a8kv32")[:, ids.shape[1] - 1 : -1], full, atol=1e-3)


@pytest.mark.parametrize("bitmap", [8, "w4a8", "w4a32"])
@pytest.mark.parametrize("held", ["packed", "int8"])
def test_integer_weights_give_the_outputs_of_fake_quantization(random_model, device, ids, bitmap, held):
    """Up to the rounding of sums, and to the few codes of later inputs that it moves by one step."""
    plain = made(random_model).to(device)
    integers = made(random_model, settings=replace(SwitchSettings(), quantization={"held": held})).to(device)
    if held == "packed":
        integers.pack_for_inference([8, 4])
    expected, found = (logits(model, ids, bitmap) for model in (plain, integers))
    error = (expected - found).abs()
    assert error.median() < 1e-5 * expected.abs().max()
    assert error.max() < 0.05 * expected.abs().max()
    kernels = {kernel.name for kernel in integers.kernels().values()}
    assert kernels <= ({"int_mm"} if bitmap in (8, "w4a8") else {"decode", "float"})
