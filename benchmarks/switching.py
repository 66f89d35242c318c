"""How long it takes to switch all 48 sites of a GPT-2-124M-shaped model between two mixed bitmaps.

    python benchmarks/switching.py > benchmarks/results/switching.json

The reference is PEFT's own way: ``set_adapter`` on every LoRA layer (which walks its parameters and flips their
``requires_grad``) and the bits written to the layer under it; for one width everywhere, ``set_adapter`` of the model.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from measure import environment, interleaved, ratios, report, summary
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.bitmap import Bitmap
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel

TARGETS = ["c_attn", "c_proj", "c_fc"]


class Naive:
    """PEFT with an adapter a width; each site's bits beside it."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True)
        self.model = get_peft_model(model, config, adapter_name="4")
        self.model.add_adapter("8", LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, fan_in_fan_out=True))
        self.layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]

    def switch(self, bitmap: Bitmap) -> None:
        for layer, bits in zip(self.layers, bitmap.values(), strict=True):
            layer.set_adapter(str(bits.weight))
            layer.get_base_layer().bits = bits

    def switch_all(self, bits: int) -> None:
        self.model.set_adapter(str(bits))
        for layer in self.layers:
            layer.get_base_layer().bits = bits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    specs = {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)}
    base = BaseModel("random GPT2Config()", HeadKind.CAUSAL_LM)
    ours = SwitchableModel.of(GPT2LMHeadModel(GPT2Config()).eval(), base, specs)
    naive = Naive(GPT2LMHeadModel(GPT2Config()).eval())
    maps = itertools.cycle([Bitmap.parse(form, ours.site_names) for form in ("striped84", "striped48")])
    texts = itertools.cycle(["striped84", "striped48"])
    widths = itertools.cycle([4, 8])
    uniform = itertools.cycle([Bitmap.uniform(ours.site_names, bits) for bits in (4, 8)])
    variants = {
        "set_bitmap": lambda: ours.set_bitmap(next(maps)),
        "set_bitmap_from_text": lambda: ours.set_bitmap(next(texts)),
        "set_bitmap_uniform": lambda: ours.set_bitmap(next(uniform)),
        "peft_set_adapter_by_layer": lambda: naive.switch(next(maps)),
        "peft_set_adapter_uniform": lambda: naive.switch_all(next(widths)),
    }
    times = interleaved(variants, options.rounds, options.calls)
    report(
        {
            "benchmark": "switching",
            "what": "milliseconds to switch all sites between two bitmaps",
            "sites": len(ours.sites),
            "rounds": options.rounds,
            "calls_a_round": options.calls,
            "environment": environment(),
            "milliseconds": {name: summary(values, 1e3) for name, values in times.items()},
            "times_faster": {
                "mixed_bitmap": ratios(times, "peft_set_adapter_by_layer", "set_bitmap"),
                "one_width": ratios(times, "peft_set_adapter_uniform", "set_bitmap_uniform"),
            },
        }
    )


if __name__ == "__main__":
    main()
