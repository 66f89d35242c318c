"""Which sites of a language model bear rounding, by several scores; one JSON object on standard output.

    python benchmarks/site_damages.py --model build/second_model/model > benchmarks/results/site_damages_second.json
    python benchmarks/site_damages.py --scores fisher > benchmarks/results/site_damages.json

Weights are rounded to nearest per output channel, on 8 windows of 256 tokens of the text to calibrate on of
``search_real.py``.  Every score has its shares by kind of layer and by block, its largest sites, and Spearman's rank
correlation with KL (one site at a time), where that is among ``--scores``.  GPT-2 keeps queries, keys and values in one
layer: where ``kl`` is measured, each third of that layer is rounded alone, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import environment
from search_real import SOURCE, WINDOW, switchable, tasks_of

import search
from orchestrate.document.heat import kind_of
from qalof.bitmap_patterns import numbered_blocks
from qalof.evaluation.kl import divergence, reference_of
from qalof.evaluation.label_rows import labeled_windows
from qalof.model.switchable import SwitchableModel
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize
from search.scores.compare import rank_correlation

SCORES = ("fisher", "kl", "taylor", "relative_mse", "mse")
WIDTHS = ("3", "4")
WINDOWS = 8
FUSED = "c_attn"
THIRDS = ("queries", "keys", "values")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=SOURCE, help="a folder, or another source of a language model")
    parser.add_argument("--output", type=Path, default=Path("build/site_damages"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--scores", nargs="+", default=list(SCORES), choices=SCORES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    model = switchable(options.model)
    windows = windows_of(tasks_of(options.model, options.data, options.output)["choose"])
    print(json.dumps({"model": options.model} | measured(model, windows, options.scores) | environment(), indent=2))


def measured(model: SwitchableModel, windows: Sequence[Sequence[int]], scores: Sequence[str]) -> dict[str, Any]:
    """Return what every score says of every site at every width, and how scores agree."""
    tables = {}
    for score in scores:
        tables[score] = search.compute_scores(model, windows, score, {"weight": WIDTHS})
        print(f"{score}: {tables[score].details['seconds']} s", file=sys.stderr, flush=True)
    weights = {site.name: site.weights for site in model.sites}
    found: dict[str, Any] = {
        "windows": len(windows), "window": WINDOW,
        "scores": {
            score: {
                width: shares({site: row[width] for site, row in table.values["weight"].items()}, weights)
                for width in WIDTHS
            }
            for score, table in tables.items()
        },
    }  # fmt: skip
    if "kl" in tables:
        found["rank_correlation_with_kl"] = {
            score: {width: rho for _, width, rho in rank_correlation(table, tables["kl"])}
            for score, table in tables.items()
            if score != "kl"
        }
        found["thirds_of_c_attn"] = {width: thirds(model, windows, int(width)) for width in WIDTHS}
    return found


def windows_of(task: Any) -> list[list[int]]:
    """Return windows that are spread evenly over the training text of a task."""
    blocks = task.train_features()
    return [list(blocks[index * len(blocks) // WINDOWS]["input_ids"]) for index in range(WINDOWS)]


def shares(damages: Mapping[str, float], weights: Mapping[str, int]) -> dict[str, Any]:
    """Return the sum of the damages, and what part of it each kind of layer, each block and the largest sites have.

    ``per_weight`` of a kind is its share of the damage over its share of the weights.

    Args:
        damages: by site.
        weights: how many weights each site has.
    """
    whole, size = sum(damages.values()), sum(weights.values())
    kinds = dict.fromkeys(map(kind_of, damages))
    by_kind = {}
    for kind in kinds:
        members = [site for site in damages if kind_of(site) == kind]
        part = sum(damages[site] for site in members) / whole
        by_kind[kind] = {
            "share": round(part, 4), "per_weight": round(part * size / sum(weights[site] for site in members), 3),
        }  # fmt: skip
    by_block: dict[str, float] = {}
    for (_, damage), block in zip(damages.items(), numbered_blocks(list(damages)), strict=True):
        by_block[str(block)] = by_block.get(str(block), 0.0) + damage / whole
    largest = sorted(damages, key=lambda site: -damages[site])[:5]
    return {
        "sum": whole, "sites": len(damages), "by_kind": by_kind,
        "by_block": {block: round(part, 4) for block, part in by_block.items()},
        "largest": {site: round(damages[site] / whole, 4) for site in largest},
    }  # fmt: skip


@torch.no_grad()
def thirds(model: SwitchableModel, windows: Sequence[Sequence[int]], bits: int) -> dict[str, float]:
    """Return the share of the KL of queries, keys and values, each rounded alone in one block after another."""
    reference = reference_of(model, labeled_windows(windows))
    sums = dict.fromkeys(THIRDS, 0.0)
    for switch in model.switches:
        if not switch.site.name.endswith(FUSED):
            continue
        weight = switch.linear.weight  # (3 * width, width)
        before, rounded = weight.clone(), fake_quantize(weight, bits, Granularity.CHANNEL)
        for name, old, new in zip(THIRDS, weight.chunk(3), rounded.chunk(3), strict=True):
            old.copy_(new)
            sums[name] += float(divergence(model, 32, reference).kl.mean())
            weight.copy_(before)
    whole = sum(sums.values())
    return {name: round(value / whole, 4) for name, value in sums.items()} if whole else {}


if __name__ == "__main__":
    main()
