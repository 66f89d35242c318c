"""Where a processor lacks instructions for bf16 or int8, products stay in float32, which is faster there."""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import qalof
from qalof import processor
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.scheme import QuantizationScheme
from qalof.training import execution
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import SwitchablePrecision

AVX2 = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "avx512_vnni": False}
PRODUCTS = ("aten.mm", "aten.addmm", "aten._int_mm")
FEATURES = 32


@pytest.fixture
def avx2(monkeypatch):
    monkeypatch.setattr(processor, "capabilities", lambda: AVX2)
    execution._say_fp32.cache_clear()


@pytest.mark.parametrize(
    ("found", "bf16", "int8"),
    [
        (AVX2, False, False),
        ({**AVX2, "avx512_vnni": True}, False, True),
        ({**AVX2, "avx_vnni": True}, False, True),
        ({**AVX2, "avx512_vnni": True, "avx512_bf16": True}, True, True),
        ({**AVX2, "amx_int8": True, "amx_bf16": True}, True, True),
        ({"architecture": "aarch64"}, True, True),
        ({}, True, True),
    ],
)
def test_a_processor_is_fast_at_what_it_has_instructions_for(monkeypatch, found, bf16, int8):
    monkeypatch.setattr(processor, "capabilities", lambda: found)
    assert processor.multiplies_bf16() is bf16
    assert processor.multiplies_int8() is int8
    assert processor.multiplies_bf16("cuda")
    assert processor.multiplies_int8("cuda")


def test_torch_says_what_this_processor_has():
    found = torch.cpu.get_capabilities()
    assert found["architecture"]
    if found["architecture"] == "x86_64":
        assert {*processor._BF16, *processor._INT8} <= set(found)


class Products(TorchDispatchMode):
    """The operand types of every product with the frozen weight of a site."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [each for each in args if isinstance(each, torch.Tensor) and each.dim() == 2]
        # a branch has a side of its rank, 2
        if str(func).rsplit(".", 1)[0] in PRODUCTS and all(min(each.shape) >= FEATURES for each in tensors):
            self.found.add(tuple(each.dtype for each in tensors[-2:]))
        return func(*args, **(kwargs or {}))


def products(folder, held, precision):
    """The operand types of a step's products, and its losses."""
    task = qalof.task("language-modeling", data="tiny", max_length=64, stride=64)
    settings = SwitchSettings(quantization=QuantizationScheme(held=held))
    model = build(BaseModel(folder, HeadKind.CAUSAL_LM), {"8": AdapterSpec(2)}, settings, seed=1)
    objective = SwitchablePrecision([qalof.Bitmap.uniform(model.site_names, 8)], model.sites)
    trainer = Trainer(model, task, objective, TrainSettings(steps=2, batch_size=1, precision=precision))
    trainer.train_step()
    with Products() as seen:
        trainer.step = 0
        losses = trainer.train_step().losses
    return seen.found, losses


@pytest.mark.parametrize("held", ["values", "codes", "packed", "int8"])
def test_in_bf16_the_products_of_both_passes_are_in_bf16_or_in_integers(random_model, held):
    found = products(random_model, held, "bf16")[0]
    half, integers = (torch.bfloat16, torch.bfloat16), (torch.int8, torch.int8)
    assert half in found
    assert found <= {half, integers}
    # packed codes multiply where no gradient is asked for, as at the first inputs
    assert (integers in found) == (held in ("int8", "packed"))


@pytest.mark.parametrize("held", ["values", "int8"])
def test_without_instructions_training_stays_in_float32_and_says_so_once(random_model, avx2, held, caplog):
    with caplog.at_level(logging.WARNING, logger="qalof.training.execution"):
        found, losses = products(random_model, held, "bf16")
        plain, expected = products(random_model, held, "fp32")
    assert found == plain
    assert found == {(torch.float32, torch.float32)}
    assert losses == expected
    assert sum("fp32, not in bf16" in message for message in caplog.messages) == 1


def test_without_instructions_integers_do_not_multiply_and_the_kernel_says_why(random_model, avx2):
    settings = SwitchSettings(quantization=QuantizationScheme(held="int8"))
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {}, settings)
    values = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {})
    ids = torch.arange(9)[None]
    for each in (model, values):
        each.eval().set_bitmap(8)
    assert {kernel.name for kernel in model.kernels().values()} == {"float"}
    assert all("no integer instructions" in kernel.reason for kernel in model.kernels().values())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, values(ids).logits)
