"""Finalists are scored on other examples, and the answer may be that no mixed bitmap is better."""

import pytest

import search
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.judge import judge

BUDGETS = [{"average_bits": 5.0}, {"average_bits": 6.0}]


@pytest.fixture(scope="module")
def space(sites):
    return search.BitmapSpace.of(sites, weight=(2, 4, 8), activation=(8,), kv=None)


class Other:
    """Other examples of the same model, on which every mixed bitmap is better by ``gain`` than a uniform one."""

    at_once, limit = 1, None

    def __init__(self, sites, gain, noise=0.5):
        self.sites, self.gain, self.noise, self.seen = sites, gain, noise, []

    def fingerprint(self):
        return "other"

    def evaluate(self, bitmaps, limit=None):
        self.seen += bitmaps
        return [self._evaluate(bitmap) for bitmap in bitmaps]

    def _evaluate(self, bitmap):
        gain = 0.0 if bitmap.is_uniform else self.gain
        rows = [50.0 + 10 * (i % 3) + gain + (0 if bitmap.is_uniform else self.noise * (-1) ** i) for i in range(40)]
        return Evaluation({"f1": sum(rows) / 40}, 40, {"f1": rows})


@pytest.fixture(scope="module")
def result(space, make_evaluator):
    return search.run(
        space, make_evaluator(space.sites), ("f1", "weight_bytes"), "guided", 40, options={"budgets": [5.0, 6.0]}
    )


def test_finalists_are_the_best_of_their_budget_as_the_search_chose_them(space, result):
    found = judge(result, Other(space.sites, 1.0), BUDGETS)
    for one in found.finalists:
        within = [p for p in result.points if p.cost.average_bits <= one.budget["average_bits"]]
        best = {
            u: max((p for p in within if p.bitmap.is_uniform is u), key=lambda p: p.values[0]) for u in (True, False)
        }
        assert one.mixed.bitmap == best[False].bitmap
        assert one.uniform.bitmap == best[True].bitmap


@pytest.mark.parametrize(("gain", "shown"), [(1.0, True), (0.0, False), (-1.0, False)])
def test_the_answer_is_that_of_the_other_examples(space, result, gain, shown):
    found = judge(result, Other(space.sites, gain), BUDGETS)
    assert all(one.is_shown is shown for one in found.finalists)
    assert all(one.gain.estimate == pytest.approx(gain) for one in found.finalists)
    assert all(one.gain.low <= gain <= one.gain.high for one in found.finalists)
    assert found.text.startswith("A mixed bitmap beats" if shown else "No mixed bitmap is shown to beat")
    assert "2 comparisons" in found.text
    assert [row["is_shown"] for row in found.rows()] == [shown] * 2


def test_no_bitmap_is_evaluated_twice(space, result):
    other = Other(space.sites, 1.0)
    judge(result, other, BUDGETS + BUDGETS)
    assert len(set(other.seen)) == len(other.seen) <= 4


@pytest.mark.parametrize(
    ("budgets", "said"),
    [([], "at least one budget"), ([{"average_bits": 2.0}], "a mixed bitmap within each budget")],
)
def test_what_cannot_be_judged_is_refused(space, result, budgets, said):
    with pytest.raises(BadInputError, match=said):
        judge(result, Other(space.sites, 1.0), budgets)
