"""Range tests in a report."""

from __future__ import annotations

import math

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Plot, Statement, Table, cells
from orchestrate.document.figures import Series, metric_by_bits
from orchestrate.jobs.range_test.findings import RangeTested
from qalof.statistics import Interval


def range_blocks(found: RangeTested, prefix: str) -> list[Block]:
    """Draw the loss over bits, and make the table with the fall from width to width."""
    drawn = [width for width in found.widths if math.isfinite(width.loss)]
    blocks: list[Block] = []
    if drawn:
        levels = [Interval.exact(width.loss) for width in drawn]
        series = Series("training loss", [float(width.bits) for width in drawn], levels)
        caption = "Training loss at each width, one after the other on the same weights"
        blocks.append(Plot(metric_by_bits([series], "loss", f"{prefix}-range"), caption, "range"))
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
        "The fall is from the width below, and for the lowest width from its own first steps. Each width ran once, "
        "so there are no intervals."
    )
    return [*blocks, Table("Which widths learn", ["Bits", "Loss (nats)", "Fall", over], rows, note)]


def range_statements(found: RangeTested) -> list[Statement]:
    """Say between which widths cycles should run."""
    least, share = f"{found.widths[0].bits} to {found.widths[-1].bits} bits", f"{100 * found.threshold:g} %"
    if found.lowest is None:
        return [Statement(f"No width from {least} reduces the loss by more than {share}: no bounds are recommended.")]
    text = (
        f"Of {least}, widths from {found.lowest} to {found.highest} bits are recommended: the first and the last that "
        f"reduce the loss by more than {share} from the width below."
    )
    return [Statement(text), Statement("Each width ran once: another seed may move the bounds.", caution=True)]
