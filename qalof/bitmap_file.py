"""Bitmaps in files: ``FILE#ID`` names one of those that a run has written.

Every file of a run that holds bitmaps is read: a bitmap's own JSON file, a search's ``front.json`` and
``search.jsonl``, ``evaluations.json`` and ``evaluations.jsonl``, ``result.json``, and ``packed.json``.
``FILE#`` is followed by the id that tables show
(:mod:`qalof.bitmap_names`), or by a position, 1 for the first: of a search result that is the row of its front.  A file
with one bitmap needs neither.  ``front.json#average_bits=4.5`` is the best bitmap of a search, by its first objective,
that costs at most so much; any cost can stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qalof.best_within import best_within, scored, sign_of
from qalof.bitmap_names import bitmap_id, is_id, text_of
from qalof.errors import BadInputError, nearest_hint
from qalof.files import read_json, read_json_lines
from qalof.home import expanded
from qalof.layer_bits import LayerBits

SUFFIXES = (".json", ".jsonl")
_BUDGET = re.compile(r"([a-z_]+) *= *([0-9.]+(?:e[+-]?[0-9]+)?)$")
_SHOWN = 4
"""An error lists this many ids."""

Spec = Mapping[str, Any] | str
"""A bitmap as a file stores it: site -> bits, or its text."""


def names_file(text: str) -> bool:
    """Return whether a bitmap's text is ``FILE`` or ``FILE#ID``."""
    return any(part.strip().endswith(SUFFIXES) for part in (text, text.rpartition("#")[0]))


def file_of(text: str) -> Path:
    """Return the file that ``FILE`` or ``FILE#ID`` names."""
    return expanded(text.rpartition("#")[0] if _selects(text) else text.strip())


def read_spec(text: str) -> Spec:
    """Return the bitmap that ``FILE`` or ``FILE#ID`` names, as the file stores it.

    Raises:
        BadInputError: The file does not exist or has no bitmaps, the id or position does not exist, no bitmap is
            within the budget, or the file has several bitmaps and none is chosen.
    """
    path = file_of(text)
    chosen = text.rpartition("#")[2].strip() if _selects(text) else ""
    content = _content(path)
    if budget := _BUDGET.match(chosen):
        return _best_within(path, content, budget[1], float(budget[2]))
    listed, others = _found(content)
    if not listed:
        raise BadInputError(f"bitmap file {path} must hold a bitmap: it holds none; give a front.json or a bitmap")
    if not chosen:
        if len(listed) == 1:
            return listed[0]
        raise BadInputError(f"bitmap file {path} holds {len(listed)} bitmaps: choose one, {_choices(path, listed)}")
    if is_id(chosen):
        by_id = {_id(spec): spec for spec in [*listed, *others]}
        if chosen in by_id:
            return by_id[chosen]
        raise BadInputError(f"bitmap file {path} holds no bitmap #{chosen}; {nearest_hint(chosen, by_id)}")
    if chosen.isascii() and chosen.isdigit() and 1 <= int(chosen) <= len(listed):
        return listed[int(chosen) - 1]
    raise BadInputError(
        f"a bitmap of {path} must be named by its id or by its position from 1 to {len(listed)}: got {chosen!r}; "
        f"{_choices(path, listed)}"
    )


def _best_within(path: Path, data: Any, cost: str, limit: float) -> Spec:
    """Return the best bitmap of a search's result, of equal ones that with fewer bytes, at a cost of at most
    ``limit``.
    """
    points = data.get("points") if isinstance(data, Mapping) else None
    if not points or not data.get("objectives"):
        raise BadInputError(f"a budget chooses from a search's front.json: {path} is none; name a bitmap by its id")
    costs = points[0]["cost"]
    if costs.get(cost) is None:
        known = [name for name, value in costs.items() if value is not None]
        raise BadInputError(f"a budget must name a cost that {path} has: got {cost!r}; {nearest_hint(cost, known)}")
    best = best_within(
        points,
        {cost: limit},
        values=_ranked,
        cost=lambda point, name: float(point["cost"][name]),
        sign=sign_of(str(data["objectives"][0])),
    )
    if best is None:
        least = min(point["cost"][cost] for point in scored(points, _ranked) or points)
        raise BadInputError(
            f"a bitmap of {path} must have {cost} of at most {limit:.10g}: the least is {least:.10g}; raise the budget"
        )
    spec: Spec = best["bitmap"]
    return spec


def _ranked(point: Mapping[str, Any]) -> Sequence[float | None]:
    """Return a point's values, or None where it breaks a limit on a metric."""
    return [None] if point.get("breaks") else point["values"]


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [line for _, line in read_json_lines(path, "bitmap file")]
    return read_json(path, "bitmap file")


def _selects(text: str) -> bool:
    """Return whether a ``#`` in ``text`` separates a choice from the file, instead of being part of the file's name."""
    return "#" in text and not text.strip().endswith(SUFFIXES)


def _found(data: Any) -> tuple[list[Spec], list[Spec]]:
    """Return the bitmaps of a file's content: those that positions count, and others that only ids name."""
    if isinstance(data, Mapping) and isinstance(data.get("points"), list):
        points = [point["bitmap"] for point in data["points"] if isinstance(point, Mapping) and "bitmap" in point]
        front = [points[index] for index in data.get("front", []) if 0 <= index < len(points)]
        return front, points
    if isinstance(data, Mapping) and isinstance(data.get("robustness"), Mapping):
        data = data["robustness"]
    if isinstance(data, Mapping) and not {"rows", "front", "bitmaps"} & data.keys():
        data = data.get("bitmap", data)
        return ([data], []) if _is_bitmap(data) else ([], [])
    return list(_listed(data)), []


def _is_bitmap(data: Any) -> bool:
    """Return whether ``data`` is a bitmap's own JSON, or a plain map of sites."""
    sites = data.get("sites", data) if isinstance(data, Mapping) else None
    if not isinstance(sites, Mapping) or not sites:
        return False
    return all(
        isinstance(bits, int | str) or (isinstance(bits, Mapping) and "weight" in bits) for bits in sites.values()
    )


def _listed(data: Any) -> Iterator[Spec]:
    """Yield each bitmap once, in the file's order, from rows or lines that have one."""
    if isinstance(data, Mapping):
        data = next((data[key] for key in ("rows", "front", "bitmaps") if isinstance(data.get(key), list)), [])
    seen = set()
    for row in data if isinstance(data, list) else []:
        spec = row.get("bitmap", row) if isinstance(row, Mapping) else row
        if (isinstance(spec, str) or _is_bitmap(spec)) and _id(spec) not in seen:
            seen.add(_id(spec))
            yield spec


def _id(spec: Spec) -> str:
    if isinstance(spec, str):
        return bitmap_id(spec)
    return bitmap_id(text_of(LayerBits.from_json(bits) for bits in spec.get("sites", spec).values()))


def _choices(path: Path, specs: Sequence[Spec]) -> str:
    some = ", ".join(f"{path.name}#{_id(spec)}" for spec in specs[:_SHOWN])
    more = f" and {len(specs) - _SHOWN} more" if len(specs) > _SHOWN else ""
    return f"such as {some}{more}"
