"""Bytes of several widths held at once, predicted and measured, and what a second process on the machine adds.

    python benchmarks/memory.py > benchmarks/results/memory.json

``widths``: for every way of holding, all widths of a GPT-2-124M-shaped random model, from sizes alone and from the
tensors.  ``processes``: two processes with the same base, each after loading and holding the widths; private bytes are
each one's USS with both alive, less what it began with.  ``shared``: frozen tensors mapped from one file, as the
actors of a pool do (:mod:`qalof.model.shared_memory`).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from measure import environment, report
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.model.adapters import AdapterSpec
from qalof.model.packing import predicted_bytes
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.shared_memory import give_back, share_frozen
from qalof.model.switchable import SwitchableModel, build
from qalof.quantization.scheme import QuantizationScheme

HOLDINGS = ("values", "codes", "packed", "dropped")
MODES = ("private", "shared", "dropped_private", "dropped_shared")


def switchable(folder: str, held: str, widths: list[int]) -> SwitchableModel:
    """``held``: one of a scheme's, or ``dropped``: packed, and the weights gone."""
    kept = "values" if held == "dropped" else held
    settings = SwitchSettings(quantization=QuantizationScheme(held=kept))  # type: ignore[arg-type]
    specs = {str(bits): AdapterSpec(8, 16) for bits in widths}
    model = build(BaseModel(folder, HeadKind.CAUSAL_LM), specs, settings).eval()
    if held == "dropped":
        model.pack_for_inference(widths)
    else:
        with torch.inference_mode():
            for bits in widths:
                model.set_bitmap(f"w{bits}a8")
                model(torch.zeros(1, 1, dtype=torch.int64))
    return model


def predicted(model: SwitchableModel, held: str, widths: list[int]) -> int:
    """Bytes held for ``widths``: 4 a weight as values, 1 and an fp32 scale a channel as codes, else dense bits."""
    weights = sum(site.weights for site in model.sites)
    channels = sum(site.out_features for site in model.sites)
    if held in ("packed", "dropped"):
        return predicted_bytes(model.sites, model.settings.quantization, widths)
    return len(widths) * (4 * weights if held == "values" else weights + 4 * channels)


def process(mode: str, folder: str, widths: list[int]) -> None:
    """Load, hold, share; print ready; on a line of input measure and print; end when the input does."""
    torch.set_num_threads(1)
    before = psutil.Process().memory_full_info()
    model = switchable(folder, "dropped" if mode.startswith("dropped") else "values", widths)
    shared = share_frozen(model, Path(folder) / "frozen") if mode.endswith("shared") else 0
    gc.collect()
    give_back()
    print("ready", flush=True)
    sys.stdin.readline()
    after = psutil.Process().memory_full_info()
    counts = {"private": after.uss - before.uss, "proportional": after.pss - before.pss, "shared_tensors": shared}
    print(json.dumps(counts), flush=True)
    sys.stdin.readline()


def two_processes(mode: str, folder: str, widths: list[int]) -> list[dict[str, Any]]:
    words = [sys.executable, __file__, "--process", mode, "--folder", folder, "--widths", *map(str, widths)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    started = []
    for _ in range(2):
        each = subprocess.Popen(words, **pipes)  # type: ignore[call-overload]
        started.append(each)
        if each.stdout.readline().strip() != "ready":
            raise RuntimeError(f"a process that loads {folder} as {mode} ended early")
    measured = []
    for each in started:
        each.stdin.write("measure\n")
        each.stdin.flush()
        measured.append(json.loads(each.stdout.readline()))
    for each in started:
        each.stdin.close()
        each.wait()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--process", choices=MODES, help="be one of two processes; used by this script alone")
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.process:
        process(options.process, options.folder, options.widths)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(n_layer=options.layers)).save_pretrained(folder)
        held: dict[str, Any] = {}
        for name in HOLDINGS:
            model = switchable(folder, name, options.widths)
            measured = {str(bits): count for bits, count in model.held_bytes().items()}
            total = sum(measured.values())
            held[name] = {"predicted": predicted(model, name, options.widths), "measured": total, "by_width": measured}
            del model
        processes = {mode: two_processes(mode, folder, options.widths) for mode in options.modes}
    result = {"benchmark": "memory", "layers": options.layers, "environment": environment()}
    report(result | {"held": held, "processes": processes})


if __name__ == "__main__":
    main()
