"""The summary at the head of a report: the sentences of all steps."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import Statement, Topic
from orchestrate.document.record import Record, State, Step
from orchestrate.jobs.registry import JOBS
from orchestrate.report.sections import anchor_of


def summary(record: Record) -> list[Topic]:
    """Make what the page says first: some sentences per step."""
    steps = enumerate(record.steps, start=1)
    return [Topic(step.name, anchor_of(number), statements(record, step)) for number, step in steps]


def statements(record: Record, step: Step) -> list[Statement]:
    """Say what one step found."""
    if step.state is not State.FINISHED:
        return [Statement(f"{str(step.state).capitalize()}: there is no result to report.", caution=True)]
    job = JOBS.get(step.command)
    if job is None:
        return [Statement(f"{step.command} finished in {formats.duration(step.seconds)}.")]
    found: list[Statement] = job.statements(record, step)
    return found
