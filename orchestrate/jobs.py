"""What each command does, as a job: its config, what can be found wrong beforehand, and the work itself.

:func:`execute` runs any of them alike: check, open the run directory (a finished one is returned as it is), connect
to Ray, open the MLflow run, work, write the result.  Nothing is started before the check has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrate import (
    attack_job,
    baselines_job,
    evaluation_jobs,
    footprint_job,
    generate_job,
    range_test_job,
    search_job,
    sweep_job,
    train_job,
)
from orchestrate.admission import admitted, check_device
from orchestrate.assemble import parse_bitmaps, trained_widths
from orchestrate.attack_config import AttackConfig
from orchestrate.baselines_config import BaselinesConfig
from orchestrate.cluster import connect, logical_cpus, physical_cores, worker_environment
from orchestrate.config import (
    EvaluateConfig,
    SearchConfig,
    Section,
    SensitivityConfig,
    TrackingConfig,
    TrainConfig,
    WorkersConfig,
)
from orchestrate.config_file import to_plain
from orchestrate.evaluation_jobs import evaluate_bitmaps, open_checkpoint, record_bitmap
from orchestrate.evaluation_pool import EvaluationPool
from orchestrate.inputs import input_digests
from orchestrate.loss_record import LOSSES, training_loss
from orchestrate.progress import report, say
from orchestrate.redaction import redact
from orchestrate.run_directory import RunDirectory
from orchestrate.sweep_plan import SweepConfig, sweep_configs
from orchestrate.tracking import Run, Tracker
from qalof.files import read_json, write_json
from qalof.locks import held
from search import BitmapSpace, Score, SearchResult, Study, parse_objectives
from search import run as search_here

Result = dict[str, Any]
TRACKING = "tracking.json"
"""Which MLflow run is this directory's, so that a run that goes on stays one run."""


@dataclass(frozen=True)
class Job:
    """``check(config)`` finds bad input and returns what ``work(config, checked, directory, run)`` needs."""

    config: type[Section]
    check: Callable[[Any], Any]
    work: Callable[[Any, Any, RunDirectory, Run], Result]

    stands_for: Callable[[Any], Mapping[str, Section]] = lambda config: {"": config}
    """The configs whose inputs the result depends on, by the beginning of their keys; several for a sweep."""

    def inputs(self, config: Section) -> dict[str, str]:
        """Digests, by key, of the files and folders that the result depends on."""
        return input_digests(self.stands_for(config))


def execute(
    command: str, config: Section, output: str | Path, address: str | None = None, *, wait: bool = False
) -> Result:
    """Run a command's job in a run directory, which no other process may use meanwhile.

    Args:
        command: one of :data:`JOBS`.
        config: of the job's class.
        output: the run directory.
        address: of a Ray cluster; None for this machine, or the cluster that a Ray job runs on.
        wait: for another process that uses the run directory, whose result is then taken.

    Raises:
        BadInputError: before any worker starts.
    """
    output = Path(output)
    job = JOBS[command]
    checked = job.check(config)
    with held(output, "--output", wait=wait):
        directory = RunDirectory.open(output, command, to_plain(config), job.inputs(config))
        return _executed(job, config, checked, directory, address)


def _executed(job: Job, config: Section, checked: Any, directory: RunDirectory, address: str | None) -> Result:
    """The result of a run whose directory is open and held: as it was found, or of the work."""
    command = directory.command
    if (finished := directory.result) is not None:
        say(f"{command}: {directory.path} is finished already; its result is taken as it stands")
        return finished
    workers: WorkersConfig = config.workers  # type: ignore[attr-defined]
    tracking: TrackingConfig = config.tracking  # type: ignore[attr-defined]
    tracker = Tracker.open(Path(tracking.root), tracking.uri, tracking.experiment)
    earlier = directory.path / TRACKING
    run_id = read_json(earlier, "tracking file")["run"] if earlier.is_file() else None
    started = time.monotonic()
    with (
        ray_for(workers, address),
        tracker.parent(directory.path.name, to_plain(config), {"command": command}, run_id) as run,
    ):
        write_json(earlier, {"run": run.run_id, "uri": redact(tracker.uri), "experiment": tracking.experiment})
        result = job.work(config, checked, directory, run)
        result["seconds"] = round(time.monotonic() - started, 1)
    return directory.finish(result)


@contextmanager
def ray_for(workers: WorkersConfig, address: str | None = None, others: Sequence[WorkersConfig] = ()) -> Iterator[None]:
    """A connection to Ray that has room for ``workers``; none where they are this process.

    Raises:
        BadInputError: ``workers``, or ``others`` that will be asked for later, can never be had there.
    """
    for each in (workers, *others):
        check_device(each, torch.cuda.is_available())
    if workers.in_process:
        yield
        return
    cpus = logical_cpus(workers.count, physical_cores())
    with connect(address, cpus, environment=worker_environment(workers.count)):
        for each in (workers, *others):
            if not each.in_process:
                admitted(each)
        yield


