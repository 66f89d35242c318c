"""Scores under random precision inference: what they are made of, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.build import parse_bitmaps
from orchestrate.document import formats
from orchestrate.document import terminal as shown
from orchestrate.document.blocks import Cell, Table
from orchestrate.document.sheet import Sheet
from orchestrate.jobs.evaluate.config import DrawnPrecisionConfig, EvaluateConfig
from orchestrate.jobs.shared.findings import Scored
from orchestrate.runs.progress import progress_bar
from qalof.attacks.robustness.random_precision import BATCH_SIZE, DrawGranularity, RandomPrecision
from qalof.attacks.robustness.random_precision_scores import drawn, scores_of
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import json_ready
from qalof.model.pretrained import HeadKind
from qalof.site import Site
from qalof.statistics import Interval
from search.measurement import Measurement, Taken


@dataclass(frozen=True)
class ScoredUnderDraws(Scored):
    """Scores at bitmaps, and under random precision where it was asked for."""

    random_precision: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DrawScored(Measurement):
    """One draw of random precision, scored on the validation examples; the result is ``Evaluation.to_json``."""

    defense: RandomPrecision
    """What is drawn."""
    draw: int
    """The number of the draw."""
    limit: int | None
    """How many examples count; None takes all."""

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON."""
        return {"defense": self.defense.to_json(), "draw": self.draw, "limit": self.limit}

    def take(self, model: Any, task: Any) -> Taken:
        """Score the draw; the model returns to its bitmap."""
        return drawn(model, task, self.defense, self.draw, self.limit).to_json()


def defense_of(config: DrawnPrecisionConfig, opened: OpenCheckpoint) -> RandomPrecision:
    """Return the defense that a config means.

    Raises:
        BadInputError: a bitmap does not fit the model, the model is packed, or tokens of one that is no causal language
            model are to draw.
    """
    if opened.is_packed:
        raise BadInputError("a packed model runs at its own bitmap alone: score random precision with its checkpoint")
    model = opened.model
    if config.granularity == DrawGranularity.TOKEN and model.base.head is HeadKind.SPAN:
        raise BadInputError(
            f"granularity token reads a text from left to right: got a {model.base.head} head; take request or layer"
        )
    choices = parse_bitmaps(config.bitmaps, model.sites)
    stay = None if config.baseline is None else parse_bitmaps([config.baseline], model.sites)[0]
    for bitmap in [*choices, *([stay] if stay else [])]:
        with model.at(bitmap):  # what cannot run is refused before any worker starts
            pass
    return RandomPrecision.of(
        model.site_names, choices, granularity=config.granularity, seed=config.seed, probability=config.probability,
        baseline=None if config.probability == 1 else stay,
        batch_size=BATCH_SIZE if config.batch_size is None else config.batch_size,
    )  # fmt: skip


def scores_under(
    config: EvaluateConfig, opened: OpenCheckpoint, sites: Sequence[Site], defense: RandomPrecision,
    known: Mapping[Bitmap, Evaluation],
) -> dict[str, Any]:  # fmt: skip
    """Score random precision on the pool; bitmaps that are ``known`` are not scored again."""
    assert config.random_precision is not None
    draws = config.random_precision.draws
    left = [] if (weights := defense.weights()) is None else [bitmap for bitmap in weights if bitmap not in known]
    pool = EvaluationPool(opened, sites, config.limit, config.workers)
    with closing(pool), progress_bar("random precision", len(left) if weights else draws) as progress:

        def at(bitmaps: Sequence[Bitmap]) -> list[Evaluation]:
            todo = [bitmap for bitmap in bitmaps if bitmap not in known]
            made = pool.evaluate(todo, on_result=lambda i, _: progress.advance(short_name(todo[i]))) if todo else []
            scored = {**known, **dict(zip(todo, made, strict=True))}
            return [scored[bitmap] for bitmap in bitmaps]

        def under(numbers: Sequence[int]) -> list[Evaluation]:
            wanted = [DrawScored(defense, number, config.limit) for number in numbers]
            taken = pool.measure_all(wanted, lambda i, _: progress.advance(f"draw {numbers[i] + 1}"))
            return [Evaluation.from_json(each) for each in taken]

        found = scores_of(defense, draws, at, under)
    ready: dict[str, Any] = json_ready(found.to_json())
    return ready


def drawn_in(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the scores under random precision of a result; None where it has none.

    Raises:
        BadInputError: They were written by an older version.
    """
    found: Mapping[str, Any] | None = result.get("random_precision")
    if found is not None and "defense" not in found:
        raise BadInputError("random_precision must have a key defense: an older version wrote this; score again")
    return found


def drawn_from(found: Mapping[str, Any]) -> str:
    """Say in words what was drawn."""
    defense = found["defense"]
    widths = formats.listed([formats.bitmap_name(str(width)) for width in defense["widths"]])
    grain, size = defense["granularity"], defense["batch_size"]
    each = f"batch of {size} requests" if grain == "batch" else grain
    text = f"{widths}, drawn anew for each {each}, {formats.count_of(found['draws'], 'draw')} per example"
    stays = f"; {defense['baseline']} but for a share of {defense['probability']:g}"
    return text if defense["baseline"] is None else text + stays


def drawn_sheet(found: Mapping[str, Any]) -> Sheet:
    """Show the scores under random precision in the terminal."""
    lines = [
        [shown.heading(name), shown.interval(name, Interval.from_json(values)), *_spread(found, name)]
        for name, values in found["metrics"].items()
    ]
    headings = ["random precision", "mean over draws", "lowest draw", "highest draw"]
    return Sheet(headings, lines, caption=[drawn_from(found)])


def drawn_table(found: Mapping[str, Any]) -> Table:
    """Show the scores under random precision in a report."""
    rows = [
        [
            Cell(formats.heading(name)),
            Cell(formats.level_with_interval(Interval.from_json(values), name)),
            *map(Cell, _spread(found, name)),
        ]
        for name, values in found["metrics"].items()
    ]
    return Table(
        f"Random precision: {drawn_from(found)}",
        ["Metric", "Mean over draws", "Lowest draw", "Highest draw"],
        rows,
        "In brackets: 95 % bootstraps over examples, each with its mean over draws, since draws of one example are not "
        "independent.",
    )


def _spread(found: Mapping[str, Any], name: str) -> list[str]:
    return [formats.level(value, name) for value in found["spread"][name]]
