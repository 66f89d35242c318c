"""Sizes and speeds in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrate.document import formats
from orchestrate.document.blocks import Cell, Statement, Table
from orchestrate.jobs.profile.findings import Measured
from qalof.latency import LATENCY

_SIZES = {"predicted": "Predicted", "packed": "Packed", "packed_zlib": "Packed, zlib"}

_SPEEDS = {
    "prefill_tokens_per_second": "Prefill, tokens/s",
    "calibration_tokens_per_second": "Calibration, tokens/s",
    "decode_tokens_per_second": "Decode, tokens/s",
}


def profile_table(found: Measured) -> Table:
    """Show bytes with their share of the fp32 model, memory and speed; there is a column only for what was measured."""
    first = found.rows[0][1]
    sizes = {name: title for name, title in _SIZES.items() if f"{name}_bytes" in first}
    speeds = {name: title for name, title in _SPEEDS.items() if name in first}
    memory = ("Peak memory",) if "memory_bytes" in first else ()
    latency = (formats.heading(LATENCY),) if LATENCY in first else ()
    rows = [
        [
            Cell(formats.bitmap_heading(bitmap), bitmap),
            *(_size_cell(metrics, name) for name in sizes),
            *(Cell(formats.size(metrics["memory_bytes"])) for _ in memory),
            *(Cell(formats.count(metrics[name])) for name in speeds),
            *(Cell(formats.level(metrics[LATENCY], LATENCY)) for _ in latency),
        ]
        for bitmap, metrics in found.rows
    ]
    note = "Percent of the fp32 model with a tied head. " if sizes else ""
    note += "Speed is of simulated quantization in PyTorch, the median of a few runs, without intervals." * bool(speeds)
    note += " Latency is the sum of medians over sites, one token, with the kernels of a packed model." * bool(latency)
    header = ["Bitmap", *sizes.values(), *memory, *speeds.values(), *latency]
    return Table(f"Profile at each bitmap, on {found.device}", header, rows, note.strip())


def _size_cell(metrics: Mapping[str, float], name: str) -> Cell:
    count = metrics[f"{name}_bytes"]
    return Cell(
        f"{formats.size(count)} ({formats.percent(metrics[f'{name}_percent'])})", f"{formats.count(count)} bytes"
    )


def profile_statements(found: Measured) -> list[Statement]:
    """State how small the model is, and how fast."""
    statements = []
    for name, what, unit in (
        ("packed_percent", "Packed, in percent of the fp32 model", f"{formats.NBSP}%"),
        ("prefill_tokens_per_second", f"Prefill on {found.device}", " tokens/s"),
        ("decode_tokens_per_second", f"Decoding on {found.device}", " tokens/s"),
    ):
        known = [
            (bitmap, metrics[name]) for bitmap, metrics in found.rows if math.isfinite(metrics.get(name, math.nan))
        ]
        if known:
            written = formats.mean_count if "percent" in name else formats.count
            values = [f"{written(value)}{unit}" for _, value in known]
            statements.append(Statement(f"{what}: {formats.by_bitmap([bitmap for bitmap, _ in known], values)}."))
    return statements
