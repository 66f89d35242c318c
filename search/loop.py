"""A search in this process: the loop that joins a study, an evaluator and a record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.evaluator import Evaluator, measuring, requests_of, strategy_of
from search.failure import MOST_IN_A_ROW, attempted, ends_search
from search.measurement import Measurement, Taken
from search.metric_limit import parted
from search.objective import Objective
from search.record import record_at
from search.result import SearchResult
from search.space import BitmapSpace
from search.strategies import too_few, unguided
from search.study import OnScore, Study

_log = logging.getLogger(__name__)

OBJECTIVES = ("f1", "weight_bytes")
"""The metric of a search that names none, where its evaluator has no ``primary_metric``."""


def objectives_of(evaluator: object, given: Sequence[str | Objective] | None) -> Sequence[str | Objective]:
    """Return the objectives that are ``given``, otherwise the evaluator's ``primary_metric``, if any, and weight
    bytes.
    """
    if given is not None:
        return given
    primary: str = getattr(evaluator, "primary_metric", OBJECTIVES[0])
    return primary, OBJECTIVES[1]


def run(
    space: BitmapSpace,
    evaluator: Evaluator,
    objectives: Sequence[str | Objective] | None = None,
    strategy: str | None = None,
    max_evaluations: int | None = 50,
    limits: Mapping[str, float] | None = None,
    storage: str | Path | None = None,
    seed: int = 0,
    on_score: OnScore | None = None,
    options: Mapping[str, Any] | None = None,
    max_failures_in_a_row: int | None = MOST_IN_A_ROW,
) -> SearchResult:
    """Search a space of bitmaps.

    Args:
        space: the space of bitmaps.
        evaluator: an evaluator that measures bitmaps of the same model.
        objectives: names of metrics and costs, each pushed in its own direction (:mod:`search.objective`); None for the
            evaluator's ``primary_metric`` (``f1`` where it has none) and ``weight_bytes``.
        strategy: ``guided``, ``tpe``, ``nsga2``, ``random``, ``evolutionary``, ``one_at_a_time`` or
            ``greedy``.  None takes ``guided`` where the evaluator can measure scores, and otherwise ``tpe``, which a
            warning says (:func:`search.evaluator.strategy_of`).
        max_evaluations: the search ends after so many different bitmaps; None lets the strategy decide.
        limits: cost name -> greatest allowed value, on top of the space's own; no evaluated bitmap exceeds them.  Or
            metric name -> the least value of a metric that is better when higher, otherwise the greatest; no bitmap of
            the front breaks them (:mod:`search.metric_limit`).
        storage: the file of the record; an interrupted search resumes from it when it is run again.  Only one search
            may use it at a time.
        seed: the seed; equal seeds and evaluations give equal searches.
        on_score: a function that is called for each scored bitmap, those from the record included.
        options: options of the strategy, such as ``{"generation_size": 16}``.
        max_failures_in_a_row: after so many bitmaps in a row that cannot be evaluated the search stops with an error; a
            single one is a failed trial (:mod:`search.failure`).

    Raises:
        BadInputError: An argument cannot be used as given, a budget is out of reach, or the record is in use.
        TooManyFailures: So many bitmaps in a row failed.
    """
    costs, metric_limits = parted(limits)
    space = space.within(costs)
    _check_sites(space, evaluator)
    objectives = objectives_of(evaluator, objectives)
    evaluator = measuring(evaluator, objectives, metric_limits)
    strategy, why = strategy_of(evaluator, strategy)
    for said in (why, too_few(strategy, max_evaluations, len(space.units)), unguided(strategy, objectives)):
        if said:
            _log.warning("%s", said)
    with record_at(storage) as record:
        # a digest of all weights takes seconds on a large model, and only the record needs it
        fingerprint = "" if record is None else evaluator.fingerprint()
        names, asked = [site.name for site in space.sites], requests_of(objectives, metric_limits)
        study = Study(
            space,
            objectives,
            strategy,
            max_evaluations=max_evaluations,
            seed=seed,
            known={} if record is None else record.load(fingerprint, evaluator.limit, names, asked),
            taken={} if record is None else record.measurements(fingerprint),
            options=options,
            on_score=on_score,
            max_failures_in_a_row=max_failures_in_a_row,
            metric_limits=metric_limits,
        )
        while waiting := study.ask() or study.measurement:
            if isinstance(waiting, Measurement):
                taken = measured(evaluator, waiting)
                if record is not None:
                    record.add_measurement(fingerprint, waiting.key, taken)
                study.put(waiting, taken)
                continue
            batch = waiting[: max(1, evaluator.at_once)]
            for bitmap, evaluation in zip(batch, _attempted(evaluator, batch), strict=True):
                if record is not None:
                    record.add(fingerprint, evaluator.limit, bitmap, evaluation)
                study.tell(bitmap, evaluation)
        return study.result()


def _attempted(evaluator: Evaluator, batch: list[Bitmap]) -> list[Evaluation]:
    """Evaluate a batch; where it raises, each bitmap is tried alone, so one that fails takes no other with it."""
    if len(batch) > 1:
        try:
            return evaluator.evaluate(batch)
        except Exception as error:
            if ends_search(error):
                raise
    return [attempted(partial(_alone, evaluator, bitmap)) for bitmap in batch]


def _alone(evaluator: Evaluator, bitmap: Bitmap) -> Evaluation:
    return evaluator.evaluate([bitmap])[0]


def measured(evaluator: object, measurement: Measurement) -> Taken:
    """Let an evaluator take a measurement.

    Raises:
        BadInputError: The evaluator cannot take any, or the measurement cannot be taken of its model and task.
    """
    take = getattr(evaluator, "measure", None)
    if take is None:
        raise BadInputError(
            f"this strategy must have an evaluator that can measure scores and gradients: {type(evaluator).__name__} "
            "has no method measure; take another strategy, such as tpe"
        )
    found: Taken = take(measurement)
    return found


def _check_sites(space: BitmapSpace, evaluator: Evaluator) -> None:
    ours, theirs = list(space.sites), list(evaluator.sites)
    if ours != theirs:
        raise BadInputError(
            "a space must be made of the evaluator's model: "
            f"it has {len(ours)} sites, the model {len(theirs)}, or they differ; make it with BitmapSpace.of(model)"
        )
