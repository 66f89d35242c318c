"""When, how long and where the numbers of a run were made, what is in doubt, and where MLflow has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrate.document import formats
from orchestrate.document.formats import count_of, listed
from orchestrate.document.record import Record, State, Step
from orchestrate.report.settings import without_secrets
from orchestrate.runs.mlflow_store import database_of
from qalof.model.pretrained import TINY

UI = "http://127.0.0.1:5000"
"""The address at which `qalof ui` serves MLflow."""
EXPERIMENTS = f"{UI}/#/experiments?workflowType=machine_learning"
"""The address has this type since MLflow otherwise opens its part for language-model applications, which lists no
runs.
"""

PLANTED = (
    "The shipped tiny model proves nothing about real ones: three channels of every LayerNorm in its blocks were made "
    "eight times as large, and without these it loses nothing at 4 bits."
)
"""What is said first of runs on the tiny model (:mod:`qalof.tiny.outliers`)."""

_SHOWN_VERSIONS = ("qalof", "torch", "transformers", "peft", "datasets", "ray", "optuna", "mlflow", "numpy")


@dataclass(frozen=True)
class Tracked:
    """A step's run in MLflow."""

    step: str
    run: str
    experiment: str
    href: str


def notices(record: Record) -> list[str]:
    """Say what is missing or in doubt; this stands before all the rest."""
    found = []
    if not record.single and record.seconds is None:
        unknown = "" if record.listed else " Without its pipeline.json, steps that have not begun are not known."
        found.append(
            f"This pipeline has not finished: it is under way or was broken off.{unknown} The command that started it "
            "goes on with it."
        )
    if any(_source_of(step) == TINY for step in record.steps):
        found.append(PLANTED)
    if record.earlier:
        found.append(
            f"The present run of the pipeline has not come to {listed(list(record.earlier))} yet: the page shows the "
            "result of an earlier one, which is done again if its config changed."
        )
    open_steps = [step.name for step in record.steps if step.state is not State.FINISHED]
    if open_steps:
        found.append(f"Without a result: {listed(open_steps)}. Nothing is concluded from what is not finished.")
    if any(step.written_at.resolve() != step.folder.resolve() for step in record.steps):
        found.append("The folder was copied or moved: its configs name checkpoints where it stood when it ran.")
    if record.others:
        found.append(
            f"The folder also holds {count_of(len(record.others), 'run')} that the pipeline's last run did not name, "
            f"not shown here: {listed(list(record.others))}."
        )
    if any(_git(step).get("dirty") for step in record.steps):
        found.append("The code had changes that are not committed: the commit alone does not give these numbers.")
    return found


def _source_of(step: Step) -> Any:
    """Return the pretrained model that a step's config names; None where it takes a checkpoint."""
    model = step.config.get("model")
    return model.get("source") if isinstance(model, Mapping) else None


def facts(record: Record) -> list[tuple[str, str]]:
    """Say when, how long, and where the numbers were made."""
    started = [step.started for step in record.steps if step.started is not None]
    ended = [step.ended for step in record.steps if step.ended is not None]
    rows = []
    if not times_hold(record):
        started, ended = [], []
    if started:
        rows.append(("Started", formats.moment(min(started))))
    if ended and record.whole:
        rows.append(("Finished", formats.moment(max(ended))))
    rows.append(("Wall time", _wall_time(record)))
    return rows + _environments(record.steps)


def times_hold(record: Record) -> bool:
    """Return whether the files' times can be those of the run: in a copy they are all the same, but no run takes no
    time.
    """
    spans = [(s.ended - s.started, s.seconds) for s in record.steps if s.ended and s.started and s.seconds]
    return all(span >= 0.5 * seconds for span, seconds in spans)


def _wall_time(record: Record) -> str:
    steps = formats.duration(record.step_seconds)
    if record.seconds is None:
        return f"{steps} in finished steps so far" if record.step_seconds else formats.DASH
    if record.single:
        return steps
    # a rerun takes finished steps as they stand, and pipeline.json counts the last run only
    skipped = record.seconds < 0.95 * record.step_seconds
    note = f"; the last run took {formats.duration(record.seconds)}, as finished steps were skipped" if skipped else ""
    return f"{steps if skipped else formats.duration(record.seconds)}{note}"


def _environments(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Show commit, versions and hardware, by step where steps differ."""
    rows = []
    for label, read in (
        ("Commit", _commit),
        ("Versions", _versions),
        ("Hardware", _hardware),
        ("System", _system),
    ):
        by_text: dict[str, list[str]] = {}
        for step in steps:
            if step.environment:
                by_text.setdefault(read(step), []).append(step.name)
        for text, names in by_text.items():
            rows.append((label, text if len(by_text) == 1 else f"{text} ({listed(names)})"))
    return rows


def _git(step: Step) -> Mapping[str, Any]:
    return step.environment.get("git") or {}


def _commit(step: Step) -> str:
    git = _git(step)
    if not git:
        return "not recorded: the code was an installed package or a copy, and not a git checkout"
    return f"{str(git.get('commit', ''))[:12]}{', with uncommitted changes' if git.get('dirty') else ''}"


def _versions(step: Step) -> str:
    packages = step.environment.get("packages") or {}
    shown = [f"{name} {packages[name]}" for name in _SHOWN_VERSIONS if packages.get(name)]
    return f"Python {step.environment.get('python', '?')}; {', '.join(shown)}"


def _hardware(step: Step) -> str:
    environment = step.environment
    parts = [str(environment.get("processor") or "unknown processor")]
    if cores := environment.get("usable_cores"):
        parts.append(f"{cores} of {environment.get('cpu_count', cores)} cores")
    if memory := environment.get("memory_bytes"):
        parts.append(f"{formats.size(memory)} memory")
    accelerators = environment.get("accelerators") or ["no accelerator"]
    return ", ".join([*parts, *map(str, accelerators)])


def _system(step: Step) -> str:
    return str(step.environment.get("platform", "unknown"))


def tracked(step: Step) -> list[Tracked]:
    """Link a step's run; the link works while `qalof ui` runs, for a record that it can serve."""
    run = str(step.tracking.get("run") or "")
    if not run:
        return []
    local = database_of(str(step.tracking.get("uri", ""))) is not None and run.isalnum()
    return [Tracked(step.name, run, str(step.tracking.get("experiment", "")), f"{UI}/#/runs/{run}" if local else "")]


def servers(record: Record) -> list[str]:
    """Name the tracking servers of a record, without their secrets."""
    uris = [str(step.tracking.get("uri", "")) for step in record.steps]
    return sorted({without_secrets(uri) for uri in uris if uri and database_of(uri) is None})
