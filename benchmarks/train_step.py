"""What an SP step at 8 and 4 bits costs over two plain LoRA steps, on a GPT-2-124M-shaped random model.

    python benchmarks/train_step.py > benchmarks/results/train_step.json

All are forward and backward passes of the same sequences of 128 tokens with a span head, without the optimizer.
``lora``: plain PEFT, one adapter, twice.  ``sp``: 8 bits, then 4, weights, activations and KV cache, each with its
adapter; ``sp_int8``: the same with ``held: int8``.  ``naive``: the same numbers as a script has them, plain PEFT with
two adapters and its ``set_adapter``, every weight rounded in plain torch on every forward; ``requantized``: our own
layers, but every weight rounded again on every forward.  ``--parts`` turns on one kind of rounding at a time.
``teacher_logits``: bytes that a causal LM's teacher keeps for distillation, answer positions alone against all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import environment, interleaved, ratios, report, summary
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2ForQuestionAnswering
from transformers.pytorch_utils import Conv1D

from qalof.model.adapters import AdapterSpec
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel
from qalof.quantization.scheme import QuantizationScheme
from qalof.tasks.factory import task

TARGETS = ["c_attn", "c_proj", "c_fc"]
LENGTH = 128
LOGIT_BYTES = 4


def fake_quantize(x: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Symmetric MinMax as scripts write it, straight-through estimator included."""
    highest = 2 ** (bits - 1) - 1
    scale = x.abs().amax(dim=dim, keepdim=True) / highest
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    rounded = torch.clamp(torch.round(x / scale), -highest, highest) * scale
    return x + (rounded - x).detach()


class ScriptConv1D(Conv1D):
    """Rounds its weight, its input and, where it makes them, keys and values."""

    bits = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.addmm(
            self.bias,
            fake_quantize(x.reshape(-1, x.shape[-1]), self.bits, -1),
            fake_quantize(self.weight, self.bits, 0),
        ).view(*x.shape[:-1], self.nf)
        if self.nf != 3 * self.nx:
            return out
        query, key, value = out.split(self.nx, dim=-1)
        return torch.cat([query, fake_quantize(key, self.bits, -1), fake_quantize(value, self.bits, -1)], dim=-1)


def models(layers: int, width: int) -> dict[str, Any]:
    """Plain PEFT, the script's model and ours with each way of holding weights, all with equal weights; dropout off."""
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=width // 64, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
    )

    def base() -> Any:
        torch.manual_seed(0)
        return GPT2ForQuestionAnswering(config)

    lora = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True)
    naive = base()
    for module in naive.modules():
        if isinstance(module, Conv1D):
            module.__class__ = ScriptConv1D
    naive = get_peft_model(naive, lora, adapter_name="8").train()
    naive.add_adapter("4", lora)
    made = {"lora": get_peft_model(base(), lora).train(), "naive": naive}
    for name, held in (("sp", "values"), ("sp_int8", "int8")):
        specs = {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)}
        settings = SwitchSettings(quantization=QuantizationScheme(held=held))
        pretrained = BaseModel("random GPT2Config()", HeadKind.SPAN)
        made[name] = SwitchableModel.of(base(), pretrained, specs, settings).train()
    return made


def variants(made: dict[str, Any], ids: torch.Tensor, parts: bool) -> dict[str, Callable[[], float]]:
    """A step of each kind on ``ids``; it gives the loss at 4 bits."""
    ends = torch.zeros(len(ids), dtype=torch.long)
    plain, naive = made["lora"], made["naive"]
    rounding = [module for module in naive.modules() if isinstance(module, ScriptConv1D)]

    def backward(model: Any) -> float:
        loss = model(input_ids=ids, start_positions=ends, end_positions=ends).loss
        loss.backward()
        return float(loss.detach())

    def lora() -> float:
        for _ in range(2):
            loss = backward(plain)
        plain.zero_grad(set_to_none=True)
        return loss

    def script() -> float:
        for bits in (8, 4):
            naive.set_adapter(str(bits))
            for module in rounding:
                module.bits = bits
            loss = backward(naive)
        naive.zero_grad(set_to_none=True)
        return loss

    def at(name: str, *forms: str, forget: bool = False) -> Callable[[], float]:
        ours = made[name]
        linears = [module for module in ours.modules() if isinstance(module, SwitchableLinear)]

        def step() -> float:
            for form in forms:
                ours.set_bitmap(form)
                for linear in linears if forget else ():
                    linear.forget()
                loss = backward(ours)
            ours.zero_grad(set_to_none=True)
            return loss

        return step

    found = {
        "lora": lora,
        "sp": at("sp", "8", "4"),
        "sp_int8": at("sp_int8", "8", "4"),
        "naive": script,
        "requantized": at("sp", "8", "4", forget=True),
    }
    ones = {
        "full_precision": ("32", "32"),
        "weights_only": ("w8a32", "w4a32"),
        "activations_only": ("w32a8", "w32a4"),
        "cache_only": ("w32a32kv8", "w32a32kv4"),
    }
    return found | ({name: at("sp", *forms) for name, forms in ones.items()} if parts else {})


def check(steps: dict[str, Callable[[], float]]) -> None:
    """All three compute one loss, or the comparison is none."""
    losses = {name: steps[name]() for name in ("sp", "sp_int8", "naive")}
    # integers are summed in another order, and a random model carries each rounding that flips to its end
    for name, share in (("naive", 1e-4), ("sp_int8", 1e-2)):
        if abs(losses[name] - losses["sp"]) > share * losses["sp"]:
            raise SystemExit(f"the variants must have one loss: got {losses}")


def teacher_logits() -> dict[str, int]:
    """Bytes of one teacher's logits for a batch of 16 of the shipped completion data."""
    work = task("squad-completion", max_length=LENGTH)
    batch = work.collate(work.train_features()[:16])
    vocabulary = 50_257
    kept = int((batch["labels"] >= 0).sum())
    return {
        "answer_positions": kept * vocabulary * LOGIT_BYTES,
        "all_positions": batch["labels"].numel() * vocabulary * LOGIT_BYTES,
    }


def main() -> None:
    """Measure, and print the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = models(options.layers, options.width)
    runs = []
    for count in options.sequences:
        ids = torch.randint(0, 50_257, (count, LENGTH), generator=torch.Generator().manual_seed(0))
        steps = variants(made, ids, options.parts)
        check(steps)
        times = interleaved(steps, options.rounds)
        runs.append(
            {
                "sequences": count,
                "tokens_each": LENGTH,
                "environment": environment(),
                "seconds": {name: summary(values) for name, values in times.items()},
                "over_two_lora_steps": {name: ratios(times, name, "lora") for name in steps if name != "lora"},
                "naive_over": {name: ratios(times, "naive", name) for name in ("sp", "sp_int8")},
                "requantized_over": {name: ratios(times, "requantized", name) for name in ("sp", "sp_int8")},
            }
        )
    shape = {"layers": options.layers, "width": options.width, "rounds": options.rounds}
    report({"benchmark": "train_step", **shape, "runs": runs, "teacher_logit_bytes": teacher_logits()})


if __name__ == "__main__":
    main()
