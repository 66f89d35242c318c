"""One search that is driven from outside: it says what to evaluate next and takes the results.

A study connects a strategy with the code that runs models.  :meth:`Study.ask` gives the bitmaps that must
be evaluated; each comes back through :meth:`Study.tell`, in any order; the strategy gets them in its own order. So a
process, a pool of actors or a cluster drives the same search to the same result.

A strategy may also ask for a :class:`search.measurement.Measurement`, such as a table of scores.  It waits in
:attr:`Study.measurement` and comes back through :meth:`Study.put`; it is no evaluation and is not counted as one.

A bitmap that is ``known`` from a record is answered without being handed out, and still counts as an evaluation: a
search that resumes after a kill makes the choices of an uninterrupted one and ends at the same point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.laws import Count, Seed, check_keywords
from search.failure import MOST_IN_A_ROW, FailureCount, checked
from search.measurement import Measurement, Taken
from search.metric_limit import MetricLimit
from search.objective import Objective, Score, parse_objectives
from search.point import Point
from search.result import SearchResult
from search.space import BitmapSpace
from search.strategies import Row, StrategyContext, start

OnScore = Callable[[Score], None]


class Study:
    """A strategy at work on a space.

    Args:
        space: the space, limits included.
        objectives: the objectives, such as ``("max:f1", "min:weight_bytes")``.
        strategy: a name in :data:`search.strategies.STRATEGIES`.
        max_evaluations: the study ends after so many different bitmaps; None lets the strategy decide.
        seed: the seed of every draw.
        known: evaluations that need not be made again.
        taken: results of measurements that need not be taken again, by their keys.
        options: options of the strategy.
        on_score: a function that is called for each scored bitmap, known ones included.
        max_failures_in_a_row: the study raises an error after so many failed bitmaps in a row; None lets any number
            pass.
        metric_limits: the limits on metrics, which only an evaluation shows to be kept.

    Raises:
        BadInputError: An argument cannot be used; nothing has been evaluated then.
    """

    def __init__(
        self,
        space: BitmapSpace,
        objectives: Sequence[str | Objective],
        strategy: str = "tpe",
        *,
        max_evaluations: Count | None = 50,
        seed: Seed = 0,
        known: Mapping[Bitmap, Evaluation] | None = None,
        taken: Mapping[str, Taken] | None = None,
        options: Mapping[str, Any] | None = None,
        on_score: OnScore | None = None,
        max_failures_in_a_row: Count | None = MOST_IN_A_ROW,
        metric_limits: Sequence[MetricLimit] = (),
    ) -> None:
        self.space, self.strategy, self.seed = space, strategy, seed
        self.objectives = parse_objectives(objectives)
        numbers = {"max_evaluations": max_evaluations, "seed": seed, "max_failures_in_a_row": max_failures_in_a_row}
        check_keywords(Study.__init__, numbers, "search:")
        self._failures = FailureCount(max_failures_in_a_row)
        self.max_evaluations, self.metric_limits = max_evaluations, tuple(metric_limits)
        self._known = dict(known or {})
        self._taken = dict(taken or {})
        self._on_score = on_score
        self._context = StrategyContext(space, self.objectives, seed, metric_limits=self.metric_limits)
        self._generator = start(strategy, self._context, options)
        self._scores: dict[Bitmap, Score] = {}
        self._order: list[Bitmap] = []
        self._points: dict[Bitmap, Point] = {}
        self._pending: list[Bitmap] = []
        self._asked: list[Bitmap] = []
        self._measurement: Measurement | None = None
        self._done = False
        self._cut = False
        # the first generation is requested now, so a strategy refuses bad options before work starts
        self._generation = self._advance(None)

    @property
    def evaluations(self) -> int:
        """How many different bitmaps have been scored, known ones included."""
        return len(self._scores)

    @property
    def done(self) -> bool:
        """Whether nothing is left to evaluate; certain once :meth:`ask` has returned nothing."""
        return self._done

    @property
    def trace(self) -> list[Row]:
        """The rows of the strategy so far: greedy's steps, or the ranking of sensitivities."""
        return list(self._context.trace)

    def ask(self) -> list[Bitmap]:
        """Return bitmaps to evaluate now: the same ones until all of them are told; there are none when the search is
        over, or while :attr:`measurement` waits.
        """
        while not self._pending and not self._done and self._measurement is None:
            if self._generation is None:
                if not self._cut:
                    self._generation = self._advance([self._scores[bitmap] for bitmap in self._asked])
                if self._generation is None:
                    if self._measurement is None:
                        self._finish()
                    break
            self._open(self._generation)
            self._generation = None
        return list(self._pending)

    @property
    def measurement(self) -> Measurement | None:
        """The measurement that the strategy waits for; certain once :meth:`ask` has returned nothing."""
        return self._measurement

    def put(self, measurement: Measurement, taken: Taken) -> None:
        """Take the result of :attr:`measurement`.

        Raises:
            ValueError: The measurement is another one.
        """
        if self._measurement is None or measurement.key != self._measurement.key:
            raise ValueError(f"put must answer the measurement that waits: got {measurement}")
        self._measurement = None
        self._taken[measurement.key] = taken
        self._generation = self._advance([taken])
        if self._generation is None and self._measurement is None:
            self._finish()

    def tell(self, bitmap: Bitmap, evaluation: Evaluation) -> Score:
        """Take the evaluation of a bitmap that :meth:`ask` gave out.

        Raises:
            ValueError: The bitmap was not given out, or was reported already.
            BadInputError: The evaluation lacks an objective's metric.
            TooManyFailures: It is the last of the failures in a row that are allowed.
        """
        if bitmap not in self._pending:
            raise ValueError(f"tell must follow ask: bitmap {bitmap} is not waiting for an evaluation")
        score = self._score(bitmap, evaluation)
        self._pending.remove(bitmap)
        self._failures.add(bitmap, score.evaluation)
        return score

    def result(self) -> SearchResult:
        """Return everything scored so far, in the order of the strategy's requests; this can be called at any time."""
        scored = [self._scores[bitmap] for bitmap in self._order if bitmap in self._scores]
        for score in scored:
            if score.bitmap not in self._points:
                self._points[score.bitmap] = Point.of(score, self.space.sites)
        points = tuple(self._points[score.bitmap] for score in scored)
        limits = dict(self.space.limits) | {limit.name: limit.bound for limit in self.metric_limits}
        return SearchResult(points, self.objectives, self.strategy, self.seed, limits, tuple(self.trace))

    def _advance(self, answers: list[Any] | None) -> list[Bitmap] | None:
        """Hand over the answers and return the next generation; None at the end, or where a measurement waits."""
        try:
            generation = next(self._generator) if answers is None else self._generator.send(answers)
            while isinstance(generation, Measurement):
                if generation.key not in self._taken:
                    self._measurement = generation
                    return None
                generation = self._generator.send([self._taken[generation.key]])
        except StopIteration:
            return None
        for bitmap in generation:
            if not self.space.fits(bitmap):
                raise RuntimeError(f"strategy {self.strategy} must stay within the limits: it chose {bitmap}")
        self._asked = generation
        return generation

    def _open(self, generation: list[Bitmap]) -> None:
        new = [bitmap for bitmap in dict.fromkeys(generation) if bitmap not in self._scores]
        if self.max_evaluations is not None and len(self._scores) + len(new) > self.max_evaluations:
            # the strategy never gets a generation that was cut short
            new, self._cut = new[: self.max_evaluations - len(self._scores)], True
        self._order += new
        self._pending = [bitmap for bitmap in new if bitmap not in self._known]
        for bitmap in new:
            if bitmap in self._known:
                self._score(bitmap, self._known[bitmap])

    def _score(self, bitmap: Bitmap, evaluation: Evaluation) -> Score:
        evaluation = checked(evaluation, self.objectives, self.metric_limits)
        score = Score.of(bitmap, evaluation, self.space.cost(bitmap), self.objectives, self.metric_limits)
        self._scores[bitmap] = score
        if self._on_score is not None:
            self._on_score(score)
        return score

    def _finish(self) -> None:
        self._done = True
        self._generator.close()
