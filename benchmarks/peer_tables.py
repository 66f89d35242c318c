"""The tables of the comparison with the vendors' searches, from ``results/peers.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from md_tables import rows, three

Found = Mapping[str, Any]


def peers(found: Found) -> str:
    """Perplexity by budget, and CPU seconds to a recipe, of every tool's recipes and of uniform bitmaps."""
    budgets = _budgets(found)
    body = [["full precision", *[three(found["full_precision"], 1)] * len(budgets), "", ""]]
    uniform = found["uniform"]
    body.append(
        ["the uniform bitmap within the budget", *(three(uniform[str(int(budget))], 1) for budget in budgets), "", ""]
    )
    for given in _by_name(found).values():
        first, *further = given.values()
        later = statistics.median(row["cpu_seconds"] for row in further)
        cells = [_perplexity(given[budget]) for budget in budgets]
        body.append([_spoken(first), *cells, f"{first['cpu_seconds']:.1f}", f"{later:.1f}"])
    named = [f"{budget:g} bits" for budget in budgets]
    return rows(["recipe of (widths)", *named, "CPU seconds to the first", "to each further"], body)


def peer_ratios(found: Found) -> str:
    """Paired ratios of perplexity, ours over the others'; below 1 ours is better."""
    budgets, named = _budgets(found), _by_name(found)
    body = []
    for given in named.values():
        first = next(iter(given.values()))
        if first["tool"] != "qalof":
            continue
        others = [other for other in first["ratio_to"] if not other.startswith("uniform")]
        body.append([_spoken(first), "uniform", *(three(_over_uniform(given[budget]), 3) for budget in budgets)])
        for other in others:
            theirs = _spoken(next(iter(named[other].values())))
            body.append([_spoken(first), theirs, *(three(given[b]["ratio_to"][other], 3) for b in budgets)])
    return rows(["ours", "over", *(f"{budget:g} bits" for budget in budgets)], body)


def peer_quantizers(found: Found) -> str:
    """Perplexity of ours and of theirs under each tool's own quantizer, with the paired ratio."""
    budgets, named = _budgets(found), _by_name(found)
    spoken = {name: _spoken(next(iter(given.values()))) for name, given in named.items()}
    cells: dict[tuple[str, str, str], dict[float, str]] = {}
    for row in found["own_quantizers"]:
        mine, theirs = (f"{perplexity[0]:.1f}" for perplexity in row["perplexity"])
        key = row["quantizer"], spoken[row["ours"]], spoken[row["theirs"]]
        cells.setdefault(key, {})[row["budget"]] = f"{mine} to {theirs}: {three(row['ratio'], 3)}"
    body = [[*key, *(given[budget] for budget in budgets)] for key, given in cells.items()]
    return rows(["quantizer", "ours", "over", *(f"{budget:g} bits" for budget in budgets)], body)


def _budgets(found: Found) -> list[float]:
    return sorted({row["budget"] for row in found["rows"]})


def _by_name(found: Found) -> dict[str, dict[float, Found]]:
    named: dict[str, dict[float, Found]] = {}
    for row in found["rows"]:
        named.setdefault(row["name"], {})[row["budget"]] = row
    return named


def _spoken(row: Found) -> str:
    tool = {"modelopt": "ModelOpt", "autoround": "AutoRound", "qalof": "QaLoF"}[row["tool"]]
    menu = "4 and 8" if row["menu"] == [4, 8] else f"{row['menu'][0]} to {row['menu'][-1]}"
    return f"{tool} {row['version']}, {row['way']} ({menu}{', tied' if row['tied'] else ''})"


def _perplexity(row: Found) -> str:
    over = f", overshoots: {row['average_bits']:.2f} bits" if row["overshoots"] else ""
    return f"{three(row['perplexity'], 1)}{over}"


def _over_uniform(row: Found) -> list[float]:
    (name,) = [other for other in row["ratio_to"] if other.startswith("uniform")]
    ratio: list[float] = row["ratio_to"][name]
    return ratio
