"""A summary completed by an earlier one: a state can be lost with its machine, and its committed numbers are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from qalof.errors import BadInputError
from qalof.files import json_ready
from study.scales import Scale

SAME = ("scale", "settings", "stored_as", "questions")
"""The model may be named otherwise: ``cache:NAME`` is the file that another machine was given by its path."""
OF_TRAINED = (
    "trainings", "scores", "comparisons", "mixed", "seeds", "search", "data_free_text", "sensitivity_trained", "cost",
)  # fmt: skip
"""What depends on trained models, and on one another: it comes from one state as a whole."""
PAIRED = {"scheme_pairs": ("of", "over", "at"), "machines_differ": ("scheme", "at")}
"""Lists of rows, and the names by which a row is known."""

Summary = Mapping[str, Any]

_DEFAULTS = {one.name: one.default for one in fields(Scale) if one.default is not MISSING}
"""The values of settings that an earlier summary may not name."""


def onto(summary: Summary, earlier: Summary) -> dict[str, Any]:
    """Return ``summary`` with what only ``earlier`` has.

    Of the model as it is, every number of this state replaces the earlier one.  Of trained models, all tables are this
    state's where it has trained any, and otherwise all are the earlier ones.

    Raises:
        BadInputError: The two are of another scale or number of questions.
    """
    summary, earlier = (
        {"seeds": [], **one, "settings": json_ready({**_DEFAULTS, **one["settings"]})} for one in (summary, earlier)
    )
    differing = [name for name in SAME if summary[name] != earlier[name]]
    if differing:
        raise BadInputError(
            "a summary is completed by one of the same scale, settings and questions: "
            + "; ".join(f"{name} is {summary[name]!r} here and {earlier[name]!r} there" for name in differing)
        )
    found = {**summary, "model": earlier["model"]}
    if not summary["trainings"]:
        found |= {name: earlier[name] for name in OF_TRAINED}
    found["baselines"] = _baselines(summary["baselines"], earlier["baselines"])
    for name, names in PAIRED.items():
        known = {tuple(row[each] for each in names): row for rows in (earlier, summary) for row in rows[name]}
        found[name] = list(known.values())
    for name in ("sensitivity", "head", "speed"):
        found[name] = summary[name] or earlier[name]
    machines = [*earlier["machines"], *summary["machines"]]
    found["machines"] = [row for index, row in enumerate(machines) if row not in machines[:index]]
    found["seconds"] = earlier["seconds"] | summary["seconds"]
    return found


def _baselines(ours: Summary, theirs: Summary) -> dict[str, Any]:
    """Scheme -> bitmap -> scores, each score from this state where it has one."""
    return {
        scheme: {
            spec: _row(ours.get(scheme, {}).get(spec, {}), theirs.get(scheme, {}).get(spec, {}))
            for spec in {**theirs.get(scheme, {}), **ours.get(scheme, {})}
        }
        for scheme in {**theirs, **ours}
    }


def _row(ours: Summary, theirs: Summary) -> dict[str, Any]:
    return {**theirs, **ours, "machines": {**theirs.get("machines", {}), **ours.get("machines", {})}}
