"""The report of a run: one HTML page that stands alone, made from the files of the run's folder.

``read`` turns a folder into a record of steps, ``findings`` their results into typed values; ``compare`` makes the
comparisons that may be claimed and ``sentences`` tells them; the ``*_blocks`` make tables and figures, ``svg`` puts
the figures into the page, ``page`` and its template lay everything out.  A page with scripts was rejected: this one
opens from a mail, prints, and shows the same in ten years.
"""

from __future__ import annotations

from orchestrate.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
