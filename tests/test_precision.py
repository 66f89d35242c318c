"""Arithmetic is in float32 at least, and a model in float64 computes in float64 from end to end."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import qalof
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.initialization import compensate, decompose
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.post_training.error_compensation import InputMoments, compensate_weight
from qalof.post_training.gptq import compensate as gptq
from qalof.precision import at_least_float32
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.options import QuantizerOptions
from qalof.training.gradient_rounding import round_stochastically
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import (
    AdversarialPrecision,
    CyclicPrecisionTraining,
    Distillation,
    EmbeddingAttack,
    SwitchablePrecision,
)
from qalof.training.objectives.choices import AllBitmaps
from qalof.training.objectives.precision_schedule import CyclicPrecision

ROOT = Path(__file__).resolve().parent.parent
# files and formats have float32 by definition; the tiny model's own making is no part of the product
EXEMPT = ("qalof/export", "qalof/tiny", "qalof/quantization/packing.py", "qalof/model/layers/packed_weight.py")
NARROWS = re.compile(r"\.float\(\)|\.to\(torch\.(float32|bfloat16)\)|dtype=torch\.(float32|bfloat16)")
MEANT = {"qalof/precision.py", "qalof/rng.py", "qalof/model/pretrained.py", "qalof/model/gguf_source.py"}
"""The one function; draws of float32; weights that are loaded and hashed in float32."""


def test_no_source_casts_to_float32_but_through_the_one_function_that_spares_float64():
    for path in (ROOT / "qalof").rglob("*.py"):
        name = str(path.relative_to(ROOT))
        if name in MEANT or name.startswith(EXEMPT):
            continue
        assert not NARROWS.search(path.read_text()), f"{name}: take qalof.precision.at_least_float32"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float32])
def test_what_is_narrower_becomes_float32_and_float64_is_the_very_tensor(dtype):
    tensor = torch.ones(3).to(dtype)
    assert at_least_float32(tensor).dtype is torch.float32
    wide = torch.ones(3, dtype=torch.float64)
    assert at_least_float32(wide) is wide


def scheme_of(role, method):
    """A scheme with ``method`` in ``role``, as its place allows, and the widths that the method has."""
    kind = QuantizerOptions.registry[method]
    widths = [kind.only_bits] if kind.only_bits else [4] if method == "gguf_affine" else [4, 8]
    options = {"method": method}
    if role != "weight":
        options |= {"log": {"octaves": 8}, "lsq": {"gradient_count": "features"}}.get(method, {})
        learned = {"granularity": "tensor" if role == "activation" else "head"}
        blocks = {each: {} for each in ("gguf", "gguf_affine", "nf4")}
        fixed = {"lsq": learned, "float16": {"granularity": "tensor"}}
        options |= (blocks | fixed).get(method, {"granularity": "token"})
    grains = {"weight": "channel", "activation": "token", "kv": "token"}
    scheme = {each: {"quantizer": {"method": "symmetric", "granularity": grain}} for each, grain in grains.items()}
    scheme[role] = {"quantizer": options}
    if (role, method) == ("kv", "float16"):
        scheme[role]["observer"] = "minmax"
    heads = {"kv_granularity": "head"} if (role, method) == ("kv", "lsq") else {}
    return {"quantization": scheme | {"widths": widths}, **heads}, widths


PLACES = [(role, method) for role in ("weight", "activation", "kv") for method in sorted(QuantizerOptions.registry)]


@pytest.mark.parametrize(("role", "method"), PLACES)
def test_a_models_forward_and_gradients_stay_in_float64_with_every_quantizer_in_every_place(
    narrowing, random_model, role, method
):
    settings, widths = scheme_of(role, method)
    specs = {str(bits): AdapterSpec(2, 4) for bits in widths}
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), specs, SwitchSettings(**settings)).double()
    ids = torch.arange(12)[None]
    qalof.model.calibration.calibrate(model, [{"input_ids": ids}])
    model.train()
    for bits in widths:
        model.set_bitmap(bits)
        with narrowing() as found:
            logits = model(input_ids=ids).logits
            logits.logsumexp(-1).sum().backward()
        assert not found
        assert logits.dtype is torch.float64


@pytest.mark.parametrize("merge", ["branch", "merge_then_quantize", "quantize_product", "quantize_factors"])
@pytest.mark.parametrize("held", ["values", "codes", "int8"])
def test_merge_orders_and_ways_of_holding_weights_stay_in_float64(narrowing, random_model, merge, held):
    settings = SwitchSettings(merge=merge, quantization={"held": held})
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4)}, settings).double()
    model.set_bitmap(4)
    ids = torch.arange(12)[None]
    with narrowing() as found:
        model.train()
        model(input_ids=ids).logits.sum().backward()
        model.eval()
        with torch.no_grad():
            assert model(input_ids=ids).logits.dtype is torch.float64
    assert not found


TASKS = {
    "squad-span": {"train_split": "train[:8]", "validation_split": "validation[:4]", "max_length": 128, "stride": 16},
    "squad-completion": {"train_split": "train[:8]", "max_length": 128},
    "language-modeling": {"data": "tiny", "max_length": 32, "stride": 16},
    "classification": {"max_length": 64},
}


def objectives(model):
    maps = [qalof.Bitmap.uniform(model.site_names, bits) for bits in (32, 8, 4)]
    everything = Distillation(
        temperature=2.0, feature_weight=0.1, features="all", contrastive_weight=0.1, contrastive="answers"
    )
    return {
        "cascade": SwitchablePrecision(maps, model.sites, Distillation()),
        "mse": SwitchablePrecision(maps, model.sites, Distillation(distance="mse")),
        "everything": SwitchablePrecision(maps, model.sites, everything),
        "pooled": SwitchablePrecision(maps, model.sites, replace(everything, contrastive="pooled")),
        "cpt": CyclicPrecisionTraining(model.sites, CyclicPrecision(4, 8, 1, 2), gradient_bits=8),
        "attacked": AdversarialPrecision(AllBitmaps(tuple(maps)), model.sites, EmbeddingAttack(0.1, 2, share=0.5)),
    }


@pytest.mark.parametrize("kind", ["cascade", "mse", "everything", "pooled", "cpt", "attacked"])
@pytest.mark.parametrize("task", TASKS)
def test_training_steps_of_a_model_in_float64_stay_in_float64(narrowing, monkeypatch, random_model, kind, task):
    made = qalof.task(task, source=random_model, **TASKS[task])
    names = [SHARED] if kind == "cpt" else ["32", "8", "4"]
    specs = {name: AdapterSpec(2, 4) for name in names}
    model = build(BaseModel(random_model, made.head, labels=made.labels), specs).double()
    trainer = Trainer(model, made, objectives(model)[kind], TrainSettings(2, 4, 2, seed=1))
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)  # AdamW counts its steps in float32
    with narrowing() as found:
        for _ in range(2):
            trainer.train_step()
    assert not found
    grads = [p.grad for group in trainer.groups.values() for p in group if p.grad is not None]
    assert {grad.dtype for grad in grads} == {torch.float64}


def test_rounded_gradients_keep_float64_and_see_what_float32_does_not(narrowing):
    gradient = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    with narrowing() as found:
        rounded = round_stochastically(gradient, 8, torch.Generator().manual_seed(1))
        again = round_stochastically(gradient * (1 + 1e-10), 8, torch.Generator().manual_seed(1))
    assert not found
    torch.testing.assert_close(again, rounded * (1 + 1e-10), rtol=1e-13, atol=1e-15)
    assert not torch.equal(again, rounded)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_factors_of_a_weight_in_float64_are_in_float64(narrowing, init):
    weight = torch.randn(12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with narrowing() as found:
        a, b = decompose(weight, 3, 2.0, init)
    assert not found
    assert {a.dtype, b.dtype} == {torch.float64}


def test_compensation_of_a_weight_in_float64_is_in_float64(narrowing, random_model):
    weight = torch.randn(12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with narrowing() as found:
        factors = compensate(weight, 3, 2.0, lambda w: Symmetric().fake_quantize(w, 3))
        moments = InputMoments(9, "here")
        moments.add(weight)
        compensate_weight(weight, moments.hessian(), Symmetric(), 3)
    assert not found
    assert {factor.dtype for factor in factors} == {torch.float64}
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM)).double()
    with narrowing() as found:
        gptq(model, [{"input_ids": torch.arange(24)[None]}], (4,))
    assert not found


# generation of a completion is transformers' own, which reads the last logits in float32
@pytest.mark.parametrize("name", [name for name in TASKS if name != "squad-completion"])
def test_a_model_in_float64_is_scored_in_float64(narrowing, random_model, name):
    made = qalof.task(name, source=random_model, **TASKS[name])
    model = build(BaseModel(random_model, made.head, labels=made.labels), {}).double().eval()
    model.set_bitmap(4)
    with narrowing() as found:
        made.evaluate(model, limit=4)
    assert not found
