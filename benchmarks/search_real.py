"""Searches of per-layer bit-widths on a real language model, nothing trained: perplexity by strategy and budget.

    make real-model
    QALOF_DATA=../shared/data python benchmarks/search_real.py > benchmarks/results/search_real.json

The model is SmolLM2-135M, whose weights went through GGUF's Q4_1 once, unless ``--model`` names another; its sites (210
in SmolLM2) are rounded to nearest per output channel, activations and cache stay as they are.  WikiText-2 raw
validation is cut into three parts: scores and gradients are taken on the first, bitmaps are chosen on the second, and
everything is judged on the third, which no search has seen.  Ratios to the uniform bitmap of the same average bits (or
the next lower one) are paired, with 95 % bootstraps over windows.  A run that is cut off goes on from its records in
``--output``.  Besides the strategies by name there is ``knapsack``: one table of Fisher scores and the exact
allocation per budget, and no bitmap evaluated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import environment

import qalof
import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel, build
from qalof.statistics import paired_difference
from search.record import EvaluationRecord

KNAPSACK = "knapsack"
SOURCE = "cache:SmolLM2-135M-Instruct"
WIDTHS = (2, 3, 4, 5, 6, 8)
PARTS = {"calibrate": (0.0, 0.4), "choose": (0.4, 0.7), "judge": (0.7, 1.0)}
WINDOW = 256
REACH = {3.5: 0.15, 4.0: 0.91, 4.5: 0.76, 5.0: 0.93, 6.0: 0.98}
"""The ratios of perplexity to uniform that a prototype reached on this model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=SOURCE, help="a folder, or another source of a language model")
    parser.add_argument("--output", type=Path, default=Path("build/search_real"), help="a folder of its own per model")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--strategies", nargs="+", default=["guided", "tpe", "nsga2", "random"])
    parser.add_argument("--budgets", nargs="+", type=float, default=list(REACH))
    parser.add_argument("--evaluations", type=int, default=40, help="of each other strategy, per budget")
    parser.add_argument("--windows", type=int, default=4, help="of 256 tokens, to choose on")
    parser.add_argument("--judge", type=int, default=12, help="windows to judge on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--choose-by", nargs="+", default=["loss"], choices=["loss", "kl"], help="of guided")
    parser.add_argument("--rounds", type=int, default=0, help="of refinement by guided, per budget")
    parser.add_argument("--steps", type=int, default=1, help="gradient steps of guided per budget, at most")
    parser.add_argument("--step-below", type=float, default=5.0, help="average bits below which they are taken")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(options.model, options.data, options.output)
    model = switchable(options.model)
    space = search.BitmapSpace.of(model, weight=WIDTHS, activation=(32,), kv=None)
    found, spent = {}, {}
    named = [f"{s} by {metric}" if metric != "loss" else s
             for s in options.strategies for metric in (options.choose_by if s == "guided" else ["loss"])]  # fmt: skip
    for strategy in named:
        at_once = strategy.startswith(("guided", KNAPSACK))
        for budgets in [options.budgets] if at_once else [[b] for b in options.budgets]:
            started = time.process_time()
            bitmaps, evaluations = _found(space, model, tasks["choose"], strategy, budgets, options)
            for budget in budgets:
                found[strategy, budget] = bitmaps[budget]
                spent[strategy, budget] = {
                    "evaluations": evaluations, "of_budgets": len(budgets),
                    "cpu_seconds": round(time.process_time() - started, 1),
                }  # fmt: skip
            _say({"strategy": strategy, "budgets": budgets, **spent[strategy, budgets[0]]})
    rows = _judged(space, model, tasks["judge"], found, spent, options)
    result = {
        "model": options.model, "data": "WikiText-2 raw validation, three parts", "widths": WIDTHS,
        "sites": len(space.sites),
        "choose_on_positions": options.windows * (WINDOW - 1), "judge_on_positions": options.judge * (WINDOW - 1),
        **({"stored_as": "Q4_1", "reach": REACH} if options.model == SOURCE else {}),
        "steps": options.steps, "step_below": options.step_below, "seed": 0, "rows": rows,
        **environment(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))


def write_parts(data: Path, output: Path) -> None:
    """Write each of :data:`PARTS` of the text as a file of its name in ``output``."""
    text = (data / "wikitext2" / "wiki.valid.raw").read_text(encoding="utf-8")
    for part, (start, end) in PARTS.items():
        (output / f"{part}.txt").write_text(text[int(start * len(text)) : int(end * len(text))], encoding="utf-8")


