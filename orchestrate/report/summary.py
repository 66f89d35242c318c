"""The summary at the head of a report: the sentences of all steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrate.document import formats
from orchestrate.document.blocks import Statement, Topic
from orchestrate.document.record import Record, State, Step
from orchestrate.jobs.attack.sentences import attack_statements
from orchestrate.jobs.search.sentences import search_statements
from orchestrate.jobs.sensitivity.sentences import ranking_statements
from orchestrate.jobs.shared.sentences import score_statements
from orchestrate.report.sections import anchor_of
from orchestrate.report.tool_dispatch import tool_statements


def summary(record: Record) -> list[Topic]:
    """What the page says first: some sentences a step."""
    steps = enumerate(record.steps, start=1)
    return [Topic(step.name, anchor_of(number), statements(record, step)) for number, step in steps]


def statements(record: Record, step: Step) -> list[Statement]:
    """What one step found."""
    if step.state is not State.FINISHED:
        return [Statement(f"{str(step.state).capitalize()}: there is no result to report.", caution=True)]
    speak = _SENTENCES.get(step.command)
    if speak is None:
        return [Statement(f"{step.command} finished in {formats.duration(step.seconds)}.")]
    return speak(record, step)


_SENTENCES: Mapping[str, Callable[[Record, Step], list[Statement]]] = {
    "train": score_statements,
    "evaluate": score_statements,
    "sensitivity": ranking_statements,
    "search": search_statements,
    "attack": lambda _, step: attack_statements(step),
    **dict.fromkeys(
        ("sweep", "range-test", "baselines", "footprint", "generate-data"), lambda _, step: tool_statements(step)
    ),
}
