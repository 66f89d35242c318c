"""Writing a report into a folder: as a page, as a PDF, or both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrate.document.record import read_record
from orchestrate.jobs.registry import JOBS
from orchestrate.report.contents import Contents, contents_of
from orchestrate.report.page import html_page
from qalof.errors import BadInputError, nearest_hint
from qalof.files import write_bytes
from qalof.home import expanded
from qalof.locks import held
from qalof.writing import check_file, disk_errors

REPORT, PDF = "report.html", "report.pdf"
FORMS = {"html": REPORT, "pdf": PDF}
"""The forms of a report, and the file of each."""


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a pipeline's folder or a run directory.

    Args:
        folder: the folder that ``--output`` of the command named; unfinished steps are shown as such.

    Returns:
        The path of the page.

    Raises:
        BadInputError: no run is there, or one of its files is damaged.
    """
    return write_reports([folder], ["html"])[0]


def write_reports(
    folders: Sequence[str | Path], forms: Sequence[str] = ("html", "pdf"), output: str | Path | None = None
) -> list[Path]:
    """Gather runs into one report, and write it in each form.

    Args:
        folders: the folders of pipelines and run directories.
        forms: of :data:`FORMS`.
        output: the folder to write into; None takes that of a single run, and the nearest one above several.

    Returns:
        The paths of the files, in the order of ``forms``.

    Raises:
        BadInputError: no run is there, one of its files is damaged, or a form is not known.
    """
    for form in forms:
        if form not in FORMS:
            raise BadInputError(f"--format must be {' or '.join(FORMS)}: got {form!r}; {nearest_hint(form, FORMS)}")
    records = [read_record(expanded(folder), JOBS) for folder in folders]
    place = _place([record.folder for record in records], output)
    targets = [place / FORMS[form] for form in forms]
    for target in targets:
        check_file(target, "the report")
    contents = contents_of(records, place)
    for form, target in zip(forms, targets, strict=True):
        with held(target, "the report", wait=True):
            write_bytes(target, rendered(contents, form))
    return targets


def rendered(contents: Contents, form: str) -> bytes:
    """Lay a report out in one of :data:`FORMS`."""
    if form == "html":
        return html_page(contents).encode()
    from orchestrate.report.pdf import pdf_document

    return pdf_document(contents)


def _place(folders: Sequence[Path], output: str | Path | None) -> Path:
    if output is None:
        return folders[0] if len(folders) == 1 else Path(os.path.commonpath(folders))
    place = expanded(output).absolute()
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    return place
