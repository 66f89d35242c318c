"""Robustness in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import rate
from qalof.attacks.robustness.report import check_version
from qalof.bitmap_names import short_name


def robustness_table(report: Mapping[str, Any]) -> Sheet:
    """Show the success of the attack built at a row's bitmap against a column's.

    Raises:
        BadInputError: The report is of another version.
    """
    check_version(report)
    names = [short_name(name) for name in report["bitmaps"]]
    headings = ["attacked at", "clean accuracy", *(f"against {name}" for name in names)]
    shown = [
        [name, rate(clean), *map(rate, row)]
        for name, clean, row in zip(names, report["clean_accuracy"], report["transfer"], strict=True)
    ]
    caption = [
        f"random precision (p = {defense['defense']['probability']:g}): success {rate(defense['success_mean'])}, "
        f"clean accuracy {rate(defense['clean_accuracy'])}"
        for defense in report["random_precision"]
    ]
    return Sheet(headings, shown, caption=caption)
