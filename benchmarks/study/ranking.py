"""Sensitivities of the pretrained model, and searches before and after training."""

from __future__ import annotations

import sys
from typing import Any

import torch

import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from study.data import text_task
from study.methods import FIVE, MIXED, form
from study.place import FULL, Place
from study.scoring import kept_scores, pretrained, trained

LOW = (4, 3)
MENU = tuple(bits for bits in FIVE if bits < 16)
BUDGETS = (4.5, 5.0)


class _Evaluator(search.LocalEvaluator):
    """Evaluates under the study's precision, until the time is over."""

    def __init__(self, place: Place, model: SwitchableModel, task: Task) -> None:
        super().__init__(model, task)
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
    """KL divergence from full precision when one site's weight alone is rounded; beside it the head's."""
    model = pretrained(place)
    text = text_task(place.data, place.source, place.scale)
    with place.products():
        table = search.compute_scores(
            model, text, "kl", {"weight": tuple(map(str, LOW))}, examples=place.scale.sensitivity_windows,
            path=place.folder(stage) / "kl.json", progress=lambda done, of: place.clock.check(),
        )  # fmt: skip
    return {"unit": table.unit, "weight": table.values["weight"], **table.details}


def head(place: Place, stage: str) -> dict[str, Any]:
    """Perplexity with the head's weight alone rounded, and with every site's but the head's."""
    model = pretrained(place, head_mode="tied_view")
    text = text_task(place.data, place.source, place.scale)
    specs: dict[str, Any] = {"none": FULL}
    for bits in (8, *LOW):
        only = {name: FULL if "head" not in name else f"w{bits}a32kv32" for name in model.site_names}
        rest = {name: f"w{bits}a32kv32" if "head" not in name else FULL for name in model.site_names}
        specs |= {f"head at {bits}": only, f"all but the head at {bits}": rest}
    return kept_scores(
        place, stage, model, specs, lambda: {"text": text.evaluate(model, limit=place.scale.text_windows)}
    )


def searched(place: Place, stage: str, of: str | None) -> dict[str, Any]:
    """The best bitmaps per budget by the loss of the answers on questions to choose on.

    Args:
        place: where and of what.
        stage: this stage's name.
        of: the training in whose adapters is searched; None for the pretrained model.
    """
    model = pretrained(place) if of is None else trained(place, of)
    space = search.BitmapSpace.of(model, weight=MENU, activation=(8,), kv=(8,))
    result = search.run(
        space, _Evaluator(place, model, place.choose()), ("min:loss", "min:average_bits"), "guided", None,
        storage=place.folder(stage) / "search.jsonl", options={"budgets": list(BUDGETS)},
        on_score=lambda score: print(
            f"{stage} {score.cost.average_bits:.3f} bits {score.evaluation['loss']:.4f}", file=sys.stderr, flush=True
        ),
    )  # fmt: skip
    best = {str(budget): result.best(average_bits=budget) for budget in BUDGETS}
    return {
        "evaluations": len(result.points),
        "best": {
            budget: {"bitmap": point.bitmap.to_json(), "average_bits": point.cost.average_bits}
            for budget, point in best.items()
        },
    }  # fmt: skip


@torch.no_grad()
def compared(place: Place, stage: str, of: str) -> dict[str, Any]:
    """The bitmaps that were found before and after training, by hand and uniform, in one trained model."""
    model, task = trained(place, of), place.judge()
    specs: dict[str, Any] = {}
    for when in ("before", "after"):
        for budget, best in place.done[f"search_{when}"]["best"].items():
            specs[f"{when}, {budget} bits"] = best["bitmap"]
    specs |= {f"uniform {bits}": form(bits) for bits in (4, 5, 6)}
    specs |= {name: MIXED[name] for name in ("striped", "hybrid")}
    return kept_scores(place, stage, model, specs, lambda: {"squad": task.evaluate(model)})
