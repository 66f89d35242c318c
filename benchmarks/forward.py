"""What a forward pass at mixed 4/8 bits costs over the unquantized LoRA model, on a GPT-2-124M-shaped random model
with a span head: the product with an unquantized vocabulary would only dilute the difference.

    python benchmarks/forward.py > benchmarks/results/forward.json

``lora``: plain PEFT, one adapter, nothing quantized.  ``mixed``: blocks at 8 and 4 bits in turn, weights, activations
and KV cache.  ``naive``: the same numbers with every weight rounded again on every forward.  The others turn on one
kind of rounding at a time, to say where the rest of the time goes.  All run in turn, several rounds, without gradients.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch
from measure import environment, interleaved, ratios, report, summary
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2ForQuestionAnswering

from qalof.model.adapters import AdapterSpec
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel
from qalof.quantization.scheme import QuantizationScheme

TARGETS = ["c_attn", "c_proj", "c_fc"]


def switchable(held: str) -> SwitchableModel:
    torch.manual_seed(0)
    plain = GPT2ForQuestionAnswering(GPT2Config()).eval()
    specs = {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)}
    settings = SwitchSettings(quantization=QuantizationScheme(held=held))  # type: ignore[arg-type]
    model = SwitchableModel.of(plain, BaseModel("random GPT2Config()", HeadKind.SPAN), specs, settings)
    return model.eval()


def linears(model: nn.Module) -> list[SwitchableLinear]:
    return [module for module in model.modules() if isinstance(module, SwitchableLinear)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shapes", nargs="+", default=["16x128", "1x1"], help="batch x length")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True)
    lora = get_peft_model(GPT2ForQuestionAnswering(GPT2Config()).eval(), config).eval()
    ours, codes = switchable("values"), switchable("codes")
    ids = torch.zeros(1, 1, dtype=torch.int64)

    def at(model: SwitchableModel, bitmap: str, again: bool = False) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            model.set_bitmap(bitmap)
            if again:
                for linear in linears(model):
                    linear.forget()
            return model(ids).start_logits  # of the shape that is measured at the time

        return run

    variants: dict[str, Callable[[], torch.Tensor]] = {
        "lora": lambda: lora(ids).start_logits,
        "full_precision": at(ours, "32"),
        "mixed": at(ours, "striped84"),
        "mixed_held_as_codes": at(codes, "striped84"),
        "naive": at(ours, "striped84", again=True),
        "weights_only": at(ours, "w8a32"),
        "activations_only": at(ours, "w32a8"),
        "cache_only": at(ours, "w32a32kv8"),
    }
    result = {"benchmark": "forward", "what": "seconds a forward"}
    shapes = [tuple(int(size) for size in shape.split("x")) for shape in options.shapes]
    exact, runs = [], []
    with torch.inference_mode():
        for threads, (batch, length) in itertools.product(options.threads, shapes):
            torch.set_num_threads(threads)
            ids = torch.randint(0, 50_257, (batch, length), generator=torch.Generator().manual_seed(0))
            exact += [torch.equal(variants["mixed"](), variants[name]()) for name in ("naive", "mixed_held_as_codes")]
            times = interleaved(variants, options.rounds, calls=4 if batch * length < 64 else 1)
            runs.append(
                {
                    "tokens": [batch, length],
                    "environment": environment(),
                    "rounds": options.rounds,
                    "seconds": {name: summary(values) for name, values in times.items()},
                    "over_lora": {name: ratios(times, name, "lora") for name in variants if name != "lora"},
                    "naive_over_mixed": ratios(times, "naive", "mixed"),
                }
            )
    held = {name: sum(sum(linear.held_bytes().values()) for linear in linears(model))
            for name, model in (("values", ours), ("codes", codes))}  # fmt: skip
    report(result | {"same_logits": all(exact), "held_bytes_of_all_widths_used": held, "runs": runs})


if __name__ == "__main__":
    main()
