"""Sensitivities of the pretrained model, and searches before and after training."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch

import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.files import read_json, read_whole_lines, write_json
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from search.scores.data import WINDOW
from study.data import SEED, text_task
from study.methods import FIVE, MIXED, form
from study.place import FULL, Place
from study.scoring import Score, kept_scores, perplexity_of, pretrained, scores_of, trained

PIECE = 50
"""Questions whose scores are kept together."""
PARTS = ("losses", "answers")
CPU_QUESTIONS = 48
"""A search on a CPU chooses on no more questions than these, or it would take most of an hour."""
RECORD = "search.jsonl"
SIZES = "sizes.json"
LOW = (4, 3)
MENU = tuple(bits for bits in FIVE if bits < 16)
BUDGETS = (4.5, 5.0)


class _Evaluator(search.LocalEvaluator):
    """Evaluates under the study's precision, until the time is over."""

    def __init__(self, place: Place, model: SwitchableModel, task: Task, questions: int) -> None:
        super().__init__(model, task, questions)
        self.place = place

    def _evaluate(self, bitmap: Bitmap, limit: int | None) -> Evaluation:
        self.place.clock.check()
        with self.place.products():
            return super()._evaluate(bitmap, limit)

    def measure(self, measurement: Any) -> Any:
        self.place.clock.check()
        with self.place.products():
            return super().measure(measurement)


def sensitivity(place: Place, stage: str) -> dict[str, Any]:
    """KL divergence from full precision when one site's weight alone is rounded, a table per window of text.

    The windows are taken one by one, so that what a short run measured is seen before all of them are done.

    Raises:
        OutOfTimeError: what is measured is kept.
    """
    model = pretrained(place)
    sizes = {site.name: site.weights for site in model.sites}
    write_json(place.folder(stage) / SIZES, sizes)
    features = text_task(place.data, place.source, place.scale).train_features()
    drawn = random.Random(SEED).sample(range(len(features)), place.scale.sensitivity_windows)
    for number, index in enumerate(drawn):
        window = [features[index]["input_ids"][:WINDOW]]
        with place.products():
            search.compute_scores(
                model, window, "kl", {"weight": tuple(map(str, LOW))},
                path=place.folder(stage) / f"{number}.json", progress=partial(_told, place, stage, number),
            )  # fmt: skip
    return measured(place, stage)


def measured(place: Place, stage: str) -> dict[str, Any]:
    """The tables (site -> width -> nats) of the windows that are measured so far, and how many weights a site has."""
    folder = place.path(stage)
    files = [folder / f"{number}.json" for number in range(place.scale.sensitivity_windows)]
    tables = [search.ScoreTable.load(file) for file in files if file.exists()]
    windows = [table.values["weight"] for table in tables]
    tokens = sum(table.details["tokens"] for table in tables)
    return {
        "windows": windows,
        "tokens": tokens,
        "weights": read_json(folder / SIZES, "sizes of sites") if windows else {},
    }


def fisher_of(place: Place, stage: str) -> dict[str, Any]:
    """The table that a search began with, in the form of :func:`measured`: the damages of its sites, by Fisher."""
    file = place.path(stage) / RECORD
    rows = [json.loads(line) for line in read_whole_lines(file)] if file.exists() else []
    tables = [row["taken"]["values"]["weight"] for row in rows if row.get("taken", {}).get("score") == "fisher"]
    sizes = place.path("sensitivity") / SIZES
    both = tables[:1] if sizes.exists() else []
    tokens = sum(row["taken"]["details"]["tokens"] for row in rows[:1]) if both else 0
    return {"windows": both, "tokens": tokens, "weights": read_json(sizes, "sizes of sites") if both else {}}


def _told(place: Place, stage: str, number: int, done: int, of: int) -> None:
    if done % 30 == 0:
        print(f"{stage}, window {number}: {done} of {of}", file=sys.stderr, flush=True)
    place.clock.check()


