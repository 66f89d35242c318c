"""``guided``: one table of scores, a knapsack per budget, and a gradient step (docs/methods/guided_search.md).

1. A table of scores is measured once, and serves every budget (:mod:`search.scores`).
2. Per budget the knapsack gives the bitmap x of the least predicted damage (:mod:`search.allocation`). It is evaluated
   together with the uniform bitmaps.
3. The gradient of KL(x) to full precision, on fresh examples, corrects the prediction near x.  With c the table's
   damages, alpha = KL(x) / sum c_i(x_i), and F_i(b) the first-order change of KL(x) when site i goes from x_i to b,

       t_i(b) = lambda F_i(b) - 2 (1 - lambda) alpha c_i(x_i) + alpha c_i(x_i) + alpha c_i(b),     t_i(x_i) = 0

   for choices one step up or down the menu, others being forbidden.  The knapsack of t with at most K changed units is
   solved for several (lambda, K); what is best of these replaces x if it is better by more than two standard errors of
   the paired difference.
4. Where the objective is no likelihood, such as F1, the table cannot be trusted to the end.  The search then spends its
   further evaluations on knapsacks of damages that are multiplied by random factors, around the best so far.

The first measured objective is the one that counts here; further ones are measured and are on the front.  Accuracy
under attack is no likelihood either, and no table foretells it: a table says what the model can do without, and not
what makes it robust.  As the first objective it is what step 4 refines, from the bitmaps of the least damage.  Where a
metric is limited, step 4 is taken too, a bitmap that keeps the limits comes before one that breaks them, and of two
that break them the one that breaks them less.

Step 3 looks at weights alone.  It is left out from five bits on, where the knapsack is the best within noise.
"""

from __future__ import annotations

import math
import random as rng
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from qalof.bitmap import Bitmap
from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint
from qalof.laws import Count, Law
from search.allocation.damage import Damages, allocated, allocated_fast, damages_of, roles_of
from search.allocation.knapsack import Picks, total
from search.budget import check_limit
from search.measurement import GradientWanted, Measurement, ScoresWanted
from search.objective import Score
from search.scores.table import ScoreTable
from search.space import BitmapSpace
from search.strategies.base import Strategy, StrategyContext

LAMBDAS = (0.25, 0.5)
CHANGED = (20, 10)
"""One unit in so many may change in a gradient step, at least one and two units."""
BUDGETS = 6
"""How many budgets a search without any has: evenly spread from the cheapest bitmap to the most expensive one."""
SPREAD = 0.5
"""The standard deviation of the logarithm of the random factors of step 4."""
STANDARD_ERRORS = 2.0

Steps = Generator[list[Bitmap] | Measurement, list[Any], Score]


def guided(
    context: StrategyContext,
    *,
    score: str = "fisher",
    budgets: Sequence[Annotated[float, Law(gt=0)]] | None = None,
    budget_of: str = "average_bits",
    examples: Annotated[int, Law(ge=1, off="null takes 2,048 tokens")] | None = None,
    step_below: Annotated[float, Law(ge=0, off="0 takes no gradient step")] = 5.0,
    steps: Count = 1,
    generation_size: Count = 4,
    rounds: Annotated[int, Law(ge=0, off="0 refines nothing")] | None = None,
) -> Strategy:
    """Find the best bitmap per budget.

    Args:
        context: space, objectives and seed.
        score: the name of the score.
        budgets: values of the cost ``budget_of``; None takes the limits of the space as one budget, or six that are
            spread over the space where it has none.
        budget_of: the cost that budgets bound.
        examples: training examples of each measurement.
        step_below: average bits below which gradient steps are taken.
        steps: the most gradient steps per budget, each on fresh examples; the first one that finds nothing better is
            the last.
        generation_size: bitmaps in a generation of refinement.
        rounds: generations of refinement per budget; None takes none for a likelihood without limits on metrics, and
            otherwise as many as there are evaluations.

    Raises:
        BadInputError: A budget is out of reach, or no objective is measured.
    """
    objective = context.primary_metric()
    plans = _plans(context.space, budgets, budget_of)
    search = _Guided(context, objective.name, examples, generation_size)
    (taken,) = yield ScoresWanted(score, roles_of(context.space), examples, context.seed)
    search.damages = damages_of(context.space, ScoreTable.from_json(taken))
    first = [allocated(plan, search.damages) for plan in plans]
    yield from search.scored([*map(context.space.bitmap, first), *context.space.uniform()])
    for plan, picks in zip(plans, first, strict=True):
        best = search.known[context.space.bitmap(picks)]
        search.note("knapsack", plan, best)
        if best.is_finite and best.cost.average_bits < step_below:
            best = yield from search.descended(plan, picks, best, steps)
        search.best.append(best)
    if rounds == 0 or (rounds is None and objective.metric.is_likelihood and not context.metric_limits):
        return
    yield from search.refined(plans, rounds)