def _train(config: TrainConfig, parts: train_job.Parts, directory: RunDirectory, run: Run) -> Result:
    trained = train_job.train(config, parts, directory, run)
    checkpoint = trained.checkpoint
    wanted = config.evaluation.bitmaps
    specs = wanted if wanted is not None else list(trained_widths(parts.model, config))
    bitmaps = parse_bitmaps(specs, parts.model.sites)
    # on Ray the driver's own model is as it was before training, and has no learned steps and observed ranges
    parts.model.load_parameters(checkpoint)
    sites, rest = parts.model.sites, parts.model.rest
    scored = evaluate_bitmaps(checkpoint, sites, bitmaps, config.evaluation.limit, config.workers, run, rest=rest)
    write_json(directory.path / "evaluations.json", evaluation_jobs.per_example(bitmaps, scored))
    return {
        "checkpoint": str(checkpoint),
        "task": config.task.name,
        "objective": config.objective.name,
        "steps": config.training.steps,
        "training_data": parts.task.train_counts(),
        "training_loss": training_loss(directory.path / LOSSES, config.training.steps),
        "best": trained.best,
        "rows": evaluation_jobs.rows(bitmaps, scored, sites, rest),
    }


def _check_train(config: TrainConfig) -> train_job.Parts:
    parts = train_job.check(config)
    parse_bitmaps(config.evaluation.bitmaps or [], parts.model.sites)
    return parts


def _check_search(config: SearchConfig) -> tuple[BitmapSpace, tuple[str, ...]]:
    opened = open_checkpoint(config.checkpoint)
    space = BitmapSpace.of(
        opened.model,
        weight=config.space.weight,
        activation=config.space.activation,
        kv=config.space.kv,
        limits=config.limits,
        group=config.space.group,
    )
    objectives = tuple(config.objectives or (opened.task.primary_metric, "weight_bytes"))
    for objective in parse_objectives(objectives):
        objective.check(opened.task.metrics)
    # a study refuses bad objectives, strategies and options when it is made
    Study(space, objectives, config.strategy, max_evaluations=config.max_evaluations, options=config.strategy_options)
    return space, objectives


def _search(
    config: SearchConfig, checked: tuple[BitmapSpace, tuple[str, ...]], directory: RunDirectory, run: Run
) -> Result:
    space, objectives = checked
    find: Any = search_job.search
    evaluator: Any = search_job.CheckpointEvaluator(Path(config.checkpoint), config.limit, config.workers)
    if config.workers.in_process:
        find = search_here
        evaluator = EvaluationPool(Path(config.checkpoint), space.sites, config.limit, config.workers)
    with report("search", config.max_evaluations or len(space.units) * 2) as progress:
        done = 0

        def on_score(score: Score) -> None:
            nonlocal done
            done += 1
            metrics = {**score.evaluation.metrics, **score.cost.as_metrics()}
            record_bitmap(run, f"trial {done}", score.bitmap, metrics, "search")
            shown = (f"{name} {value:,.6g}" for name, value in zip(objectives, score.values, strict=True))
            progress.update(done, "  ".join(shown))

        found = find(
            space,
            evaluator,
            objectives,
            config.strategy,
            config.max_evaluations,
            storage=directory.path / "search.jsonl",
            seed=config.seed,
            on_score=on_score,
            options=config.strategy_options,
        )
    found.save(directory.path)
    for name in ("front.json", "front.csv", "front.png", "front_bitmaps.png"):
        run.artifact(directory.path / name)
    run.log_metrics({"evaluations": len(found.points), "front.size": len(found.front_points), **_best(found)})
    return {"evaluations": len(found.points), "front": found.front.to_dict("records"), "strategy": config.strategy}


def _best(found: SearchResult) -> dict[str, float]:
    """The best value of each objective by itself."""
    best = {}
    for index, objective in enumerate(found.objectives):
        values = [point.values[index] for point in found.points]
        best[f"best.{objective.name}"] = objective.sign * max(objective.sign * value for value in values)
    return best


JOBS: Mapping[str, Job] = {
    "train": Job(TrainConfig, _check_train, _train),
    "evaluate": Job(EvaluateConfig, evaluation_jobs.check_evaluate, evaluation_jobs.evaluate),
    "sensitivity": Job(SensitivityConfig, evaluation_jobs.check_sensitivity, evaluation_jobs.sensitivity),
    "search": Job(SearchConfig, _check_search, _search),
    "range-test": Job(range_test_job.RangeTestConfig, range_test_job.check, range_test_job.range_test),
    "attack": Job(AttackConfig, attack_job.check, attack_job.work),
    "baselines": Job(BaselinesConfig, baselines_job.check, baselines_job.work),
    "footprint": Job(footprint_job.FootprintConfig, footprint_job.check, footprint_job.work),
    "generate-data": Job(generate_job.GenerateConfig, generate_job.check, generate_job.work),
    "sweep": Job(SweepConfig, sweep_job.check, sweep_job.sweep, sweep_configs),
}
