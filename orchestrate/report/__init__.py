"""The report of runs: one HTML page that stands alone, and one PDF, made from the files of the runs' folders.

:mod:`orchestrate.document.record` turns a folder into a record of steps.  Each step's job reads its result into typed
values, and words and draws its section.  ``questions`` answers the brief's questions from them.  ``contents`` holds
all that a report says, and ``page`` and ``pdf`` lay it out.  A page with scripts was rejected: this one opens from a
mail, prints, and shows the same in ten years.
"""

from __future__ import annotations

from orchestrate.report.write import FORMS, PDF, REPORT, write_report, write_reports

__all__ = ["FORMS", "PDF", "REPORT", "write_report", "write_reports"]