def head(place: Place, stage: str) -> dict[str, Any]:
    """Perplexity with the head's weight alone rounded, and with every site's but the head's."""
    model = pretrained(place, head_mode="tied_view")
    specs: dict[str, Any] = {"none": FULL}
    for bits in (*LOW, 8):
        only = {name: FULL if "head" not in name else f"w{bits}a32kv32" for name in model.site_names}
        rest = {name: f"w{bits}a32kv32" if "head" not in name else FULL for name in model.site_names}
        specs |= {f"head at {bits}": only, f"all but the head at {bits}": rest}
    return kept_scores(place, stage, model, specs, {"text": perplexity_of(place, model)})


def searched(place: Place, stage: str, of: str | None) -> dict[str, Any]:
    """The best bitmaps per budget by the loss of the answers on questions to choose on.

    Args:
        place: where and of what.
        stage: this stage's name.
        of: the training in whose adapters is searched; None for the pretrained model.
    """
    model = pretrained(place) if of is None else trained(place, of)
    questions = place.scale.choose_questions
    if place.device.type == "cpu":
        questions = min(questions, CPU_QUESTIONS)
    space = search.BitmapSpace.of(model, weight=MENU, activation=(8,), kv=(8,))
    result = search.run(
        space, _Evaluator(place, model, place.choose(), questions), ("min:loss", "min:average_bits"), "guided", None,
        storage=place.folder(stage) / RECORD, options={"budgets": list(BUDGETS)},
        on_score=lambda score: print(
            f"{stage} {score.cost.average_bits:.3f} bits {score.evaluation['loss']:.4f}", file=sys.stderr, flush=True
        ),
    )  # fmt: skip
    best = {str(budget): result.best(average_bits=budget) for budget in BUDGETS}
    return {
        "evaluations": len(result.points), "questions": questions,
        "best": {
            budget: {"bitmap": point.bitmap.to_json(), "average_bits": point.cost.average_bits}
            for budget, point in best.items()
        },
    }  # fmt: skip


@torch.no_grad()
def compared(place: Place, stage: str, of: str) -> dict[str, Any]:
    """The bitmaps that were found before and after training, by hand and uniform, in one trained model.

    The losses of some questions at all bitmaps come before those of further questions, and written answers at last:
    each is kept by itself, so a short run has compared all bitmaps on some questions.
    """
    model, losses, task = trained(place, of), place.losses(), place.judge()
    found: dict[str, Any] = {}
    for budget in map(str, BUDGETS):
        for when in ("after", "before"):
            found[f"{when}, {budget} bits"] = place.done[f"search_{when}"]["best"][budget]["bitmap"]
    found |= {"after, knapsack of 5.0 bits": _knapsack(place, "search_after", BUDGETS.index(5.0)), "uniform 5": form(5)}
    found = _different(found, model)
    others = {f"uniform {bits}": form(bits) for bits in (4, 6)} | {name: MIXED[name] for name in ("striped", "hybrid")}
    for part, evaluate in zip(PARTS, (losses.evaluate, task.evaluate), strict=True):
        tasks: dict[str, Score] = {
            name: partial(evaluate, model, limit=PIECE, skip=number * PIECE)
            for number, name in enumerate(pieces(place, part))
        }
        for specs in (found, others):
            kept_scores(place, stage, model, specs, tasks)
    return scores_of(place, stage)


def _different(specs: dict[str, Any], model: SwitchableModel) -> dict[str, Any]:
    return distinct(specs, lambda spec: Bitmap.parse(spec, model.site_names))


def distinct(named: Mapping[str, Any], bitmap_of: Callable[[Any], Hashable]) -> dict[str, Any]:
    """Those whose bitmap no earlier one has: the best within a budget may need less than it, or be the bitmap that the
    search began with.
    """
    first: dict[Hashable, str] = {}
    for name, each in named.items():
        first.setdefault(bitmap_of(each), name)
    return {name: named[name] for name in first.values()}


def _knapsack(place: Place, stage: str, index: int) -> Any:
    """The bitmap that the table of scores leads to, which uses its budget up; a search begins with one per budget."""
    rows = map(json.loads, read_whole_lines(place.path(stage) / RECORD))
    return [row["bitmap"] for row in rows if "bitmap" in row][index]


def pieces(place: Place, part: str) -> list[str]:
    """The names of the tasks of ``PIECE`` questions each."""
    return [f"{part} from {at}" for at in range(0, place.scale.dev_questions, PIECE)]
