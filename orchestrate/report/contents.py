"""What a report says, as plain values: read from the runs once, and laid out by the page and by the PDF alike.

A report gathers one or more runs.  Several become one record, whose steps compare with each other; a step's name then
has that of its run before it.  The answers to the brief's questions come first.  A figure stands once: where an
answer shows it, the step's own section says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrate.document import formats
from orchestrate.document.blocks import Answer, Plot, Section, Statement, Table, Topic
from orchestrate.document.record import Record, State, Step
from orchestrate.report.facts import Tracked, facts, notices, servers, times_hold, tracked
from orchestrate.report.questions import answers
from orchestrate.report.sections import anchor_of, section
from orchestrate.report.settings import Places, mlflow_root
from orchestrate.report.summary import statements
from orchestrate.report.table_blocks import reference_table
from qalof.errors import BadInputError


@dataclass(frozen=True)
class Overview:
    """A step in the list at the head."""

    anchor: str
    name: str
    command: str
    state: str
    finished: bool
    seconds: str


@dataclass(frozen=True)
class Contents:
    """A whole report.

    ``references`` are filled tables of the four systems.  ``roots`` are the folders that ``qalof ui`` serves, and
    ``servers`` the tracking servers that hold the record.  ``timed`` says whether times of files can be those of runs.
    """

    title: str
    notices: Sequence[str]
    steps: Sequence[Overview]
    answers: Sequence[Answer]
    topics: Sequence[Topic]
    references: Sequence[tuple[Table, Sequence[Statement]]]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]]
    commands_from: str
    roots: Sequence[str]
    servers: Sequence[str]
    tracked: Sequence[Tracked]
    timed: bool


def contents_of(records: Sequence[Record], folder: Path) -> Contents:
    """Read what a report of ``records`` says that is written into ``folder``.

    Raises:
        BadInputError: a file of a run is damaged, or a run is named twice.
    """
    names = _names(records)
    places = {name: Places.of(record, folder) for name, record in names.items()}
    whole, runs = _gathered(names, folder)
    numbered = list(enumerate(whole.steps, start=1))
    made = [section(whole, step, number, places[run]) for (number, step), run in zip(numbered, runs, strict=True)]
    references = [table for record in records if (table := reference_table(record)) is not None]
    topics = [Topic(step.name, anchor_of(number), statements(whole, step)) for number, step in numbered]
    given = answers(whole, made, topics, {table.caption for table, _ in references})
    return Contents(
        title=whole.title,
        notices=[text for name, record in names.items() for text in _of_run(name, notices(record), len(records))],
        steps=[_overview(step, number) for number, step in numbered],
        answers=given,
        topics=topics,
        references=references,
        sections=[_without(one, given) for one in made],
        facts=_facts(names),
        commands_from=_from(list(places.values())),
        roots=sorted({root for name, one in names.items() if (root := mlflow_root(one, places[name])) is not None}),
        servers=sorted({server for record in records for server in servers(record)}),
        tracked=[one for step in whole.steps for one in tracked(step)],
        timed=all(map(times_hold, records)),
    )


def _gathered(names: Mapping[str, Record], folder: Path) -> tuple[Record, list[str]]:
    """Make one record of several, so their steps compare with each other; and name the run of each step."""
    if len(names) == 1:
        ((name, record),) = names.items()
        return record, [name] * len(record.steps)
    pairs = [
        (replace(step, name=name if record.single else f"{name}/{step.name}"), name)
        for name, record in names.items()
        for step in record.steps
    ]
    title = f"{len(names)} runs: {formats.listed(list(names))}"
    known = [record.seconds for record in names.values() if record.seconds is not None]
    seconds = sum(known) if len(known) == len(names) else None
    steps = tuple(step for step, _ in pairs)
    return Record(folder, title, steps, single=False, listed=True, seconds=seconds), [name for _, name in pairs]


def _names(records: Sequence[Record]) -> dict[str, Record]:
    folders = [record.folder.resolve() for record in records]
    for folder in folders:
        if folders.count(folder) > 1:
            raise BadInputError(f"a report needs each run once: {folder} is given {folders.count(folder)} times")
    return {_told_apart(folder, folders): record for folder, record in zip(folders, records, strict=True)}


def _told_apart(folder: Path, folders: Sequence[Path]) -> str:
    """Name a run by its folder, and by those above it where another run has the same name."""
    for parts in range(1, len(folder.parts)):
        end = folder.parts[-parts:]
        if [one.parts[-parts:] for one in folders].count(end) == 1:
            return "/".join(end)
    return str(folder)


def _of_run(name: str, texts: Sequence[str], runs: int) -> list[str]:
    return list(texts) if runs == 1 else [f"{name}: {text}" for text in texts]


def _overview(step: Step, number: int) -> Overview:
    finished = step.state is State.FINISHED
    return Overview(
        anchor_of(number), step.name, step.command, str(step.state), finished, formats.duration(step.seconds)
    )


def _facts(names: dict[str, Record]) -> list[tuple[str, str]]:
    """List when and where, by run where runs differ."""
    by_fact: dict[tuple[str, str], list[str]] = {}
    for name, record in names.items():
        for fact in facts(record):
            by_fact.setdefault(fact, []).append(name)
    rows = [
        (label, text if len(runs) == len(names) else f"{text} ({formats.listed(runs)})")
        for (label, text), runs in by_fact.items()
    ]
    order = list(dict.fromkeys(label for label, _ in rows))
    return sorted(rows, key=lambda row: order.index(row[0]))


def _from(places: Sequence[Places]) -> str:
    started = {place.start for place in places}
    if started == {None}:
        return "the folder of this page"
    return "the folder that the run was started in" if len(places) == 1 else "the folder that each run was started in"


def _without(one: Section, given: Sequence[Answer]) -> Section:
    """Take out of a section the figures that an answer shows, and say where they are."""
    shown = {id(block): answer for answer in given for block in answer.blocks if isinstance(block, Plot)}
    kept = [block for block in one.blocks if id(block) not in shown]
    elsewhere = {shown[id(block)].anchor: shown[id(block)].asked for block in one.blocks if id(block) in shown}
    return replace(one, blocks=kept, elsewhere=list(elsewhere.items()))
