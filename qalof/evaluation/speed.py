"""Memory, and tokens per second, of a model at one bitmap (docs/methods/tasks.md, "Speed").

Prefill is a forward pass over a batch of full length; calibration is the same pass with nothing rounded beforehand, in
which merge orders differ while a model is tuned; decoding is greedy generation, for models that can generate. Each is
warmed up once and synchronized.  The numbers are of *fake* quantization, which is slower and larger than no
quantization at all: they say what an experiment costs, never what a deployment would save.

Peak memory is CUDA's peak of allocated bytes, weights included; without CUDA it is the peak resident size of the whole
process so far, which cannot be reset: measure the bitmap of interest in a process of its own.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from qalof.bitmap import Bitmap
from qalof.model.at_bitmap import layers_of
from qalof.model.pretrained import HeadKind
from qalof.model.switchable import SwitchableModel


@dataclass(frozen=True)
class Speed:
    """Medians of the repeats."""

    memory_bytes: int
    """The peak memory in bytes; see the docstring of the module."""
    prefill_tokens_per_second: float
    """The tokens per second of a forward pass with weights that are rounded already."""
    calibration_tokens_per_second: float
    """The tokens per second of the same pass if every weight, product or factor is rounded first, as after a training
    step.
    """
    decode_tokens_per_second: float | None
    """The tokens per second of greedy generation; None for a model without a language-modeling head."""


def speed_of(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    *,
    batch_size: int = 8,
    tokens: int = 128,
    new_tokens: int = 32,
    repeats: int = 3,
) -> Speed:
    """Run ``model`` at ``bitmap`` on random ids (batch_size, tokens); it stays at ``bitmap``, in eval mode.

    Raises:
        BadInputError: There are more tokens than the model has positions.
    """
    model.check_length(tokens + new_tokens, f"tokens + new_tokens ({tokens} + {new_tokens})")
    model.eval()
    model.set_bitmap(bitmap)
    device = model.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, int(model.model.config.vocab_size), (batch_size, tokens), generator=generator).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        prefill = _median(lambda: model(input_ids=ids), repeats, device)
        calibration = _median(lambda: _round_anew(model, ids), repeats, device)
        decode = None
        if model.base.head is HeadKind.CAUSAL_LM:
            whole = _median(lambda: _generate(model, ids, new_tokens), repeats, device)
            decode = batch_size * new_tokens / whole
    seen = batch_size * tokens
    return Speed(_peak(device), seen / prefill, seen / calibration, decode)


def _round_anew(model: SwitchableModel, ids: torch.Tensor) -> Any:
    for site in model.sites:
        linear, lora = layers_of(model, site)
        linear.forget()
        if lora is not None:
            lora.forget()
    return model(input_ids=ids)


def _generate(model: SwitchableModel, ids: torch.Tensor, new_tokens: int) -> Any:
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )


def _median(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Return the median time in seconds, after one run that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        run()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
