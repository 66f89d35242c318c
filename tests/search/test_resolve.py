"""As many examples are scored as show a difference, chosen from the measured noise."""

import math

import numpy as np
import pytest

import search
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.resolve import pair_of, resolve

OBJECTIVES = ("min:weight_bytes", "min:loss")


class Noisy:
    """Losses about 4 whose paired differences have a deviation of ``noise``."""

    at_once, limit = 1, None

    def __init__(self, sites, noise):
        self.sites, self.noise, self.seen = sites, noise, []

    def evaluate(self, bitmaps, limit=None):
        self.seen += [(bitmap, limit) for bitmap in bitmaps]
        common = np.random.default_rng(0).normal(4.0, 2.0, limit)
        return [self._one(bitmap, common, seed) for seed, bitmap in enumerate(bitmaps)]

    def _one(self, bitmap, common, seed):
        rows = common + seed * np.random.default_rng(1).normal(0.0, self.noise, len(common))
        return Evaluation({"loss": float(common.mean())}, len(common), {"loss": rows.tolist()})


@pytest.fixture
def space(sites):
    return search.BitmapSpace.of(sites, weight=(2, 4, 8), activation=(8,), kv=None)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("noise", [0.05, 0.4, 1.5])
def test_the_number_of_examples_is_the_least_that_shows_the_difference_at_two_standard_errors(space, share, noise):
    evaluator = Noisy(space.sites, noise)
    found = resolve(space, evaluator, OBJECTIVES, share, pilot=200)
    assert found.metric == "loss"
    assert [limit for _, limit in evaluator.seen] == [200, 200]
    assert found.deviation == pytest.approx(noise / 4.0, rel=0.15)
    assert found.resolved <= share or found.examples == 2
    assert found.examples == 2 or 2 * found.deviation / math.sqrt(found.examples - 1) > share
    assert "and not the" not in found.text


def test_where_there_are_too_few_examples_all_are_scored_and_it_is_said(space):
    found = resolve(space, Noisy(space.sites, 1.5), OBJECTIVES, 0.01, most=50)
    assert found.examples == 50
    assert found.resolved > 0.01
    assert found.text.startswith("50 examples are scored, on which a difference of ")
    assert "and not the 1 % that were asked for" in found.text


@pytest.mark.parametrize("limits", [{}, {"average_bits": 2.0 + 1e-9}, {"average_bits": 4.5}], ids=str)
def test_the_two_bitmaps_differ_and_are_within_the_limits(sites, limits):
    space = search.BitmapSpace.of(sites, weight=(2, 4, 8), activation=(8,), kv=None).within(limits)
    if limits.get("average_bits", 9) < 2.1:
        with pytest.raises(BadInputError, match="two bitmaps"):
            pair_of(space, 0)
        return
    first, second = pair_of(space, 0)
    assert first != second
    assert space.fits(first)
    assert space.fits(second)


@pytest.mark.parametrize(
    ("objectives", "share", "said"),
    [(OBJECTIVES, 0.0, "between 0 and 1"), (OBJECTIVES, 2.0, "0.02 is 2 %"), (("min:weight_bytes",), 0.02, "all objec"),
     (("max:accuracy",), 0.02, "at least two examples with a score each")],
)  # fmt: skip
def test_what_cannot_be_resolved_is_refused(space, objectives, share, said):
    with pytest.raises(BadInputError, match=said):
        resolve(space, Noisy(space.sites, 1.0), objectives, share)
