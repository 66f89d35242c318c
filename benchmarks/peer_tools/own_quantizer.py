"""Losses of recipes whose weights a tool has rounded by its own quantizer, in that tool's environment.

A job names recipes (key -> site -> bits) and windows; the answer has the mean loss of every window, by quantizer and
key.  Each quantizer here rounds a weight by its width alone, so it rounds the whole model once per width, and a recipe
takes its layers from these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from exchange import THREADS, Stopwatch, read_job, write_answer
from transformers import AutoModelForCausalLM

Weights = Mapping[str, torch.Tensor]
"""Site -> rounded weight."""


def load(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def answer(quantizers: Mapping[str, Callable[[str, int], Any]]) -> None:
    """Answer the job that the command line names; a quantizer takes model folder and width, and returns the model with
    every weight rounded.
    """
    job = read_job(sys.argv[1])
    torch.set_num_threads(THREADS)
    model, found = load(job["model"]), {}
    weights = _weights(model, job["sites"])
    for name, quantized in quantizers.items():
        watch = Stopwatch()
        rounded = {bits: _weights(quantized(job["model"], bits), job["sites"]) for bits in job["menu"]}
        spent = watch.read()
        losses = {}
        for key, recipe in job["recipes"].items():
            for site, bits in recipe.items():
                weights[site].copy_(rounded[bits][site])
            losses[key] = _losses(model, job["windows"])
        found[name] = {"losses": losses, **spent}
    write_answer(job["answer"], found)


def _weights(model: Any, sites: Sequence[str]) -> Weights:
    return {site: model.get_parameter(f"model.{site}.weight").detach() for site in sites}


@torch.no_grad()
def _losses(model: Any, windows: Sequence[Sequence[int]]) -> list[float]:
    rows = [torch.tensor([window]) for window in windows]
    return [model(input_ids=ids, labels=ids).loss.item() for ids in rows]
