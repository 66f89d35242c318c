"""The trials of a sweep on Ray Tune: they run on reused actors, and each has its own folder.

Tune asks :class:`PlanSearcher` for points and schedules them, with its own ASHA where asked for.  Its own searchers
were rejected for the reason of :mod:`orchestrate.jobs.search.on_tune`: trials are reported to them in the order in
which these happen to end.  What a trial found is in ``trials/NNN/trial.json``; on a rerun such a trial reports its
recorded scores again for ASHA's rungs, and trains no step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrate.cluster.evaluation_pool import threads_of
from orchestrate.cluster.tune import StatelessSearcher, StatelessTrial, run_here, run_trials
from orchestrate.config.loader import to_plain, validate
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.sweep.config import RangeConfig, SweepConfig
from orchestrate.jobs.sweep.plan import SweepPlan, trial_config
from orchestrate.jobs.sweep.trial import Rung, TrialRun
from orchestrate.jobs.train.best_checkpoint import Watched
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import TRIAL, TRIALS
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.errors import BadInputError
from qalof.files import read_json, write_json

_WORST = -1e30
"""What Tune's scheduler gets for a trial without a score, since it compares numbers."""


def sweep(config: SweepConfig, seen: Watched, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Run every trial, and return the table of them, the best first."""
    plan = SweepPlan(config)
    total = config.samples or len(plan.points)
    with progress_bar("sweep", total) as progress:
        searcher = PlanSearcher(plan, directory.path / TRIALS, lambda: progress.update(len(searcher.reports)))
        if plan.waiting():
            workers = config.workers
            given = {"threads": threads_of(workers), "device": workers.device, "report_every": config.report_every}
            if workers.in_process:
                run_here(OneTrial, searcher, given, _scheduler(config))
            else:
                run_trials(SweepTrial, searcher, given, workers, directory.path, _scheduler(config))
    rows = [_row(number, plan, searcher.reports[number], seen) for number in range(len(plan.points))]
    # finished ones come first: another's score is of fewer steps, or of weights that no longer exist
    rows.sort(key=lambda row: (row["state"] != "finished", row["value"] is None, -_signed(seen, row), row["trial"]))
    for row in rows:
        metrics = {f"best.{seen.objective.name}": row["value"]} if row["value"] is not None else {}
        run.child(f"trial {row['trial']}", row["params"], metrics, {"state": row["state"], "command": "sweep"})
    best = rows[0] if rows[0]["state"] == "finished" and rows[0]["value"] is not None else None
    if best is not None:
        run.log_metrics({f"best.{seen.objective.name}": best["value"]})
    return {"metric": str(seen.objective), "strategy": config.strategy, "trials": rows, "best": best}


class PlanSearcher(StatelessSearcher[int]):
    """Tune's view of a plan.

    ``reports`` holds the last report of each trial by number.
    """

    def __init__(self, plan: SweepPlan, folder: Path, on_end: Callable[[], None]) -> None:
        super().__init__()
        self.plan, self.folder, self._on_end = plan, folder, on_end
        self.reports: dict[int, Rung] = {}

    def waiting(self) -> Sequence[int]:
        """Return the numbers of the trials of this generation that have not ended."""
        return self.plan.waiting()

    def config_of(self, item: int) -> dict[str, Any]:
        """Return a trial's folder and config, and the step at which an earlier run ended it."""
        config = trial_config(self.plan.config, self.plan.points[item])
        folder = self._folder(item)
        earlier = self._earlier(folder)
        # as text, because Tune flattens what it is given
        ended = None if earlier is None else earlier.step
        return {"trial": json.dumps({"folder": str(folder), "config": to_plain(config), "ended": ended})}

    def ended(self, item: int, result: dict[str, Any]) -> None:
        """Write down what a trial found, unless an earlier run did, and report it to the plan."""
        folder = self._folder(item)
        last = self._earlier(folder)
        if last is None:
            last = Rung.from_json(json.loads(result["report"]))
            last = replace(last, state="stopped") if last.state == "running" else last
            write_json(folder / TRIAL, {"trial": item, "params": self.plan.points[item], "last": asdict(last)})
        self.plan.tell(item, last.score)
        self.reports[item] = last
        self._on_end()

    def _folder(self, item: int) -> Path:
        return self.folder / f"{item:03d}"

    def _earlier(self, folder: Path) -> Rung | None:
        """Read the last report of a trial that an earlier run ended."""
        path = folder / TRIAL
        if not path.is_file():
            return None
        data = read_json(path, "trial file")
        try:
            return Rung.from_json(data["last"])
        except (KeyError, TypeError):
            raise BadInputError(f"trial file {path} is damaged; delete {folder} to run that trial again") from None


class OneTrial:
    """Open a trial that the searcher gave out: it begins, or goes on where it was cut off."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        torch.set_num_threads(config["threads"])
        wanted = json.loads(config["trial"])
        trained = validate(TrainConfig, wanted["config"], "the trial's config")
        every = config["report_every"] or trained.training.checkpoint_every
        self._ended: int | None = wanted["ended"]
        self._trial = TrialRun(Path(wanted["folder"]), trained, every, config["device"])

    def step(self) -> dict[str, Any]:
        """Train to the next score."""
        said = self._trial.advance()
        score = _WORST if said.score is None else said.score
        done = said.state != "running" or said.step == self._ended
        return {"report": json.dumps(asdict(said)), "score": score, "step": said.step, "done": done}


class SweepTrial(StatelessTrial):
    """One trial after another, in one actor."""

    unscored: ClassVar[Mapping[str, Any]] = {"score": _WORST, "step": 0}

    def begin(self) -> None:
        """Begin a trial."""
        self._one = OneTrial(self.config)

    def next(self) -> None:
        """Begin the next trial."""
        self.begin()

    def advance(self) -> dict[str, Any]:
        """Do what :meth:`OneTrial.step` says."""
        return self._one.step()


class Asha(ASHAScheduler):
    """Tune's ASHA, to which a trial that is begun again after a loss is the same one, since its folder is.

    Tune's own goes by the trial's id, so the scores that such a trial reports again would count twice.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take note of a trial."""
        super().on_trial_add(tune_controller, _by_folder(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Say whether a trial goes on."""
        said: str = super().on_trial_result(tune_controller, _by_folder(trial), result)
        return said

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take a trial's last score."""
        super().on_trial_complete(tune_controller, _by_folder(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial, but not its scores."""
        super().on_trial_remove(tune_controller, _by_folder(trial))


def _by_folder(trial: Any) -> Any:
    """Return what ASHA looks at of a trial."""
    return SimpleNamespace(trial_id=json.loads(trial.config["trial"])["folder"])


def _scheduler(config: SweepConfig) -> TrialScheduler:
    if config.scheduler == "none":
        return FIFOScheduler()
    longest = config.space.get("training.steps", [trial_config(config, {}).training.steps])
    most = int(longest.high if isinstance(longest, RangeConfig) else max(longest))
    grace = min(config.asha.grace_steps, most)
    return Asha("step", "score", "max", max_t=most, grace_period=grace, reduction_factor=config.asha.reduction_factor)


def _row(number: int, plan: SweepPlan, last: Rung, seen: Watched) -> dict[str, Any]:
    value = None if last.score is None else seen.signed(last.score)
    found = {"state": last.state, "step": last.step, "value": value, "by_bitmap": dict(last.by_bitmap)}
    return {"trial": number, "params": plan.points[number], **found, "folder": f"{TRIALS}/{number:03d}"}


def _signed(seen: Watched, row: Mapping[str, Any]) -> float:
    return 0.0 if row["value"] is None else seen.signed(row["value"])
