"""How much of the true front each strategy finds, on the tiny model and a space that was enumerated.

    python benchmarks/search_quality.py > benchmarks/results/search_quality.json

The space: attention and MLP of each of the tiny model's four blocks together, at 2, 3 or 4 bits per output channel, so
8 units and 6,561 bitmaps.  Every one is evaluated once, in loss of 8 windows of 64 tokens, and written to ``--output``;
strategies then get their scores from that table.  Scores of sites and gradients are measured on the model itself.

The share is the area that the evaluated bitmaps dominate in (average bits, loss), over the area that all 6,561 do.  Its
reference point is the corner of the space: the loss at 2 bits everywhere, and 4 average bits. Both objectives are
minimized.  The tiny model proves nothing of real ones; what this shows is how well a strategy spends its evaluations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import environment, report

import qalof
import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.pretrained import BaseModel, HeadKind
from search.measurement import Measurement, Taken

WIDTHS = (2, 3, 4)
WINDOWS, TOKENS = 8, 64
EVALUATIONS = (25, 50, 100, 200)
SEEDS = range(5)
STRATEGIES = {
    "guided": "guided", "guided, refined": "guided", "nsga2, warm start": "nsga2", "nsga2": "nsga2",
    "random": "random", "evolutionary": "evolutionary", "greedy": "greedy", "one_at_a_time": "one_at_a_time",
    "tpe, warm start": "tpe", "tpe": "tpe",
}  # fmt: skip


class Table:
    """An evaluator that looks bitmaps up, and measures on the model."""

    at_once, limit, primary_metric = 64, WINDOWS, "loss"

    def __init__(self, space: search.BitmapSpace, local: search.LocalEvaluator, losses: np.ndarray) -> None:
        self.space, self.local, self.losses = space, local, losses
        self.rows = {picks: row for row, picks in enumerate(every(space))}
        self.taken: dict[str, Taken] = {}

    @property
    def sites(self) -> Any:
        return self.local.sites

    def fingerprint(self) -> str:
        return "table"

    def evaluate(self, bitmaps: Sequence[Bitmap], limit: int | None = None) -> list[Evaluation]:
        rows = [self.losses[self.rows[self.space.encode(bitmap)]] for bitmap in bitmaps]
        return [Evaluation({"loss": float(row.mean())}, WINDOWS, {"loss": row.tolist()}) for row in rows]

    def measure(self, measurement: Measurement) -> Taken:
        if measurement.key not in self.taken:
            self.taken[measurement.key] = self.local.measure(measurement)
        return self.taken[measurement.key]

    def why_unmeasured(self) -> str:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/search_quality"))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    task = qalof.task("language-modeling", max_length=TOKENS, stride=TOKENS)
    model = qalof.build(BaseModel("tiny", HeadKind.CAUSAL_LM))
    space = search.BitmapSpace.of(model, weight=WIDTHS, activation=(32,), kv=None, group="component")
    local = search.LocalEvaluator(model, task, WINDOWS)
    table = Table(space, local, enumerated(space, local, options.output / "losses.npy"))
    bits = np.array([space.cost(space.bitmap(picks)).average_bits for picks in every(space)])
    loss = table.losses.mean(axis=1)
    corner = float(bits.max()), float(loss[0])
    whole = area(bits, loss, corner)
    record, rows = options.output / "rows.jsonl", []
    known = [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    for name in options.strategies:
        found = [row for row in known if row["strategy"] == name]
        if len(found) < len(EVALUATIONS):
            found = rows_of(table, name, corner, whole)
            with record.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
        rows += found
    report({
        "space": space.size, "units": len(space.units), "widths": WIDTHS, "windows": WINDOWS, "tokens": TOKENS,
        "seeds": len(SEEDS), "corner": corner, "front": len(search.non_dominated(
            list(zip(bits.tolist(), loss.tolist(), strict=True)), ["min", "min"])),
        "rows": rows, **environment(),
    })  # fmt: skip


def every(space: search.BitmapSpace) -> Any:
    """All picks of a space, the cheapest first."""
    return itertools.product(*(range(unit.choices) for unit in space.units))


def enumerated(space: search.BitmapSpace, local: search.LocalEvaluator, path: Path) -> np.ndarray:
    """The losses by bitmap and window, (bitmaps, windows); what a run has written is read by the next one."""
    if path.is_file():
        return np.load(path)
    started, found = time.perf_counter(), []
    for index, picks in enumerate(every(space)):
        (each,) = local.evaluate([space.bitmap(picks)])
        found.append(each.per_example["loss"])
        if index % 500 == 0:
            say({"bitmap": index, "of": space.size, "seconds": round(time.perf_counter() - started, 1)})
    np.save(path, np.array(found))
    return np.array(found)


def rows_of(table: Table, name: str, corner: tuple[float, float], whole: float) -> list[dict[str, Any]]:
    """The shares of one strategy after at most so many evaluations, by seed.

    A strategy does not know how many evaluations it has, so those of a shorter search are the first ones of a longer.
    ``guided`` is run anew for each number, since it is given as many budgets.
    """
    found: list[dict[str, Any]] = []
    longest: dict[int, search.SearchResult] = {}
    for most in EVALUATIONS:
        shares, counts = [], []
        for seed in SEEDS:
            if name == "guided" or seed not in longest:
                count, options = most if name == "guided" else EVALUATIONS[-1], options_of(name, most, table.space)
                longest[seed] = search.run(
                    table.space, table, ("min:loss", "min:average_bits"), STRATEGIES[name], count, seed=seed,
                    options=options,
                )  # fmt: skip
            points = longest[seed].points[:most]
            loss, bits = (np.array([point.values[i] for point in points]) for i in (0, 1))
            shares.append(100 * area(bits, loss, corner) / whole)
            counts.append(len(points))
        found.append({
            "strategy": name, "evaluations": most, "used": round(statistics.mean(counts), 1),
            "share_percent": [round(share, 2) for share in shares], "mean_percent": round(statistics.mean(shares), 2),
            "sd_percent": round(statistics.stdev(shares), 2),
            "of_space_percent": round(100 * statistics.mean(counts) / table.space.size, 2),
        })  # fmt: skip
        say(found[-1])
    return found


def options_of(name: str, most: int, space: search.BitmapSpace) -> dict[str, Any]:
    """The strategy's options: ``guided`` has a budget per two evaluations, the rest being its gradient steps', or a
    dozen budgets that it refines until the evaluations are spent.
    """
    if name.startswith("guided"):
        low, high = space.reachable("average_bits")
        budgets = most // 2 if name == "guided" else 12
        values = [low + (high - low) * (index + 1) / (budgets + 1) for index in range(budgets)]
        return {"budgets": values} | ({} if name == "guided" else {"rounds": 1000})
    return {"warm_start": True} if "warm start" in name else {}


def area(bits: np.ndarray, loss: np.ndarray, corner: tuple[float, float]) -> float:
    """The area between a corner and the points that dominate it, both coordinates being minimized."""
    found, best = 0.0, corner[1]
    order = np.lexsort((loss, bits))
    for x, y in zip(bits[order], loss[order], strict=True):
        if y < best and x < corner[0]:
            found += (corner[0] - x) * (best - y)
            best = y
    return float(found)


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
