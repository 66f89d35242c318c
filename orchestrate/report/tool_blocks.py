"""Tables and figures of sweeps, range tests, baselines, footprints and generated data."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrate.report import formats
from orchestrate.report.blocks import Block, Cell, Plot, Table, cells
from orchestrate.report.plots import Series, metric_by_bits
from orchestrate.report.read import Step
from orchestrate.report.score_blocks import PAIRED, UNPAIRED
from orchestrate.report.tool_findings import Baselines, Generated, Measured, MethodScore, RangeTested, Swept
from qalof.metrics import spoken_of
from qalof.statistics import Interval

_SIZES = {"predicted": "Predicted", "packed": "Packed", "packed_zlib": "Packed, zlib"}
_SPEEDS = {
    "prefill_tokens_per_second": "Prefill, tokens/s",
    "calibration_tokens_per_second": "Calibration, tokens/s",
    "decode_tokens_per_second": "Decode, tokens/s",
}


def tool_blocks(step: Step, prefix: str) -> list[Block]:
    """What a step of any of these commands found."""
    found = step.findings
    if isinstance(found, Swept):
        return [sweep_table(found)]
    if isinstance(found, RangeTested):
        return range_blocks(found, prefix)
    if isinstance(found, Baselines):
        return baseline_blocks(found, prefix)
    if isinstance(found, Measured):
        return [footprint_table(found)]
    return [generated_table(found)] if isinstance(found, Generated) else []


def sweep_table(found: Swept) -> Table:
    """One row a trial, the best first."""
    params = list(found.trials[0].params)
    metric = found.objective.name
    rows = [
        cells(
            str(trial.number),
            *(formats.setting(trial.params[name]) for name in params),
            formats.level(trial.value, metric),
            trial.state,
            f"{trial.step:,}",
        )
        for trial in found.trials
    ]
    note = (
        "Finished trials first. The score of a trial that was stopped is of fewer steps. Scores have no intervals: "
        "trials are ranked by them, not told apart."
    )
    caption = f"{formats.count_of(len(rows), 'trial')}, by {formats.name_of(metric)}"
    return Table(caption, ["Trial", *params, formats.heading(metric), "State", "Steps"], rows, note)


def range_blocks(found: RangeTested, prefix: str) -> list[Block]:
    """Loss over bits, and the table with the fall from width to width."""
    drawn = [width for width in found.widths if math.isfinite(width.loss)]
    blocks: list[Block] = []
    if drawn:
        levels = [Interval.exact(width.loss) for width in drawn]
        series = Series("training loss", [float(width.bits) for width in drawn], levels)
        caption = "Training loss at each width, one after the other on the same weights"
        blocks.append(Plot(metric_by_bits([series], "loss", f"{prefix}-range"), caption))
    rows = [
        cells(
            str(width.bits),
            formats.level(width.loss, "loss"),
            formats.percent(100 * width.fall, 2),
            "yes" if width.fall > found.threshold else "no",
        )
        for width in found.widths
    ]
    over = f"Falls by more than {100 * found.threshold:g} %"
    note = (
        "The fall is from the width below, of the lowest width from its own first steps. Each width ran once, so that "
        "there are no intervals."
    )
    return [*blocks, Table("Which widths learn", ["Bits", "Loss (nats)", "Fall", over], rows, note)]


def baseline_blocks(found: Baselines, prefix: str) -> list[Block]:
    """The metric over bits with a line a method, and the table with differences from the reference method."""
    metric = spoken_of(found.scores[0].metrics)
    by_method: dict[str, list[MethodScore]] = {}
    for score in found.scores:
        if math.isfinite(score.metrics[metric].estimate):
            by_method.setdefault(score.method, []).append(score)
    series = [
        Series(method, [score.average_bits for score in scores], [score.metrics[metric] for score in scores])
        for method, scores in by_method.items()
    ]
    blocks: list[Block] = []
    if series:
        caption = f"{formats.heading(metric)} by average bits, without training, with 95 % intervals"
        blocks.append(Plot(metric_by_bits(series, metric, f"{prefix}-methods"), caption))
    return [*blocks, _baseline_table(found, metric)]


def _baseline_table(found: Baselines, metric: str) -> Table:
    metrics = list(found.scores[0].metrics)
    compared = any(metric in score.differences for score in found.scores)
    rows = []
    for score in found.scores:
        difference = score.differences.get(metric)
        rows.append(
            [
                Cell(score.method),
                Cell(formats.bitmap_heading(score.bitmap), score.bitmap),
                *(Cell(formats.level_with_interval(score.metrics[name], name)) for name in metrics),
                *((Cell(formats.DASH if difference is None else formats.difference(difference)),) if compared else ()),
                Cell(f"{score.average_bits:.2f}"),
                Cell(formats.size(score.stored_bytes), f"{score.stored_bytes:,} bytes"),
            ]
        )
    against = (f"{formats.capital(formats.name_of(metric))}, difference from {found.reference}",) if compared else ()
    return Table(
        f"Each method on {found.task}, on {formats.count_of(found.scores[0].examples, 'example')}",
        ["Method", "Bitmap", *map(formats.heading, metrics), *against, "Average bits", "Stored weights"],
        rows,
        PAIRED if compared else UNPAIRED,
    )


def footprint_table(found: Measured) -> Table:
    """Bytes with their share of the fp32 model, memory and speed; a column only for what was measured."""
    first = found.rows[0][1]
    sizes = {name: title for name, title in _SIZES.items() if f"{name}_bytes" in first}
    speeds = {name: title for name, title in _SPEEDS.items() if name in first}
    memory = ("Peak memory",) if "memory_bytes" in first else ()
    rows = [
        [
            Cell(formats.bitmap_heading(bitmap), bitmap),
            *(_size_cell(metrics, name) for name in sizes),
            *(Cell(formats.size(metrics["memory_bytes"])) for _ in memory),
            *(Cell(f"{metrics[name]:,.0f}") for name in speeds),
        ]
        for bitmap, metrics in found.rows
    ]
    note = "Percent of the fp32 model with a tied head. " if sizes else ""
    note += "Speed is of simulated quantization in PyTorch, the median of a few runs, without intervals." * bool(speeds)
    header = ["Bitmap", *sizes.values(), *memory, *speeds.values()]
    return Table(f"Footprint at each bitmap, on {found.device}", header, rows, note.strip())


def _size_cell(metrics: Mapping[str, float], name: str) -> Cell:
    count = metrics[f"{name}_bytes"]
    return Cell(f"{formats.size(count)} ({formats.percent(metrics[f'{name}_percent'])})", f"{count:,.0f} bytes")


def generated_table(found: Generated) -> Table:
    """What was written."""
    row = cells(
        f"{found.texts:,}",
        f"{found.tokens:,}",
        f"{found.tokens / found.texts:.1f}",
        f"{found.ended:,} ({formats.percent(100 * found.ended / found.texts, 0)})",
        f"{found.empty:,}",
    )
    header = [formats.capital(found.kind), "Tokens", "Tokens each", "To their own end", "Empty"]
    return Table(f"Generated {found.kind}, begun from {found.start.replace('_', ' ')}", header, [row])
