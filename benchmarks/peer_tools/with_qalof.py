"""Recipes by QaLoF's own search, in a process of its own, as the other tools': ``python with_qalof.py JOB``.

``knapsack`` is one table of Fisher scores on the windows that all tools get, and a knapsack per budget.  ``guided`` is
the strategy as a user runs it: it draws its own windows from the same part of the text, and chooses between few bitmaps
on a part that no other tool reads.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from exchange import THREADS, WINDOW, Stopwatch, read_job, write_answer

import qalof
import search
from qalof.bitmap import Bitmap
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from search.scores.compute import compute

CHOOSE = 4
"""Windows that ``guided`` chooses on."""


def main() -> None:
    job = read_job(sys.argv[1])
    torch.set_num_threads(THREADS)
    model = switchable(job["model"])
    space = search.BitmapSpace.of(model, weight=job["menu"], activation=(32,), kv=None)
    recipes = (knapsack if job["way"] == "knapsack" else guided)(job, model, space)
    write_answer(job["answer"], {"version": version("qalof"), "torch": torch.__version__, "recipes": recipes})


def switchable(folder: str) -> Any:
    base = BaseModel(folder, HeadKind.CAUSAL_LM)
    return build(base, {}, SwitchSettings(), pretrained=load_pretrained(folder, HeadKind.CAUSAL_LM)).eval()


def task_of(folder: str, parts: Path, part: str) -> Any:
    """The task whose training text is the part to calibrate on, and whose validation text is ``part``."""
    return qalof.task(
        "language-modeling", source=folder, data=str(parts / "calibrate.txt"),
        validation_data=str(parts / f"{part}.txt"), max_length=WINDOW, stride=WINDOW, eval_batch_size=2,
    )  # fmt: skip


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
    evaluator = search.LocalEvaluator(model, task_of(job["model"], Path(job["parts"]), "choose"), CHOOSE)
    storage = Path(job["answer"]).with_suffix(".jsonl")
    storage.unlink(missing_ok=True)
    found: dict[str, Any] = {}
    for index, budget in enumerate(job["budgets"], 1):
        watch = Stopwatch()
        result = search.run(
            space, evaluator, ("min:loss", "min:average_bits"), "guided", None, storage=storage,
            options={"budgets": job["budgets"][:index], "rounds": 0},
        )  # fmt: skip
        bitmap = result.best(average_bits=budget).bitmap
        found[str(budget)] = {"bits": bits_of(bitmap), "evaluations": len(result.points), **watch.read()}
    return found


def bits_of(bitmap: Bitmap) -> dict[str, int]:
    return {site: int(bitmap[site].weight) for site in bitmap}


if __name__ == "__main__":
    main()
