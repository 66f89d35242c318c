"""One section per step: its heading, settings, files, and the blocks that show what it found."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import FileLink, Section
from orchestrate.document.record import Record, State, Step
from orchestrate.jobs.registry import JOBS
from orchestrate.report.settings import Places, command_line, key_settings, whole_config
from orchestrate.runs.layout import FILES


def anchor_of(number: int) -> str:
    """Return the identifier of a step's section."""
    return f"step-{number}"


def section(record: Record, step: Step, number: int, places: Places) -> Section:
    """Make the section of the step that is the ``number``-th in the page, from 1 on."""
    finished = step.state is State.FINISHED
    anchor = anchor_of(number)
    return Section(
        number=number,
        name=step.name,
        command=step.command,
        anchor=anchor,
        state=str(step.state),
        finished=finished,
        seconds=formats.duration(step.seconds),
        lead=lead(step),
        repeat=command_line(step, places),
        settings=key_settings(record, step, places),
        config=whole_config(step, places) if step.config else "",
        blocks=JOBS[step.command].section(record, step, anchor) if step.command in JOBS else [],
        files=_files(step, places),
    )


def lead(step: Step) -> str:
    """Say in a sentence or two what the step is about, or how far it came."""
    if step.state is State.WAITING:
        return "This step has not begun."
    if step.state is State.MISSING:
        return "The pipeline names this step, but its folder is not there or holds no run: nothing can be shown of it."
    if step.state is State.UNFINISHED:
        record = JOBS[step.command].record if step.command in JOBS else None
        kept = f" Its record holds {formats.count_of(step.recorded, record[1])} so far." if record else ""
        return f"This step has not finished: there is no result.json.{kept} The command below goes on with it."
    job = JOBS.get(step.command)
    return (job and job.lead(step)) or f"The result of `{step.command}`; its files are below."


def _files(step: Step, places: Places) -> list[FileLink]:
    found = []
    for name, holds in FILES.items():
        for path in sorted(step.folder.glob(name)):
            shown = f"{path.name}/" if path.is_dir() else path.name
            found.append(FileLink(places.link(path), shown, holds))
    return found