def _plans(space: BitmapSpace, budgets: Sequence[float] | None, budget_of: str) -> list[BitmapSpace]:
    """Return the space within each budget."""
    if budget_of not in COST_NAMES:
        raise BadInputError(f"budget_of must name a cost: got {budget_of!r}; {nearest_hint(budget_of, COST_NAMES)}")
    check_limit(budget_of)
    if budgets is None and space.limits:
        return [space]
    if budgets is None:
        low, high = space.reachable(budget_of)
        budgets = [low + (high - low) * (index + 1) / (BUDGETS + 1) for index in range(BUDGETS)]
    if not budgets:
        raise BadInputError("budgets must name at least one value: got none; null spreads them over the space")
    # a space within a limit out of reach cannot be made, so the error comes before any work
    return [space.within({budget_of: value}) for value in budgets]


@dataclass
class _Guided:
    context: StrategyContext
    metric: str
    examples: int | None
    size: int
    damages: Damages = ()

    def __post_init__(self) -> None:
        self.space = self.context.space
        self.random = rng.Random(self.context.seed)
        self.known: dict[Bitmap, Score] = {}
        self.best: list[Score] = []

    def scored(self, bitmaps: Sequence[Bitmap]) -> Generator[list[Bitmap] | Measurement, list[Any], list[Score]]:
        """Have bitmaps scored that are not known yet, and return the scores of all."""
        new = [bitmap for bitmap in dict.fromkeys(bitmaps) if bitmap not in self.known]
        if new:
            scores = yield new
            self.known |= dict(zip(new, scores, strict=True))
        return [self.known[bitmap] for bitmap in bitmaps]

    def descended(self, plan: BitmapSpace, picks: Picks, best: Score, steps: int) -> Steps:
        """Take step 3 from ``picks`` up to ``steps`` times, and return what is best then."""
        for number in range(steps):
            before = best
            best = yield from self.step(plan, picks, best, self.context.seed + 1 + number)
            if best is before:
                break
            picks = self.space.encode(best.bitmap)
        return best

    def step(self, plan: BitmapSpace, picks: Picks, best: Score, seed: int) -> Steps:
        """Take step 3 from ``picks`` on examples drawn from ``seed``, and return what is best then."""
        near = [[p for p in (pick - 1, pick, pick + 1) if 0 <= p < u.choices]
                for pick, u in zip(picks, self.space.units, strict=True)]  # fmt: skip
        choices = {
            self.space.sites[member].name: [self.space.choices[member][p] for p in ps]
            for ps, unit in zip(near, self.space.units, strict=True)
            for member in unit.members
        }
        wanted = GradientWanted(self.space.bitmap(picks), choices, self.examples, seed)
        (taken,) = yield wanted
        if not math.isfinite(taken["kl"]):  # the model has collapsed at x, and no direction leads away
            return best
        tried = []
        for strength in LAMBDAS:
            table = self._gains(picks, near, taken, strength)
            for each in CHANGED:
                most = max(len(picks) // each, 20 // each)
                tried.append(self.space.bitmap(allocated(plan, table, (picks, most))))
        # several settings often lead to the same bitmap
        for score in (yield from self.scored(list(dict.fromkeys(tried)))):
            taken_over = self._is_better(score, best)
            self.note("gradient step", plan, score, taken_over)
            best = score if taken_over else best
        return best

    def refined(self, plans: Sequence[BitmapSpace], rounds: int | None) -> Strategy:
        """Take step 4, one generation per budget in turn, until rounds or new bitmaps are at an end."""
        done, spread, barren = 0, SPREAD, 0
        while rounds is None or done < rounds:
            found = False
            for index, plan in enumerate(plans):
                fresh = self._varied(plan, self.space.encode(self.best[index].bitmap), spread)
                found = found or bool(fresh)
                for score in (yield from self.scored(fresh)):
                    if self._beats(score, self.best[index]):
                        self.best[index] = score
                        self.note("refined", plan, score)
            done += 1
            barren = 0 if found else barren + 1
            spread = SPREAD if found else spread * 2
            if barren > 1:
                return

    def note(self, stage: str, plan: BitmapSpace, score: Score, taken_over: bool = True) -> None:
        """Write a row of the trace."""
        predicted = total(self.damages, self.space.encode(score.bitmap))
        row = {"stage": stage, **{f"limit {name}": value for name, value in plan.limits.items()}, "id": score.bitmap.id}
        value = score.evaluation[self.metric]
        self.context.trace.append(row | {"predicted_damage": predicted, self.metric: value, "taken_over": taken_over})

    def _gains(
        self, picks: Picks, near: Sequence[Sequence[int]], taken: Mapping[str, Any], strength: float
    ) -> list[list[float]]:
        alpha = taken["kl"] / max(total(self.damages, picks), 1e-300)
        table = []
        for unit, pick, allowed, damage in zip(self.space.units, picks, near, self.damages, strict=True):
            changes = [taken["changes"].get(name) for name in unit.sites]
            row = [math.inf] * unit.choices
            row[pick] = 0.0
            # a look-up has no gradient, so its unit stays
            for other in allowed if all(changes) else ():
                if other != pick:
                    first = sum(
                        each[str(self.space.choices[member][other].weight_width)]
                        for each, member in zip(changes, unit.members, strict=True)
                    )
                    row[other] = strength * first + alpha * ((2 * strength - 1) * damage[pick] + damage[other])
            table.append(row)
        return table

    def _varied(self, plan: BitmapSpace, around: Picks, spread: float) -> list[Bitmap]:
        """Return new bitmaps of knapsacks with varied damages, in which the best so far counts as half as harmful."""
        found: dict[Bitmap, None] = {}
        for _ in range(3 * self.size):
            if len(found) == self.size:
                break
            varied = [
                [value * math.exp(self.random.gauss(0.0, spread)) * (0.5 if index == pick else 1.0)
                 for index, value in enumerate(row)]
                for row, pick in zip(self.damages, around, strict=True)
            ]  # fmt: skip
            bitmap = self.space.bitmap(allocated_fast(plan, varied))
            if bitmap not in self.known:
                found[bitmap] = None
        return list(found)

    def _beats(self, new: Score, old: Score) -> bool:
        sign = self.context.primary_metric().sign
        return new.rank(self.metric, sign) > old.rank(self.metric, sign)

    def _is_better(self, new: Score, old: Score) -> bool:
        """Return whether the paired difference is more than two standard errors above zero; without examples, above
        zero.
        """
        metric = "kl" if "kl" in new.evaluation.per_example else self.metric
        if not (new.is_finite and old.is_finite):  # a failed bitmap is worse than all others
            return new.is_finite and not old.is_finite
        if new.violation != old.violation:
            return new.violation < old.violation
        pair = new.evaluation.per_example.get(metric), old.evaluation.per_example.get(metric)
        if pair[0] is None or pair[1] is None or len(pair[0]) < 2:
            return self._beats(new, old)
        sign = self.context.metric_of(metric).sign
        difference = sign * (np.asarray(pair[0]) - np.asarray(pair[1]))
        error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        return float(difference.mean()) > STANDARD_ERRORS * error
