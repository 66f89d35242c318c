"""What packed integers cost and save: seconds a forward and resident bytes, on a GPT-2-124M-shaped random model with
a span head, so that no unquantized vocabulary product dilutes the difference.

    python benchmarks/packed.py > benchmarks/results/packed.json

``float``: full precision.  ``values`` and ``codes``: fake-quantized at 8 and 4 bits in turn, weights held so.
``packed8``, ``packed4``, ``packed_mixed``: the weights dropped, 8 and 4 bits held as packed integers.  ``decoded4``:
the same with 16-bit inputs, which no integer kernel takes.  Times are interleaved; resident bytes come from one
process a variant, after a forward of 16 x 128 tokens: its private memory (USS) and tensors, less what it began with.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import torch
from measure import environment, interleaved, ratios, report, summary
from torch import nn
from transformers import GPT2Config, GPT2ForQuestionAnswering

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.shared_memory import give_back
from qalof.model.switchable import SwitchableModel
from qalof.quantization.scheme import QuantizationScheme

VARIANTS = {
    "float": ("values", (), "32"),
    "values": ("values", (), "striped84"),
    "codes": ("codes", (), "striped84"),
    "packed8": ("values", (8,), "8"),
    "packed4": ("values", (4,), "w4a8"),
    "packed_mixed": ("values", (4, 8), "w8a8,w4a8"),
    "decoded4": ("values", (4,), "w4a16"),
}


def make(name: str, layers: int) -> SwitchableModel:
    held, widths, bitmap = VARIANTS[name]
    torch.manual_seed(0)
    plain = GPT2ForQuestionAnswering(GPT2Config(n_layer=layers)).eval()
    specs = {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)}
    settings = SwitchSettings(quantization=QuantizationScheme(held=held))  # type: ignore[arg-type]
    model = SwitchableModel.of(plain, BaseModel("random GPT2Config()", HeadKind.SPAN), specs, settings)
    del plain
    if widths:
        model.pack_for_inference(widths)
    model.set_bitmap(",".join(bitmap.split(",") * (layers // 2)) if "," in bitmap else bitmap)
    return model.eval()


def tensor_bytes(model: SwitchableModel) -> int:
    """Of parameters, buffers and held weights, each memory once."""
    found: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(found.values()) + sum(int(count) for bits, count in model.held_bytes().items() if bits < 32)


def resident(name: str, layers: int) -> None:
    """In a process of its own: print one JSON line."""
    torch.set_num_threads(1)
    before = psutil.Process().memory_full_info()
    model = make(name, layers)
    with torch.inference_mode():
        model(torch.zeros(16, 128, dtype=torch.int64))
    gc.collect()
    give_back()
    after = psutil.Process().memory_full_info()
    counts = {"uss": after.uss - before.uss, "rss": after.rss - before.rss, "tensors": tensor_bytes(model)}
    kernels: dict[str, int] = {}
    for kernel in model.kernels().values():
        kernels[str(kernel)] = kernels.get(str(kernel), 0) + 1
    held = {str(bits): count for bits, count in model.held_bytes().items()}
    print(json.dumps(counts | {"held": held, "sites_by_kernel": kernels}))


def measured(name: str, layers: int) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, __file__, "--resident", name, "--layers", str(layers)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shapes", nargs="+", default=["16x128", "1x1"], help="batch x length")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--resident", choices=list(VARIANTS), help="measure one variant's memory, and end")
    options = parser.parse_args()
    if options.resident:
        resident(options.resident, options.layers)
        return
    memory = {name: measured(name, options.layers) for name in options.variants}
    models: dict[str, nn.Module] = {name: make(name, options.layers) for name in options.variants}
    runs = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for shape in options.shapes:
            batch, length = (int(size) for size in shape.split("x"))
            ids = torch.randint(0, 50_257, (batch, length), generator=torch.Generator().manual_seed(0))

            def of(model: nn.Module, ids: torch.Tensor = ids) -> Callable[[], Any]:
                return lambda: model(ids).start_logits

            with torch.inference_mode():
                variants = {name: of(model) for name, model in models.items()}
                times = interleaved(variants, options.rounds, calls=4 if batch * length < 64 else 1)
            over = {name: ratios(times, name, "float") for name in times if name != "float" and "float" in times}
            seconds = {name: summary(values) for name, values in times.items()}
            runs.append(
                {"tokens": [batch, length], "environment": environment(), "seconds": seconds, "over_float": over}
            )
    report({"benchmark": "packed", "layers": options.layers, "rounds": options.rounds, "bytes": memory, "runs": runs})


if __name__ == "__main__":
    main()
