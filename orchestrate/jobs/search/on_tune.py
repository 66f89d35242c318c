"""A search on Ray Tune: trials on reused actors that each hold the model.

The strategy (Optuna's samplers among them) runs in the driver, inside a :class:`search.Study`; Tune asks it for
trials through :class:`StudySearcher`.  Tune's own ``OptunaSearch`` was rejected: it reports trials to the sampler in
the order in which they happen to end, so the same seed would give another search on every machine.  A study reports
each generation in the order of asking, whatever ended first, so a search gives the same front in this process, on any
number of actors, and after a kill.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrate.cluster.evaluation_pool import Attacking, Scorer, Scoring, attacked_fingerprint, threads_of
from orchestrate.cluster.tune import StatelessSearcher, StatelessTrial, run_trials
from orchestrate.config.sections import WorkersConfig
from qalof.attacks.robustness.adversarial_accuracy import AdversarialAccuracySettings, with_robustness
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.evaluation.result import Evaluation
from qalof.home import expanded
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.tasks.base import on_request
from search import BitmapSpace, Objective, Score, SearchResult, Study
from search.evaluator import requests_of, strategy_of
from search.failure import LOST, MOST_IN_A_ROW, attempted
from search.loop import objectives_of
from search.measurement import Measurement, Taken
from search.metric_limit import parted
from search.record import record_at
from search.scores.data import why_unscored
from search.strategies import too_few, unguided

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointEvaluator:
    """What Tune's trials evaluate."""

    checkpoint: str | Path | OpenCheckpoint
    """The folder of a checkpoint, which every node must see.  It is kept as an absolute :class:`~pathlib.Path`.  A
    checkpoint that is open already is not opened again."""
    limit: int | None = None
    """How many validation examples count, from the first on; None stands for all."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """How many actors evaluate, on which device, and with how many threads."""
    robustness: AdversarialAccuracySettings | None = None
    """The attack behind ``adversarial_accuracy``, where that is an objective or limited; None for its defaults."""

    def __post_init__(self) -> None:
        given = self.checkpoint
        folder = expanded(given.folder if isinstance(given, OpenCheckpoint) else given).absolute()
        object.__setattr__(self, "checkpoint", folder)
        object.__setattr__(self, "_opened", given if isinstance(given, OpenCheckpoint) else OpenCheckpoint(folder))

    @property
    def opened(self) -> OpenCheckpoint:
        """The checkpoint, whose parts are read when they are first asked for."""
        found: OpenCheckpoint = self.__dict__["_opened"]
        return found

    @property
    def primary_metric(self) -> str:
        """The metric of the task that the checkpoint was trained for."""
        return self.opened.task.primary_metric

    def why_unmeasured(self) -> str:
        """Return why no actor can measure scores, in a few words; an empty text where they can."""
        return why_unscored(self.opened.task)


def search(
    space: BitmapSpace,
    evaluator: CheckpointEvaluator,
    objectives: Sequence[str | Objective] | None = None,
    strategy: str | None = None,
    max_evaluations: int | None = 50,
    limits: Mapping[str, float] | None = None,
    storage: str | Path = "search.jsonl",
    seed: int = 0,
    on_score: Callable[[Score], None] | None = None,
    options: Mapping[str, Any] | None = None,
    max_failures_in_a_row: int | None = MOST_IN_A_ROW,
) -> SearchResult:
    """Search on Ray Tune, with the same arguments and the same result as :func:`search.run`; Ray is connected already.

    Raises:
        BadInputError: something cannot be used as given, such as a record in use; no trial has started then.
        Exception: what an evaluation raised and would meet every bitmap alike, as it was raised.
        TooManyFailures: so many bitmaps in a row failed; a single one is a failed trial (:mod:`search.failure`), and so
            is one that lost more actors than ``workers.max_failures``.
        QalofError: one measurement lost more actors than that; what was evaluated is in ``storage``, and the same call
            goes on from there.
    """
    costs, metric_limits = parted(limits)
    space = space.within(costs)
    # a record in use is refused before the checkpoint is opened, which the other questions need
    with record_at(storage) as record:
        assert record is not None
        objectives = objectives_of(evaluator, objectives)
        metrics = requests_of(objectives, metric_limits)
        strategy, why = strategy_of(evaluator, strategy)
        for said in (why, too_few(strategy, max_evaluations, len(space.units)), unguided(strategy, objectives)):
            if said:
                _log.warning("%s", said)
        on_request(evaluator.opened.task, metrics)
        fingerprint = attacked_fingerprint(evaluator.opened.fingerprint, metrics, evaluator.robustness)
        study = Study(
            space,
            objectives,
            strategy,
            max_evaluations=max_evaluations,
            seed=seed,
            known=record.load(fingerprint, evaluator.limit, [site.name for site in space.sites], metrics),
            taken=record.measurements(fingerprint),
            options=options,
            on_score=on_score,
            max_failures_in_a_row=max_failures_in_a_row,
            metric_limits=metric_limits,
        )

        def keep(item: Bitmap | Measurement, found: Evaluation | Taken) -> None:
            if isinstance(found, Evaluation):
                assert isinstance(item, Bitmap)
                record.add(fingerprint, evaluator.limit, item, found)
            else:
                assert isinstance(item, Measurement)
                record.add_measurement(fingerprint, item.key, found)

        if study.ask() or study.measurement:
            workers = evaluator.workers
            given = {
                "checkpoint": str(evaluator.checkpoint),
                "limit": evaluator.limit,
                "metrics": list(metrics),
                "threads": threads_of(workers),
                "device": workers.device,
                "robustness": evaluator.robustness,
            }
            run_trials(BitmapTrial, StudySearcher(study, keep), given, workers, record.path.absolute().parent)
        return study.result()


class StudySearcher(StatelessSearcher[Bitmap | Measurement]):
    """Tune's view of a study, which gives out bitmaps and measurements as trials and takes their results back."""

    def __init__(self, study: Study, keep: Callable[[Bitmap | Measurement, Evaluation | Taken], None]) -> None:
        super().__init__()
        self.study, self._keep = study, keep

    def waiting(self) -> Sequence[Bitmap | Measurement]:
        """Return the generation's bitmaps that have no score yet, or the measurement that the strategy waits for."""
        bitmaps = self.study.ask()
        if bitmaps or self.study.measurement is None:
            return bitmaps
        return [self.study.measurement]

    def config_of(self, item: Bitmap | Measurement) -> dict[str, Any]:
        """Return a measurement as it is, and a bitmap as JSON."""
        return {"measurement": item} if isinstance(item, Measurement) else {"bitmap": item.to_json()}

    def ended(self, item: Bitmap | Measurement, result: dict[str, Any]) -> None:
        """Record what a trial found, and report it to the study."""
        found = json.loads(result["found"])
        if isinstance(item, Measurement):
            self._keep(item, found)
            self.study.put(item, found)
        else:
            self._scored(item, Evaluation.from_json(found))

    def lost(self, item: Bitmap | Measurement) -> None:
        """Score a bitmap that lost too many actors as failed, and go on; a lost measurement ends the search."""
        if isinstance(item, Measurement):
            super().lost(item)
        else:
            self._scored(item, Evaluation.failed(f"{LOST} more often than workers.max_failures allows"))

    def _scored(self, bitmap: Bitmap, evaluation: Evaluation) -> None:
        self._keep(bitmap, evaluation)
        self.study.tell(bitmap, evaluation)


class BitmapTrial(StatelessTrial):
    """One evaluation or measurement; its actor and model serve one trial after another."""

    def begin(self) -> None:
        """Load the model once per actor."""
        given = [self.config[name] for name in ("checkpoint", "threads", "device", "robustness")]
        self._scorer = Scorer(*given)

    def advance(self) -> dict[str, Any]:
        """Evaluate, or measure."""
        found: Any
        if "measurement" in self.config:
            found = self._scorer.measure(self.config["measurement"])
        else:
            evaluation = attempted(self._evaluated)
            found = {**evaluation.to_json(), "span": evaluation.span}
        # as text, because Tune flattens whatever a searcher gets, examples and all
        return {"found": json.dumps(found), "done": True}

    def _evaluated(self) -> Evaluation:
        bitmap, limit = Bitmap.from_json(self.config["bitmap"]), self.config["limit"]
        scored = self._scorer.score(Scoring(bitmap, limit, tuple(self.config["metrics"])))
        if ADVERSARIAL_ACCURACY not in self.config["metrics"]:
            return scored
        return with_robustness(scored, self._scorer.attack(Attacking(bitmap, limit)))
