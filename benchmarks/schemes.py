"""How much each way of rounding costs a real language model: perplexity by scheme and bitmap, nothing trained.

    make real-model
    QALOF_DATA=../shared/data python benchmarks/schemes.py > benchmarks/results/schemes.json

12 windows of 512 tokens, stride 256 (3,327 scored tokens), of WikiText-2 raw validation.  The model is SmolLM2-135M,
whose weights went through GGUF's Q4_1 once: 4 bits asymmetric in groups of 32 would give them back and is left out.
Intervals are 95 % bootstraps over windows; all schemes see the same windows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import environment

import qalof
from qalof.cost import cost_of
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build

SOURCE = "cache:SmolLM2-135M-Instruct"
GROUPS = {
    f"symmetric, groups of {size}": {
        "weight": {
            "quantizer": {
                "method": "symmetric", "granularity": "group", "group_size": size, "scale_dtype": "float16",
            }
        }
    }
    for size in (128, 64)
}  # fmt: skip
SCHEMES: dict[str, Any] = {
    "default": "default", **GROUPS, "grouped": "grouped", "gguf": "gguf", "nf4": "nf4", "s4": "s4",
}  # fmt: skip
BITMAPS = {"default": ("w32a32kv32", "w8a8kv8", "w4a16kv16", "w4a8kv8")}
FEW = ("w4a16kv16", "w4a8kv8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = qalof.task(
        "language-modeling", source=SOURCE, data=str(options.data / "wikitext2" / "wiki.valid.raw"),
        max_length=512, stride=256, eval_batch_size=4,
    )  # fmt: skip
    rows = []
    for name, scheme in SCHEMES.items():
        pretrained = load_pretrained(SOURCE, HeadKind.CAUSAL_LM)
        model = build(
            BaseModel(SOURCE, HeadKind.CAUSAL_LM), {}, SwitchSettings(quantization=scheme), pretrained=pretrained
        ).eval()
        for bitmap in BITMAPS.get(name, FEW):
            started = time.monotonic()
            parsed = model.set_bitmap(bitmap)
            found = task.evaluate(model, limit=options.windows)
            interval = found.interval("perplexity")
            row = {
                "scheme": name, "bitmap": bitmap,
                "perplexity": [round(value, 3) for value in (interval.estimate, interval.low, interval.high)],
                "accuracy": round(found["accuracy"], 2),
                "weight_bytes": cost_of(parsed, model.sites).weight_bytes,
                "seconds": round(time.monotonic() - started, 1),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    result = {"windows": options.windows, "source": SOURCE, "stored_as": "Q4_1", "rows": rows, **environment()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
