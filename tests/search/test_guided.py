"""``guided``: the best bitmap per budget where damages add up, measured once, and errors before any work."""

import itertools

import pytest

import search
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.layer_bits import KeyValueWidth, read_kv
from qalof.site import KvLayout
from qalof.site_cost import kv_bytes
from search.measurement import GradientWanted, ScoresWanted
from search.scores.table import ScoreTable

OBJECTIVES = ("min:loss", "min:weight_bytes")
BOTH = KvLayout(2, 4, ((8, 16), (16, 24)))


@pytest.fixture(scope="module")
def space(plain_sites):
    return search.BitmapSpace.of(plain_sites, weight=(2, 3, 4, 8), activation=(8,), kv=None)


def run(space, evaluator, **options):
    return search.run(space, evaluator, OBJECTIVES, "guided", None, options=options)


def least_loss(space, evaluator, budget):
    bitmaps = (space.bitmap(picks) for picks in itertools.product(*(range(unit.choices) for unit in space.units)))
    within = [bitmap for bitmap in bitmaps if space.cost(bitmap).average_bits <= budget]
    return min(evaluation["loss"] for evaluation in evaluator.evaluate(within))


def test_where_damages_add_up_the_best_bitmap_of_every_budget_is_found(space, make_evaluator):
    sensitivity = {"h.0.a": 1.0, "h.0.b": 30.0, "h.1.a": 5.0}
    budgets = [2.5, 3.0, 4.0, 5.5]
    result = run(space, make_evaluator(space.sites, sensitivity), budgets=budgets)
    for budget in budgets:
        best = least_loss(space, make_evaluator(space.sites, sensitivity), budget)
        assert result.best(average_bits=budget).values[0] == pytest.approx(best)


@pytest.mark.parametrize("strategy", ["guided", "evolutionary"])
def test_under_a_limit_on_the_cache_keys_get_the_bits_where_they_need_them_and_values_where_they_do(
    sites, make_evaluator, strategy
):
    harm = {"h.0.attn.c_attn": {"keys": 9.0, "values": 1.0}, "h.1.attn.c_attn": {"keys": 1.0, "values": 7.0}}

    def damage(site, width):
        return sum(harm[site][p] * 2.0**-bits for p, bits in zip(("keys", "values"), BOTH.widths(width), strict=True))

    class Evaluator(make_evaluator):
        def measure(self, wanted):
            if not isinstance(wanted, ScoresWanted):
                return super().measure(wanted)
            values = {"kv": {site: {w: damage(site, read_kv(w)) for w in wanted.choices["kv"]} for site in harm}}
            return ScoreTable(wanted.score, "nats", "", values).to_json()

        def _evaluate(self, bitmap):
            return Evaluation({"loss": sum(damage(site, bitmap[site].kv) for site in harm)}, 1)

    limits = {"kv_bytes_per_token": 2 * kv_bytes(sites[0], KeyValueWidth(8, 4))}
    menu = {"weight": (8,), "activation": (8,), "kv": (4, 8, "k8v4", "k4v8")}
    objectives = ("min:loss", "min:kv_bytes_per_token")
    space = search.BitmapSpace.of(sites, **menu, limits=limits)
    every = [space.bitmap(picks) for picks in itertools.product(*(range(unit.choices) for unit in space.units))]
    expected = min(filter(space.fits, every), key=lambda b: sum(damage(site, b[site].kv) for site in harm))
    assert space.cost(expected).kv_bytes_per_token == limits["kv_bytes_per_token"]
    result = search.run(space, Evaluator(sites), objectives, strategy, 40 if strategy != "guided" else None)
    best = result.best(**limits)
    assert [str(best.bitmap[site].kv) for site in harm] == ["k8v4", "k4v8"]
    assert best.bitmap == expected


