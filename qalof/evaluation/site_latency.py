"""The time that one site takes at one choice, with the kernel that a packed model runs there.

The weight is packed at the choice's width (:mod:`qalof.model.layers.packed_weight`), so integers multiply where a
kernel can, and otherwise the weight is dequantized on each pass.  The input is rounded as the site rounds it.  Choices
of a site take turns, round by round, so whatever else the machine does falls on all of them alike; the median of the
rounds counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from qalof.errors import BadInputError
from qalof.latency import LatencyTable, choice_of, digest_of
from qalof.layer_bits import LayerBits
from qalof.model.at_bitmap import layers_of
from qalof.model.switchable import SwitchableModel
from qalof.site import Site


def latency_table(
    model: SwitchableModel,
    choices: Mapping[str, Sequence[LayerBits]],
    *,
    tokens: int = 1,
    repeats: int = 5,
    machine: Mapping[str, Any] | None = None,
) -> LatencyTable:
    """Measure choices at sites.

    Args:
        model: its weights and quantizers; it stays at its bitmap.
        choices: site name -> its choices.
        tokens: rows of the input, whose numbers are random: 1 is a step of decoding, more a prefill.
        repeats: how often each choice is timed after one run that does not count.
        machine: what the table says of the machine, along with the device and the number of threads.

    Raises:
        BadInputError: A quantizer lacks a width, or the model holds packed weights alone.
    """
    if model.packed_widths is not None:
        raise BadInputError("choices are timed on a model with its weights: this one is packed; profile its checkpoint")
    found = {
        site.name: _site(model, site, choices[site.name], tokens, repeats)
        for site in model.sites
        if not site.is_embedding
    }
    details = {
        **(machine or {}), "device": str(model.device), "threads": torch.get_num_threads(), "tokens": tokens,
        "repeats": repeats,
    }  # fmt: skip
    return LatencyTable(found, digest_of(model.sites), details)


@torch.inference_mode()
def _site(
    model: SwitchableModel, site: Site, choices: Sequence[LayerBits], tokens: int, repeats: int
) -> dict[str, int]:
    linear, _ = layers_of(model, site)
    distinct = {choice_of(bits): bits for bits in choices}
    held = {bits.weight_width: linear.packed_weight(linear.weight, bits.weight_width) for bits in distinct.values()}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((tokens, site.in_features), generator=generator).to(linear.weight)

    def run(bits: LayerBits) -> None:
        weight = held[bits.weight_width]
        if weight.product(x, linear.input_quantizer, bits.activation, linear.bias) is None:
            functional.linear(linear.input_quantizer(x, bits.activation), weight.weight().to(x.dtype), linear.bias)

    times: dict[str, list[int]] = {name: [] for name in distinct}
    for turn in range(repeats + 1):
        for name, bits in distinct.items():
            _synchronize(x.device)
            started = time.perf_counter_ns()
            run(bits)
            _synchronize(x.device)
            if turn:
                times[name].append(time.perf_counter_ns() - started)
    return {name: round(statistics.median(each)) for name, each in times.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
