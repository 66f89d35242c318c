"""Ray Tune with nothing kept in it: what a trial found is in our own files, from which alone a rerun goes on.

Actors are kept from one trial to the next, since loading a model takes longer than a trial; what Tune leaves on the
disk is of no use afterwards, and on a rerun it would be in the way.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrate.cluster.admission import admitted, fitting, nodes_of, told_what_is_missing
from orchestrate.cluster.carried_error import error_as_text, error_of_text
from orchestrate.cluster.failure_policy import Decision, Failure, FailurePolicy
from orchestrate.config.sections import WorkersConfig
from qalof.reading import first_line

FOLDER = "tune"
RAISED = "raised"
"""The key of a result that is an error, as text."""


Item = TypeVar("Item")


class StatelessSearcher(Searcher, Generic[Item]):
    """A searcher that Tune need not store: it gives out items of work, one trial each, and takes their results.

    An item whose trial lost its actor is given out again, as a new trial, as often as ``policy`` allows, which
    :func:`run_trials` sets.  Tune could begin the trial again itself, and does not where the actor was lost between two
    trials: it then takes one loss for two, and gives the trial up.

    An error in a searcher would reach the driver as text only, so it is kept in ``error`` and ends the run; so does an
    error that a trial raised, and an item that was lost for good (``failed``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.policy = FailurePolicy()
        self.error: Exception | None = None
        self.failed = False
        self._running: dict[str, Item] = {}
        self._lost: list[Item] = []
        self._first_lost = time.monotonic()

    def waiting(self) -> Sequence[Item]:
        """Return the items that have no result yet, those that are out included; none at the end."""
        raise NotImplementedError

    def config_of(self, item: Item) -> dict[str, Any]:
        """Return what a trial is given for an item."""
        raise NotImplementedError

    def ended(self, item: Item, result: dict[str, Any]) -> None:
        """Take the last result of an item's trial."""
        raise NotImplementedError

    def lost(self, item: Item) -> None:
        """Take note that an item was lost more often than the policy allows: that ends the run."""
        self.failed = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next item's config; None while the last ones are out; FINISHED at the end."""
        if self.failed or self.error is not None:
            return str(Searcher.FINISHED)
        try:
            waiting = self.waiting()
            if not waiting:
                return str(Searcher.FINISHED)
            free = [item for item in waiting if item not in self._running.values()]
            if not free:
                return None
            config = self.config_of(free[0])
        except Exception as error:
            self.error = error
            return str(Searcher.FINISHED)
        self._running[trial_id] = free[0]
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take a trial's last result, unless an earlier one raised an error; ``error`` is a lost actor."""
        item = self._running.pop(trial_id)
        if result is not None and RAISED in result:
            self.error = self.error or error_of_text(result[RAISED])
        if self.error is not None:
            return
        try:
            if error:
                self._take_loss(item)
            elif result is not None:
                self.ended(item, result)
        except Exception as raised:
            self.error = raised

    def _take_loss(self, item: Item) -> None:
        """Count a loss, and wait where the policy says so; Tune begins nothing and takes no result meanwhile."""
        self._lost.append(item)
        failures = self._lost.count(item)
        if failures == 1:
            self._first_lost = time.monotonic()
        if self.policy.decide(Failure.LOST, failures) is Decision.GIVE_UP:
            self.lost(item)
        else:
            time.sleep(self.policy.pause(failures, time.monotonic() - self._first_lost))

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune pickles its searcher to restore a run, which our own files do."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing; :meth:`__getstate__` says why."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; :meth:`__getstate__` says why."""


class StatelessTrial(tune.Trainable):
    """A trial that Tune need not store, in an actor that takes one after another.

    To Tune a lost actor and an error that a trial raised are the same.  An error of the work would come back, so it is
    a result here, and what fails in Tune is what was lost (:mod:`orchestrate.cluster.failure_policy`).
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


def run_trials(
    trainable: type[StatelessTrial],
    searcher: StatelessSearcher[Any],
    space: Mapping[str, Any],
    workers: WorkersConfig,
    folder: Path,
    scheduler: TrialScheduler | None = None,
) -> None:
    """Run until ``searcher`` has nothing left.

    Args:
        trainable: the class of what an actor does.
        searcher: gives items out and takes their results.
        space: what every trial is given in addition.
        workers: how many actors there are, and how often a lost item is begun again.
        folder: the folder for Tune's own files, which are removed.
        scheduler: may stop trials early; None lets all run.

    Raises:
        BadInputError: the cluster can never give these workers.
        Exception: what a trial or the searcher raised, as it was raised.
        QalofError: one item lost more actors than ``workers.max_failures``.
    """
    request, searcher.policy = admitted(workers), FailurePolicy(workers.max_failures)
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
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with told_what_is_missing(request), _losses_untold():
        grid = tuner.fit()
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error
    if searcher.failed:
        raise searcher.policy.exhausted("the actor of a trial", first_line(grid.errors[-1]))


@contextmanager
def _losses_untold() -> Iterator[None]:
    """Keep Tune from ending with the error that trials did not complete: their items were given out again since."""
    log = logging.getLogger("ray.tune.tune")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


class Steps(Protocol):
    """A trial that goes on step by step; a step returns ``done``, and what the scheduler compares."""

    def step(self) -> dict[str, Any]:
        """Go on to the next score."""
        ...


def run_here(
    begin: Callable[[dict[str, Any]], Steps],
    searcher: StatelessSearcher[Any],
    space: Mapping[str, Any],
    scheduler: TrialScheduler,
) -> None:
    """Do what :func:`run_trials` does in this process, without Ray: one trial runs after the other.

    The scheduler is Tune's own, so it stops here what it would stop there.  It is asked in the way of Tune's
    controller, which it does not get: the schedulers that we use look at the trial's id and config alone.

    Raises:
        QalofError: the searcher's error, or what a trial raises.
    """
    number = 0
    while isinstance(found := searcher.suggest(f"here_{number}"), dict):
        given = {**space, **found}
        trial: Any = SimpleNamespace(trial_id=f"here_{number}", config=given)
        controller: Any = None
        scheduler.on_trial_add(controller, trial)
        steps = begin(given)
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