def test_one_table_serves_all_budgets_and_gradients_are_taken_below_step_below_alone(space, make_evaluator):
    evaluator = make_evaluator(space.sites)
    run(space, evaluator, budgets=[2.5, 3.5, 6.0], step_below=4.0)
    tables = [wanted for wanted in evaluator.measured if isinstance(wanted, ScoresWanted)]
    gradients = [wanted for wanted in evaluator.measured if isinstance(wanted, GradientWanted)]
    assert len(tables) == 1
    assert len(gradients) == 2
    assert all(space.cost(wanted.bitmap).average_bits < 4.0 for wanted in gradients)
    assert all(wanted.seed != tables[0].seed for wanted in gradients)


def test_what_was_measured_stands_in_the_record_and_is_not_measured_again(space, make_evaluator, tmp_path):
    storage = tmp_path / "search.jsonl"
    first, again = make_evaluator(space.sites), make_evaluator(space.sites)
    options = {"budgets": [2.5, 3.5]}
    one = search.run(space, first, OBJECTIVES, "guided", None, storage=storage, options=options)
    more = {"budgets": [2.5, 3.5, 5.0]}
    two = search.run(space, again, OBJECTIVES, "guided", None, storage=storage, options=more)
    assert first.measured
    assert not [wanted for wanted in again.measured if wanted.key in {done.key for done in first.measured}]
    assert not set(again.seen) & set(first.seen)
    assert {point.bitmap for point in one.points} <= {point.bitmap for point in two.points}


def test_the_limits_of_a_space_are_the_budget_where_none_is_given(space, make_evaluator):
    result = search.run(
        space,
        make_evaluator(space.sites),
        OBJECTIVES,
        "guided",
        None,
        limits={"average_bits": 3.4, "weight_bytes": 200},
    )
    assert all(point.cost.average_bits <= 3.4 and point.cost.weight_bytes <= 200 for point in result.points)


def test_a_likelihood_is_not_refined_and_other_metrics_are(space, make_evaluator):
    evaluator = make_evaluator(space.sites)
    loss = run(space, evaluator, budgets=[3.5])
    f1 = search.run(space, make_evaluator(space.sites), ("max:f1",), "guided", 30, options={"budgets": [3.5]})
    assert len(loss.points) < len(f1.points) <= 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budgets": [1.0]}, "limit on average_bits must be within reach"),
        ({"budgets": []}, "at least one value"),
        ({"budget_of": "wieght_bytes", "budgets": [1e6]}, "did you mean 'weight_bytes'"),
        ({"budgets": [-1.0]}, "budgets"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(space, make_evaluator, options, said):
    evaluator = make_evaluator(space.sites)
    with pytest.raises(BadInputError, match=said):
        run(space, evaluator, **options)
    assert not evaluator.seen
    assert not evaluator.measured


def test_an_evaluator_that_cannot_measure_is_refused_with_a_way_out(space, make_evaluator):
    class Plain:
        sites, limit, at_once = space.sites, None, 1

        def evaluate(self, bitmaps, limit=None):
            raise AssertionError("nothing is evaluated")

        def fingerprint(self):
            return "plain"

    with pytest.raises(BadInputError, match="take another strategy"):
        run(space, Plain())


def test_further_gradient_steps_start_from_the_better_bitmap_on_fresh_examples_and_end_where_none_is_better(
    space, make_evaluator
):
    class Misled(make_evaluator):
        """An evaluator whose table is wrong and whose gradients are right."""

        def measure(self, wanted):
            taken = super().measure(wanted)
            if isinstance(wanted, ScoresWanted):
                for row in taken["values"]["weight"].values():
                    row.update({width: -value for width, value in row.items()})
            return taken

    evaluator = Misled(space.sites, {"h.0.a": 1.0, "h.0.b": 30.0, "h.1.a": 5.0}, per_example=False)
    result = run(space, evaluator, budgets=[3.4], steps=4, step_below=9.0)
    gradients = [wanted for wanted in evaluator.measured if isinstance(wanted, GradientWanted)]
    taken = [row for row in result.trace if row["stage"] == "gradient step" and row["taken_over"]]
    assert 1 <= len(gradients) <= 4
    assert len({wanted.seed for wanted in gradients}) == len(gradients)
    assert len({wanted.bitmap for wanted in gradients}) == len(gradients)
    assert len(taken) >= len(gradients) - 1