def switchable(source: str) -> SwitchableModel:
    """Return a language model without adapters, all of whose sites can be rounded."""
    base = BaseModel(source, HeadKind.CAUSAL_LM)
    return build(base, {}, SwitchSettings(), pretrained=load_pretrained(source, HeadKind.CAUSAL_LM)).eval()


def tasks_of(source: str, data: Path, output: Path) -> dict[str, Any]:
    """Return a task per part of the text."""
    write_parts(data, output)
    return {part: task_on(source, output, part) for part in ("choose", "judge")}


def task_on(source: str, folder: Path, part: str) -> Any:
    """Return the task that scores on a part of the text, as :func:`write_parts` wrote it to ``folder``; its training
    text is the part for calibration.
    """
    return qalof.task(
        "language-modeling", source=source, data=str(folder / "calibrate.txt"),
        validation_data=str(folder / f"{part}.txt"), max_length=WINDOW, stride=WINDOW, eval_batch_size=2,
    )  # fmt: skip


def _found(
    space: search.BitmapSpace, model: Any, task: Any, strategy: str, budgets: list[float], options: argparse.Namespace
) -> tuple[dict[float, Bitmap], int]:
    """Return a bitmap per budget, and how many bitmaps were evaluated to find them."""
    if strategy == KNAPSACK:
        table = search.compute_scores(model, task, "fisher", {"weight": WIDTHS})
        return {budget: search.allocate(space, table, {"average_bits": budget}) for budget in budgets}, 0
    result = _search(space, model, task, strategy, budgets, options)
    return {budget: result.best(average_bits=budget).bitmap for budget in budgets}, len(result.points)


def _search(
    space: search.BitmapSpace, model: Any, task: Any, strategy: str, budgets: list[float], options: argparse.Namespace
) -> search.SearchResult:
    evaluator = search.LocalEvaluator(model, task, options.windows)
    storage = options.output / "choose.jsonl"
    if strategy.startswith("guided"):
        metric = strategy.rpartition(" ")[2] if " " in strategy else "loss"
        return search.run(
            space, evaluator, (f"min:{metric}", "min:average_bits"), "guided", None, storage=storage,
            options={"budgets": budgets, "rounds": options.rounds, "steps": options.steps,
                     "step_below": options.step_below},
            on_score=_report,
        )  # fmt: skip
    return search.run(
        space, evaluator, ("min:loss",), strategy, options.evaluations, {"average_bits": budgets[0]},
        storage=storage, on_score=_report,
    )  # fmt: skip


def _judged(
    space: search.BitmapSpace,
    model: Any,
    task: Any,
    found: dict[tuple[str, float], Bitmap],
    spent: dict[tuple[str, float], Any],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    evaluator = search.LocalEvaluator(model, task, options.judge)
    record, fingerprint = EvaluationRecord(options.output / "judge.jsonl"), evaluator.fingerprint()
    known = record.load(fingerprint, options.judge, [site.name for site in space.sites])

    def scored(bitmap: Bitmap) -> Evaluation:
        if bitmap not in known:
            (known[bitmap],) = evaluator.evaluate([bitmap])
            record.add(fingerprint, options.judge, bitmap, known[bitmap])
        return known[bitmap]

    names = [site.name for site in space.sites]
    full = scored(Bitmap.uniform(names, "w32"))
    rows = [{"bitmap": "full precision", "perplexity": _three(full.interval("perplexity"))}]
    for (strategy, budget), bitmap in found.items():
        uniform = scored(Bitmap.uniform(names, f"w{max(w for w in WIDTHS if w <= budget)}"))
        mine = scored(bitmap)
        difference = paired_difference(mine.per_example["loss"], uniform.per_example["loss"])
        row = {
            "strategy": strategy, "budget": budget, "average_bits": round(space.cost(bitmap).average_bits, 4),
            "is_uniform": bitmap.is_uniform, "perplexity": _three(mine.interval("perplexity")),
            "uniform": _three(uniform.interval("perplexity")),
            "ratio": [round(math.exp(x), 4) for x in (difference.estimate, difference.low, difference.high)],
            **spent[strategy, budget],
        }  # fmt: skip
        rows.append(row)
        _say(row)
    return rows


def _three(interval: Any) -> list[float]:
    return [round(value, 3) for value in (interval.estimate, interval.low, interval.high)]


def _report(score: search.Score) -> None:
    _say(
        {
            "bits": round(score.cost.average_bits, 3),
            **{name: round(score.evaluation[name], 4) for name in ("loss", "kl") if name in score.evaluation.metrics},
        }
    )


def _say(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
