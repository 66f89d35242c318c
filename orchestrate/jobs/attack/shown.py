"""How rates and defenses of an attack are written."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import Cell
from qalof.attacks.rates import Rate
from qalof.attacks.robustness.report import RandomPrecisionReport


def rate(value: Rate) -> str:
    """Write a rate with its interval: ``83 % [64, 93]``."""
    return formats.share_with_interval(value.estimate, value.low, value.high)


def drawn_from(defense: RandomPrecisionReport) -> str:
    """Say in words what random precision draws."""
    widths = formats.listed([str(width) for width in defense.defense["widths"]])
    draws = formats.count_of(defense.draws, "draw")
    grain, size = defense.defense["granularity"], defense.defense["batch_size"]
    each = f"batch of {size} texts" if grain == "batch" else grain
    drawn = f"{widths} bits, drawn anew for each {each}, {draws} per text"
    probability, baseline = defense.defense["probability"], defense.defense["baseline"]
    return drawn if probability == 1 else f"{drawn}; {baseline} bits but for a share of {probability:g}"


def defense_name(defense: RandomPrecisionReport) -> str:
    """Name a defense, with its probability where that is not 1."""
    probability = defense.defense["probability"]
    return "random precision" if probability == 1 else f"random precision, p = {probability:g}"


def cell(value: Rate, heat: bool = False) -> Cell:
    """Write a rate with its counts beside it; with ``heat`` it is shaded."""
    counts = f"{value.hits} of {value.trials}, from {formats.count_of(value.clusters, 'text')}"
    return Cell(rate(value), counts, value.estimate if heat else None)
