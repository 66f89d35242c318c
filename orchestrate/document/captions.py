"""The notes under tables that several commands share."""

from __future__ import annotations

PAIRED = (
    "Differences are paired over the same examples. Brackets: 95 % bootstrap intervals over examples, not corrected "
    "for how many there are; where one holds zero, no difference is shown."
)

UNPAIRED = "Brackets: 95 % bootstrap intervals over examples."
