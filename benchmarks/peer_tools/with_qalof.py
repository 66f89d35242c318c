"""Recipes by QaLoF's own search, in a process of its own, as the other tools': ``python with_qalof.py JOB``.

``knapsack`` is one table of Fisher scores on the windows that all tools get, and a knapsack per budget.  ``guided`` is
the default strategy as a user runs it: it draws its own windows, as many, from the same part of the text, and chooses
between few bitmaps by their loss on a part that no other tool reads.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from exchange import THREADS, Stopwatch, read_job, write_answer

import search
from qalof.bitmap import Bitmap
from search.scores.compute import compute

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from search_real import SOURCE, switchable, task_on

CHOOSE = 4
"""Windows that ``guided`` chooses on."""


def main() -> None:
    job = read_job(sys.argv[1])
    torch.set_num_threads(THREADS)
    model = switchable(SOURCE)
    group = "fused" if job["tied"] else "site"
    space = search.BitmapSpace.of(model, weight=job["menu"], activation=(32,), kv=None, group=group)
    recipes = {"knapsack": knapsack, "guided": guided}[job["way"]](job, model, space)
    write_answer(job["answer"], {"version": version("qalof"), "torch": torch.__version__, "recipes": recipes})


def knapsack(job: dict[str, Any], model: Any, space: search.BitmapSpace) -> dict[str, Any]:
    watch = Stopwatch()
    table = compute(model, job["windows"], "fisher", {"weight": [str(bits) for bits in job["menu"]]})
    found = {}
    for budget in job["budgets"]:
        bitmap = search.allocate(space, table, {"average_bits": budget})
        found[str(budget)] = {"bits": bits_of(bitmap), **watch.read()}
        watch = Stopwatch()
    return found


def guided(job: dict[str, Any], model: Any, space: search.BitmapSpace) -> dict[str, Any]:
    """Every further budget goes on from the record of those before it."""
    evaluator = search.LocalEvaluator(model, task_on(SOURCE, Path(job["parts"]), "choose"), CHOOSE)
    storage = Path(job["answer"]).with_suffix(".jsonl")
    storage.unlink(missing_ok=True)
    found: dict[str, Any] = {}
    for index, budget in enumerate(job["budgets"], 1):
        watch = Stopwatch()
        result = search.run(
            space, evaluator, ("min:loss", "min:average_bits"), "guided", None, storage=storage,
            options={"budgets": job["budgets"][:index]},
        )  # fmt: skip
        bitmap = result.best(average_bits=budget).bitmap
        found[str(budget)] = {"bits": bits_of(bitmap), "evaluations": len(result.points), **watch.read()}
    return found


def bits_of(bitmap: Bitmap) -> dict[str, int]:
    return {site: int(bitmap[site].weight) for site in bitmap}


if __name__ == "__main__":
    main()
