"""The result of a search: every evaluated bitmap, the front, and the best bitmap within a budget.

A result is plain data, with intervals already computed, so it can be read again without models and without per-example
scores, which stay in the record of evaluations. ``front.json`` holds all of it; ``front.csv`` and ``front.png`` are
views of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalof.best_within import best_within, scored
from qalof.bitmap_names import short_name
from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint
from qalof.files import read_json, write_bytes, write_json, write_text
from qalof.statistics import to_nullable
from search.front import non_dominated
from search.objective import Objective
from search.point import Point

if TYPE_CHECKING:
    import pandas as pd  # pandas and matplotlib take a second, and only a finished search needs them

FORMAT_VERSION = 2

FRONT_JSON, FRONT_CSV, FRONT_PNG, TRACE_CSV = "front.json", "front.csv", "front.png", "trace.csv"

FRONT_BITMAPS = "front_bitmaps.png"


@dataclass(frozen=True)
class SearchResult:
    """Points in the order in which the strategy requested them, and their objectives.

    ``trace``: the strategy's own rows, such as greedy's steps or the ranking of sensitivities.
    """

    points: tuple[Point, ...]
    objectives: tuple[Objective, ...]
    strategy: str
    seed: int
    limits: Mapping[str, float]
    trace: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @cached_property
    def front_points(self) -> tuple[Point, ...]:
        """The points that no other point dominates, sorted by the last objective from its low end; none of them breaks
        a limit on a metric.
        """
        values = [point.ranked for point in self.points]
        chosen = non_dominated(values, [objective.direction for objective in self.objectives])
        return tuple(sorted((self.points[index] for index in chosen), key=lambda point: point.values[-1]))

    @property
    def front(self) -> pd.DataFrame:
        """Return the front as a table: id, bitmap, summary, metrics with ``_low`` and ``_high``, costs."""
        return _table([point.as_row() for point in self.front_points])

    @property
    def failures(self) -> tuple[Point, ...]:
        """The points that could not be evaluated, each with its reason in ``failure``."""
        return tuple(point for point in self.points if point.failure)

    @property
    def breaking(self) -> tuple[Point, ...]:
        """The points that break a limit on a metric, each with these limits in ``breaks``."""
        return tuple(point for point in self.points if point.breaks)

    @property
    def all(self) -> pd.DataFrame:
        """Return all points as a table, in the order of the requests."""
        return _table([point.as_row() for point in self.points])

    def best(self, **budget: float) -> Point:
        """Return the best point by the first objective among those within a budget; of equal ones, the one with fewer
        bytes.

        Args:
            budget: cost name -> greatest allowed value, such as ``average_bits=5.0``; without any, all points count.

        Raises:
            BadInputError: A cost is unknown, or no evaluated bitmap is within the budget.
        """
        for name in budget:
            if name not in COST_NAMES:
                raise BadInputError(f"a budget must name a cost: got {name!r}; {nearest_hint(name, COST_NAMES)}")
        best = best_within(
            self.points, budget, values=lambda p: p.ranked, cost=Point.value, sign=self.objectives[0].sign
        )
        if best is None:
            raise BadInputError(self._infeasible(scored(self.points, lambda p: p.ranked), budget))
        return best

    def plot(self, path: str | Path) -> None:
        """Draw all points with error bars and the front, as a PNG."""
        from search.plot import front_png

        title = f"{self.strategy}, {len(self.points)} bitmaps; bars are 95 % intervals"
        write_bytes(Path(path), front_png(self.points, self.front_points, self.objectives, title))

    def save(self, folder: str | Path) -> None:
        """Write ``front.json``, ``front.csv``, ``front.png``, ``front_bitmaps.png`` and, for a trace, ``trace.csv``."""
        from search.bitmap_plot import bitmaps_picture, thinned

        place = Path(folder)
        write_text(place / FRONT_CSV, self.front.to_csv(index=False))
        if self.trace:
            write_text(place / TRACE_CSV, _table(self.trace).to_csv(index=False))
        self.plot(place / FRONT_PNG)
        if self.front_points:
            titled = {f"{short_name(point.bitmap)}: {point.summary}": point.bitmap for point in self.front_points}
            write_bytes(
                place / FRONT_BITMAPS, bitmaps_picture({title: titled[title] for title in thinned(list(titled))})
            )
        # this file is the last one, since load reads it: a folder that has it has the views too
        write_json(place / FRONT_JSON, self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> SearchResult:
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: The file is missing, not JSON, or of another format version.
        """
        path = Path(folder) / FRONT_JSON
        data = read_json(path, "search result")
        version = data.get("version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BadInputError(f"search result {path} must have version {FORMAT_VERSION}: got {version!r}; redo it")
        return cls(
            tuple(map(Point.from_json, data["points"])),
            tuple(map(Objective.parse, data["objectives"])),
            data["strategy"],
            data["seed"],
            data["limits"],
            tuple(data["trace"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a versioned plain dict, in which ``front`` holds positions in ``points``."""
        positions = {id(point): index for index, point in enumerate(self.points)}
        return {
            "version": FORMAT_VERSION,
            "strategy": self.strategy,
            "seed": self.seed,
            "objectives": [str(objective) for objective in self.objectives],
            "limits": dict(self.limits),
            "front": [positions[id(point)] for point in self.front_points],
            "points": [point.to_json() for point in self.points],
            "trace": [{k: to_nullable(v) if isinstance(v, float) else v for k, v in row.items()} for row in self.trace],
        }

    def _infeasible(self, usable: Sequence[Point], budget: Mapping[str, float]) -> str:
        asked = ", ".join(f"{name} <= {limit:.10g}" for name, limit in budget.items())
        if not usable and self.breaking:
            raise BadInputError(
                f"the best bitmap must keep the limits on metrics: none of {len(self.breaking)} does, the last breaks "
                f"{self.breaking[-1].breaks}; relax them, or search longer"
            )
        if not usable:
            why = f", since {self.failures[-1].failure}" if self.failures else " yet"
            return f"the best bitmap must have a finite score: none has one{why}"
        ranges = [f"{name} from {min(c):.10g} to {max(c):.10g}" for name, c in _columns(usable, budget).items()]
        return f"no evaluated bitmap has {asked}: they have {', '.join(ranges)}; search with limits={dict(budget)}"


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([dict(row) for row in rows])


def _columns(points: Sequence[Point], names: Mapping[str, float]) -> dict[str, list[float]]:
    return {name: [point.value(name) for point in points] for name in names}
