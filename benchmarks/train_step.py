"""What an SP step at 8 and 4 bits costs over two plain LoRA steps, on a GPT-2-124M-shaped random model.

    python benchmarks/train_step.py > benchmarks/results/train_step.json

All are forward and backward passes of the same sequences of 128 tokens with a span head, without the optimizer.
``lora``: plain PEFT, one adapter, twice.  ``sp``: 8 bits, then 4, weights, activations and KV cache, each with its
adapter.  ``naive``: the same with PEFT's ``set_adapter`` and every weight rounded again on every forward.  The others
turn on one kind of rounding at a time.  ``teacher_logits``: bytes that a causal LM's teacher keeps for distillation,
answer positions alone against all positions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import environment, interleaved, ratios, report, summary
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, GPT2ForQuestionAnswering

from qalof.model.adapters import AdapterSpec
from qalof.model.switchable import BaseModel, HeadKind, SwitchableModel
from qalof.model.switchable_linear import SwitchableLinear
from qalof.tasks.factory import task

TARGETS = ["c_attn", "c_proj", "c_fc"]
LENGTH = 128
LOGIT_BYTES = 4


def models(layers: int, width: int) -> tuple[Any, SwitchableModel]:
    """Plain PEFT and ours, dropout off."""
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=width // 64, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
    )
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True)
    plain = get_peft_model(GPT2ForQuestionAnswering(config), lora).train()
    base = BaseModel("random GPT2Config()", HeadKind.SPAN)
    specs = {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)}
    return plain, SwitchableModel(GPT2ForQuestionAnswering(config), base, specs).train()


def variants(plain: Any, ours: SwitchableModel, ids: torch.Tensor) -> dict[str, Callable[[], None]]:
    """A step of each kind on ``ids``."""
    ends = torch.zeros(len(ids), dtype=torch.long)
    linears = [module for module in ours.modules() if isinstance(module, SwitchableLinear)]
    layers = [module for module in ours.modules() if isinstance(module, LoraLayer)]

    def backward(model: Any) -> None:
        model(input_ids=ids, start_positions=ends, end_positions=ends).loss.backward()

    def lora() -> None:
        for _ in range(2):
            backward(plain)
        plain.zero_grad(set_to_none=True)

    def at(*forms: str, naive: bool = False) -> Callable[[], None]:
        def step() -> None:
            for form in forms:
                ours.set_bitmap(form)
                if naive:
                    for layer, linear in zip(layers, linears, strict=False):
                        layer.set_adapter(str(ours.bitmap[ours.site_names[0]].weight))
                        linear.forget()
                backward(ours)
            ours.zero_grad(set_to_none=True)
            for group in ours.trainable_groups().values() if naive else ():
                for parameter in group.values():
                    parameter.requires_grad_(True)  # set_adapter froze the adapter that did not run last

        return step

    return {
        "lora": lora,
        "sp": at("8", "4"),
        "naive": at("8", "4", naive=True),
        "pass_through": at("32", "32"),
        "weights_only": at("w8a32", "w4a32"),
        "activations_only": at("w32a8", "w32a4"),
        "cache_only": at("w32a32kv8", "w32a32kv4"),
    }


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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plain, ours = models(options.layers, options.width)
    runs = []
    for count in options.sequences:
        ids = torch.randint(0, 50_257, (count, LENGTH), generator=torch.Generator().manual_seed(0))
        steps = variants(plain, ours, ids)
        times = interleaved(steps, options.rounds)
        runs.append(
            {
                "sequences": count,
                "tokens_each": LENGTH,
                "environment": environment(),
                "seconds": {name: summary(values) for name, values in times.items()},
                "over_two_lora_steps": {name: ratios(times, name, "lora") for name in steps if name != "lora"},
                "naive_over_sp": ratios(times, "naive", "sp"),
            }
        )
    shape = {"layers": options.layers, "width": options.width, "rounds": options.rounds}
    report({"benchmark": "train_step", **shape, "runs": runs, "teacher_logit_bytes": teacher_logits()})


if __name__ == "__main__":
    main()
