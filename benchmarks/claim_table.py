"""What the references claim about layers, and whether the study's numbers say so: a table for docs/real_study.md.

A claim holds where the whole interval is on its side of the value that means "no difference", the opposite holds where
the whole interval is on the other side, and otherwise it is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from md_tables import rows, three

DEPTH = "rank correlation of a block's depth and damage"
OF_LAYERS = (
    ("late blocks bear rounding better than early ones (S1, S3)", DEPTH, "depth and damage, rank correlation", 0, -1),
    ("MLP layers are more sensitive than attention layers (S1)", "MLP layers over attention layers", "ratio", 1, 1),
    ("the same per weight, which S1 does not say", "MLP layers over attention layers, per weight", "ratio", 1, 1),
    ("attention's output layer bears it better than the layers before it (S1)",
     "attention's output over its queries, keys and values", "ratio", 1, -1),
    ("the MLP's output layer bears it better than the layers before it (S1)",
     "the MLP's output over its inputs", "ratio", 1, -1),
)  # fmt: skip
"""(claim, name among the study's claims, unit, no difference, which side the claim is on)."""
OF_BITMAPS = (
    ("4 bits in the first third of the blocks are worse than in the last third (S1, S3)",
     "first third at 4", "last third at 4"),
    ("all MLP layers at 4 bits, the rest at 8, are worse than all layers at 4 (S1)", "MLP at 4", 4),
    ("all attention layers at 4 bits, the rest at 8, are worse than all layers at 4 (S1)", "attention at 4", 4),
)  # fmt: skip
"""(claim, bitmap, compared with)."""
MODELS = {"spnet": "SP", "cpt": "CPT"}


def claims(found: Mapping[str, Any]) -> str:
    """Every claim, what was measured of it, and what that says."""
    body = [*_of_layers(found), *_of_bitmaps(found), *_of_head(found)]
    return rows(["claim", "measured", "found", "so the claim"], body)


def verdict(interval: Sequence[float], equal: float, side: int) -> str:
    """What an interval (estimate, low, high) says of a claim that the value is on one side of ``equal``."""
    if interval[1] <= equal <= interval[2]:
        return "is not shown"
    return "holds" if (interval[1] > equal) == (side > 0) else "is contradicted"


def _of_layers(found: Mapping[str, Any]) -> Iterator[list[str]]:
    tables = {"pretrained": found["sensitivity"], "CPT": found["sensitivity_trained"]}
    for claim, name, unit, equal, side in OF_LAYERS:
        for where, table in tables.items():
            if table is not None:
                value = table["4"]["claims"][name]
                yield [claim, f"{where}, at 4 bits, {unit}", three(value, 2), verdict(value, equal, side)]


def _of_bitmaps(found: Mapping[str, Any]) -> Iterator[list[str]]:
    for claim, at, over in OF_BITMAPS:
        for row in found["comparisons"]:
            if row["of"] == row["over"] and (row["at"], row["over_at"]) == (at, over):
                value = row["f1"]
                yield [claim, f"{MODELS[row['of']]}, F1", three(value, 1, signed=True), verdict(value, 0, -1)]


def _of_head(found: Mapping[str, Any]) -> Iterator[list[str]]:
    if found["sensitivity"] is None or "head at 4" not in found["head"]:
        return
    value = found["head"]["head at 4"]["rise"]
    site, most = next(iter(found["sensitivity"]["4"]["most"].items()))
    yield [
        "the head is sensitive (S3): more than any other layer", f"pretrained, at 4 bits, nats; `{site}` {most:.3f}",
        three(value, 3), verdict(value, most, 1),
    ]  # fmt: skip
