"""Phrases that several sentences share, above all the one that states a difference or declines to."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Statement
from orchestrate.document.formats import bitmap_name, in_prose, name_of
from orchestrate.jobs.shared.compare import TOLERANCE, cheapest_within, is_shown, paired
from qalof.evaluation.result import Evaluation
from qalof.metrics import is_percent
from qalof.statistics import Interval
from search.point import Point


def apart(difference: Interval, metric: str) -> str:
    """Word a difference that is shown: ``2.10 points [1.02, 3.20] lower``."""
    estimate, _, bounds = formats.size_of_difference(difference).partition(" ")
    points = " points" if is_percent(metric) else ""
    return f"{estimate}{points} {bounds} {'higher' if difference.estimate > 0 else 'lower'}"


def shown_or_not(difference: Interval, metric: str) -> str:
    """Word a difference if it is shown, and otherwise that it is not shown."""
    if is_shown(difference):
        return apart(difference, metric)
    return f"not shown to differ ({formats.difference(difference)})"


def bits_of(point: Point) -> str:
    """Name a bitmap by its bits: ``4 bits``, ``a mixed bitmap of 3.75 average bits``."""
    name = str(point.bitmap)
    if name.replace("g", "", 1).isdigit():
        return bitmap_name(name)
    return f"a mixed bitmap of {formats.bits(point.cost.average_bits)} average bits"


def with_size(point: Point) -> str:
    """Name a bitmap by its bits and size: ``4 bits (393 KiB)``."""
    return f"{bits_of(point)} ({formats.size(point.cost.weight_bytes)})"


def cheapest(
    points: Sequence[Point], evaluations: Sequence[Evaluation | None], metric: str
) -> tuple[list[Statement], int | None]:
    """Say how many bits are enough for a level within a point of the best; return the position of that bitmap too.

    Args:
        points: the points to choose among.
        evaluations: the evaluation of each point; None where scores per example were not kept.
        metric: a metric in percent; nothing is said of any other.
    """
    found = cheapest_within(points, metric)
    if found is None or len(points) < 2:
        return [], None
    best, cheap = found
    level = in_prose(points[best].metrics[metric], metric)
    if best == cheap:
        text = (
            f"The best {name_of(metric)} is {level} at {with_size(points[best])}; no cheaper one that was scored comes "
            f"within {TOLERANCE:g} point."
        )
        return [Statement(text)], cheap
    text = (
        f"The cheapest within {TOLERANCE:g} point of the best {name_of(metric)} ({level} at {bits_of(points[best])}) "
        f"is {with_size(points[cheap])}: {in_prose(points[cheap].metrics[metric], metric)}"
    )
    gap = paired(evaluations[cheap], evaluations[best], metric)
    return [Statement(f"{text}." if gap is None else f"{text}, {shown_or_not(gap, metric)}.")], cheap
