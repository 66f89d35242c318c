"""Ray Tune with nothing kept in it: what a trial found is in our own files, from which alone a rerun goes on.

Actors are kept from one trial to the next, since loading a model takes longer than a trial; what Tune leaves on the
disk is of no use afterwards, and on a rerun it would be in the way.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrate.cluster.admission import admitted, fitting, nodes_of, told_what_is_missing
from orchestrate.cluster.carried_error import error_as_text, error_of_text
from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.config.sections import WorkersConfig
from qalof.reading import first_line

FOLDER = "tune"
RAISED = "raised"
"""The key of a result that is an error, as text."""


class StatelessSearcher(Searcher):
    """A searcher that Tune need not store.

    An error in it would reach the driver as text only, so it is kept in ``error`` and ends the run; so does an error
    that a trial raised, and a trial that was lost for good (``failed``), which would otherwise be given out again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.failed = False

    @property
    def over(self) -> bool:
        """Whether nothing is to be given out any more."""
        return self.failed or self.error is not None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand a trial's last result to :meth:`ended`, unless the trial or an earlier one met an error."""
        self.failed = self.failed or error
        if result is not None and RAISED in result:
            self.error = self.error or error_of_text(result[RAISED])
        try:
            self.ended(trial_id, None if error or self.error is not None else result)
        except Exception as raised:
            self.error = raised

    def ended(self, trial_id: str, result: dict[str, Any] | None) -> None:
        """Take a trial's last result; None where it has none that counts."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles its searcher to restore a run, which our own files do."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing; :meth:`__getstate__` says why."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; :meth:`__getstate__` says why."""


class StatelessTrial(tune.Trainable):
    """A trial that Tune need not store, in an actor that takes one after another.

    Tune repeats a trial whose actor was lost as well as one that raised an error, as often as one another.  An error of
    the work would come back, so it is a result here, and only lost actors are Tune's to count
    (:mod:`orchestrate.cluster.failure_policy`).
    """

    unscored: ClassVar[Mapping[str, Any]] = {}
    """What the scheduler needs in every result, given for one that is an error."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a trial, see :meth:`begin`."""
        self._raised = self._error_of(self.begin)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, see :meth:`next`."""
        self.config = new_config
        self._raised = self._raised or self._error_of(self.next)
        return True

    def step(self) -> dict[str, Any]:
        """Return the result of :meth:`advance`, or the error that the trial raised."""
        said: dict[str, Any] = {}
        raised = self._raised or self._error_of(lambda: said.update(self.advance()))
        if raised is not None:
            return {**self.unscored, RAISED: error_as_text(raised), "done": True}
        return said

    @staticmethod
    def _error_of(work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:
            return error
        return None

    def begin(self) -> None:
        """Prepare for ``self.config``, in a new actor."""
        raise NotImplementedError

    def next(self) -> None:
        """Prepare for ``self.config``, in an actor that has ended another trial."""

    def advance(self) -> dict[str, Any]:
        """Go on to the next result, which has ``done``."""
        raise NotImplementedError

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing, since a trial has no state of Tune's."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing, since a trial has no state of Tune's."""


class Patience(tune.Callback):
    """Waits before a trial that was lost more than once begins again, see :meth:`FailurePolicy.pause`.

    Tune begins nothing and takes no result meanwhile; trials on other actors run on.
    """

    def __init__(self, policy: FailurePolicy) -> None:
        self._policy, self._lost = policy, time.monotonic()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Wait, once Tune has put the trial back into its queue."""
        if trial.num_failures < 2:
            self._lost = time.monotonic()
        time.sleep(self._policy.pause(trial.num_failures, time.monotonic() - self._lost))


def run_trials(
    trainable: type[StatelessTrial],
    searcher: StatelessSearcher,
    space: Mapping[str, Any],
    workers: WorkersConfig,
    folder: Path,
    scheduler: TrialScheduler | None = None,
) -> None:
    """Run until ``searcher`` has nothing left.

    Args:
        trainable: the class of what an actor does.
        searcher: gives trials out and takes their results.
        space: what every trial is given in addition.
        workers: how many actors there are, and how often a trial is begun again.
        folder: the folder for Tune's own files, which are removed.
        scheduler: may stop trials early; None lets all run.

    Raises:
        BadInputError: the cluster can never give these workers.
        Exception: what a trial or the searcher raised, as it was raised.
        QalofError: one trial lost more actors than ``workers.max_failures``.
    """
    request, policy = admitted(workers), FailurePolicy(workers.max_failures)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(request.each)),
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=min(request.count, max(request.least, fitting(nodes_of(), request.each))),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=policy.max_failures, fail_fast=False),
            callbacks=[Patience(policy)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with told_what_is_missing(request):
        grid = tuner.fit()
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error
    if searcher.failed:
        raise policy.exhausted("the actor of a trial", first_line(grid.errors[0]))


class Steps(Protocol):
    """A trial that goes on step by step; a step returns ``done``, and what the scheduler compares."""

    def step(self) -> dict[str, Any]:
        """Go on to the next score."""
        ...


def run_here(
    begin: Callable[[dict[str, Any]], Steps],
    searcher: StatelessSearcher,
    space: Mapping[str, Any],
    scheduler: TrialScheduler,
) -> None:
    """Do what :func:`run_trials` does in this process, without Ray: one trial runs after the other.

    The scheduler is Tune's own, so it stops here what it would stop there.  It is asked in the way of Tune's
    controller, which it does not get: the schedulers that we use look at the trial's id alone.

    Raises:
        QalofError: the searcher's error, or what a trial raises.
    """
    number = 0
    while isinstance(found := searcher.suggest(f"here_{number}"), dict):
        trial: Any = SimpleNamespace(trial_id=f"here_{number}")
        controller: Any = None
        scheduler.on_trial_add(controller, trial)
        steps = begin({**space, **found})
        said = steps.step()
        while not said["done"] and scheduler.on_trial_result(controller, trial, said) != TrialScheduler.STOP:
            said = steps.step()
        if said["done"]:
            scheduler.on_trial_complete(controller, trial, said)
        else:
            scheduler.on_trial_remove(controller, trial)
        searcher.on_trial_complete(trial.trial_id, said)
        number += 1
    if searcher.error is not None:
        raise searcher.error
