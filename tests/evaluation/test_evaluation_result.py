"""Intervals of losses and perplexities, by hand."""

import json
import math

import pytest

from orchestrate.jobs.shared.compare import first_examples
from orchestrate.jobs.shared.scores import rows
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation, token_scores
from qalof.site import Site
from qalof.statistics import Interval

SUMS, TOKENS = [1.0, 6.0], [1, 3]
"""Two examples of 1 and 2 nats a token: 7/4 together, and of four equally likely resamples one is of either alone."""


@pytest.fixture
def evaluation() -> Evaluation:
    exponents = {"perplexity": 1.0, "word_perplexity": 1.5}
    metrics = {"loss": 1.75, "perplexity": math.exp(1.75), "word_perplexity": math.exp(1.5 * 1.75)}
    scores = {"loss": token_scores(SUMS, TOKENS)}
    return Evaluation(metrics, 2, scores, weights={"loss": TOKENS}, exponents=exponents)


def test_scores_have_the_loss_a_token_as_their_mean():
    assert token_scores(SUMS, TOKENS) == [0.5, 3.0]


def test_a_loss_has_a_ratios_interval_and_a_perplexity_its_exponential(evaluation):
    assert evaluation.interval("loss") == Interval(1.75, 1.0, 2.0)
    assert evaluation.interval("perplexity") == Interval(math.exp(1.75), math.exp(1.0), math.exp(2.0))
    assert evaluation.interval("word_perplexity") == Interval(math.exp(2.625), math.exp(1.5), math.exp(3.0))


def test_rows_of_results_have_the_intervals_and_the_file_gives_them_back(evaluation):
    read = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert read == evaluation
    (row,) = rows([Bitmap.uniform(["h.0"], 8)], [read], [Site("h.0", 8, 8, True, None)])
    assert row["metrics"]["loss"] == [1.75, 1.0, 2.0]
    assert row["metrics"]["perplexity"] == [math.exp(1.75), math.exp(1.0), math.exp(2.0)]


def test_an_evaluation_written_without_weights_keeps_its_scores_and_has_perplexities_without_width():
    old = Evaluation.from_json({"metrics": {"loss": 1.0, "perplexity": math.e}, "examples": 2})
    assert old.interval("perplexity") == Interval(math.e, math.e, math.e)


def test_a_perplexity_that_is_no_float_has_the_largest_as_its_bound():
    huge = Evaluation(
        {"loss": 1e6, "perplexity": math.exp(700.0)}, 1, {"loss": [1e6]}, {}, {"loss": [1]}, {"perplexity": 1.0}
    )
    assert huge.interval("perplexity") == Interval(*[math.exp(700.0)] * 3)


def test_the_first_examples_have_their_own_loss_a_token(evaluation):
    first = first_examples(evaluation, 1)
    assert first["loss"] == 1.0
    assert first.interval("loss") == Interval(1.0, 1.0, 1.0)
