"""What each command found, read from its run directory into typed values.

Whatever does not have their form is refused by the name of its file: a report must not show a number that is half read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrate.document.findings import well_formed
from orchestrate.jobs.attack.findings import Attacked, attacked
from orchestrate.jobs.generate_data.findings import Generated, generated
from orchestrate.jobs.profile.findings import Measured, measured
from orchestrate.jobs.ptq.findings import Baselines, baselines
from orchestrate.jobs.range_test.findings import RangeTested, range_tested
from orchestrate.jobs.search.findings import Searched, searched
from orchestrate.jobs.sensitivity.findings import Ranked, ranked
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors
from orchestrate.jobs.shared.findings import Scored, scored
from orchestrate.jobs.sweep.findings import Swept, swept

ToolFindings = Swept | RangeTested | Baselines | Measured | Generated


Findings = Scored | Ranked | OutputErrors | Searched | Attacked | ToolFindings


def read_findings(command: str, folder: Path, result: Mapping[str, Any]) -> Findings | None:
    """The findings of a finished run; None of a command that has none of its own form.

    Args:
        command: of the run.
        folder: its run directory.
        result: the content of its ``result.json``.

    Raises:
        BadInputError: a file is missing, damaged, or does not fit the result.
    """
    reader = _READERS.get(command)
    if reader is None:
        return None
    with well_formed(folder / "result.json", "result file"):
        return reader(folder, result)


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Findings]] = {
    "train": scored,
    "evaluate": scored,
    "sensitivity": ranked,
    "search": searched,
    "attack": attacked,
    "sweep": swept,
    "range-test": range_tested,
    "baselines": baselines,
    "footprint": measured,
    "generate-data": generated,
}
