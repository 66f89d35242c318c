"""The report of a run: one HTML page that stands alone, made from the files of the run's folder.

:mod:`orchestrate.document.record` turns a folder into a record of steps.  Each step's job reads its result into typed
values, and words and draws its section.  ``page`` and its template lay everything out.  A page with scripts was
rejected: this one opens from a mail, prints, and shows the same in ten years.
"""

from __future__ import annotations

from orchestrate.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
