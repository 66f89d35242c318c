"""The names of the files in a run directory."""

from __future__ import annotations

EVALUATIONS, SEARCH_RECORD, ATTACK_RECORD = "evaluations.json", "search.jsonl", "attacks.jsonl"
