"""The stages of the study: what each needs, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qalof.digests import content_digest
from study import cost, ranking, scoring, speed, training
from study.methods import MAIN, METHODS, SEARCHED, Method, fixed
from study.place import Place

VERSION = 1
"""Raised when a stage finds something else than before from the same inputs."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its result's file.
        work: finds the result, or raises :class:`study.clock.OutOfTimeError` and goes on when it is called again.
        needs: the stages whose results or checkpoints it reads.
        alone: whether nothing else may run meanwhile, since it measures time.
    """

    name: str
    work: Callable[[Place], dict[str, Any]]
    needs: tuple[str, ...] = ()
    alone: bool = False

    @property
    def kind(self) -> str:
        """Of stages that take about as long."""
        return self.name.split("_")[0]


def stages() -> dict[str, Stage]:
    """All stages by name, the more important ones first; each stands behind those that it needs."""
    listed = [Stage("cost", cost.cost, alone=True), *_stages_of(*MAIN)]
    listed.append(Stage("score_untrained", lambda place: scoring.score_untrained(place, "score_untrained")))
    listed += map(_baseline, scoring.BASELINES)
    listed.append(Stage("again", lambda place: scoring.score_again(place, "again")))
    listed.append(Stage("sensitivity", lambda place: ranking.sensitivity(place, "sensitivity")))
    listed.append(Stage("head", lambda place: ranking.head(place, "head")))
    listed.append(Stage("speed", lambda place: speed.speed(place, "speed"), alone=True))
    listed += _search()
    listed += _stages_of(*(name for name in METHODS if name not in MAIN))
    listed += map(_zero_shot, scoring.BASELINES)
    return {stage.name: stage for stage in listed}


def key(stage: Stage, place_key: str, keys: dict[str, str]) -> str:
    """A digest of all inputs of a stage: where two are equal, so are the results."""
    return content_digest(VERSION, stage.name, place_key, [keys[name] for name in stage.needs])


def place_key(place: Place, data: str) -> str:
    """A digest of scale, model and data."""
    return content_digest(asdict(place.scale), Path(place.source).name, data)


def _stages_of(*names: str) -> list[Stage]:
    """What is done with methods."""
    listed: list[Stage] = []
    for name in names:
        method = METHODS[name]
        generated = method.data == "generated"
        if generated:
            listed.append(Stage("generated_texts", training.write_texts))
        listed += _trained(name, method, ("generated_texts",) if generated else ())
    return listed


def _trained(name: str, method: Method, needs: tuple[str, ...] = ()) -> list[Stage]:
    tuned, scored = f"train_{name}", f"score_{name}"
    return [
        Stage(tuned, lambda place: training.train(place, tuned, method), needs),
        Stage(scored, lambda place: scoring.score_trained(place, scored, tuned, method), (tuned,)),
    ]


def _search() -> list[Stage]:
    """The searches before and after training, the bitmap of each trained by itself, and all of them scored."""
    after = f"train_{SEARCHED}"
    listed = [
        Stage("search_before", lambda place: ranking.searched(place, "search_before", None)),
        Stage("search_after", lambda place: ranking.searched(place, "search_after", after), (after,)),
        Stage(
            "compare_searches",
            lambda place: ranking.compared(place, "compare_searches", after),
            ("search_before", "search_after", after),
        ),
    ]
    for when in ("before", "after"):
        listed += _bitmap_trained(when)
    return listed


def _bitmap_trained(when: str) -> list[Stage]:
    found, tuned, scored = f"search_{when}", f"train_found_{when}", f"score_found_{when}"
    budget = str(ranking.BUDGETS[0])

    def method(place: Place) -> Method:
        return Method(ranking.MENU, 1, fixed(place.done[found]["best"][budget]["bitmap"]))

    def score(place: Place) -> dict[str, Any]:
        model, task = scoring.trained(place, tuned), place.judge()
        specs = {f"{when}, {budget} bits": place.done[found]["best"][budget]["bitmap"]}
        return scoring.kept_scores(place, scored, model, specs, {"squad": lambda: task.evaluate(model)})

    return [
        Stage(tuned, lambda place: training.train(place, tuned, method(place)), (found,)),
        Stage(scored, score, (tuned, found)),
    ]


def _baseline(scheme: str) -> Stage:
    name = scoring.baseline_stage(scheme)
    return Stage(name, lambda place: scoring.score_baseline(place, name, scheme))


def _zero_shot(scheme: str) -> Stage:
    name, before = scoring.zero_shot_stage(scheme), scoring.baseline_stage(scheme)
    return Stage(name, lambda place: scoring.score_zero_shot(place, name, scheme), (before,))
