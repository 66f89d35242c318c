"""The brief's questions, each answered from what the runs given to a report measured.

One module per question.  An answer says first what was found, then how it compares with what others published, and last
what limits it.  Beside our tables stand the reference's numbers, which are read from the configs of their tables, and
the commands that make ours.  What was not run is said to be not run: nothing is filled in from elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrate.document.blocks import Answer, Section, Topic
from orchestrate.document.record import Record
from orchestrate.report.questions import accuracy, best_bitmap, cyclic, directions, objectives, random_precision
from orchestrate.report.questions.measured import Measured

QUESTIONS = (accuracy, best_bitmap, objectives, cyclic, random_precision, directions)


def answers(
    record: Record, sections: Sequence[Section], topics: Sequence[Topic], filled: Collection[str]
) -> list[Answer]:
    """Answer every question, those that the runs bear on first.

    Args:
        record: the runs, as one record.
        sections: the section of each of its steps.
        topics: the summary's sentences on each of its steps.
        filled: the captions of the reference's tables that the runs have filled.
    """
    found = [
        Measured(record, step, section, topic.statements)
        for step, section, topic in zip(record.steps, sections, topics, strict=True)
    ]
    given = [
        Answer(one.STEP, one.ASKED, f"question-{number}", *one.answer(found, filled))
        for number, one in enumerate(QUESTIONS, start=1)
    ]
    return [one for one in given if one.measured] + [one for one in given if not one.measured]
