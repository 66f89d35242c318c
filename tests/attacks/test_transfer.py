import json
from typing import Any

import numpy as np
import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.goal import GoalFunction
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.rates import Rate
from qalof.attacks.result import AttackResult, AttackStatus
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.report import RobustnessResult, robustness_of
from qalof.attacks.robustness.transfer import (
    DrawTable,
    Population,
    PredictionTable,
    draw_table,
    predicted_success,
    prediction_table,
    transfer_matrix,
)
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError

SITES = ("h.0.attn.c_attn",)


def hand_table() -> PredictionTable:
    """Five inputs of label 0 at the bitmaps 8 and 4; the last is misread at 4 when clean, the fourth at 8."""
    clean = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [0, 1]])
    built_at_8 = np.array([[1, 0], [1, 1], [0, 0], [1, 0], [1, 1]])
    built_at_4 = np.array([[0, 1], [0, 1], [0, 0], [1, 1], [0, 1]])
    return PredictionTable(("8", "4"), np.zeros(5, dtype=np.int64), clean, np.stack([built_at_8, built_at_4]))


def counts(matrix: tuple[tuple[Rate, ...], ...]) -> list[list[tuple[int, int]]]:
    return [[(rate.hits, rate.trials) for rate in row] for row in matrix]


def test_transfer_counts_only_inputs_read_rightly_at_both_bitmaps() -> None:
    # 8 -> 8: inputs 1, 2, 3, 5, wrong 1, 2, 5.  8 -> 4: inputs 1, 2, 3, wrong 2.
    # 4 -> 8: inputs 1, 2, 3, none wrong.  4 -> 4: inputs 1, 2, 3, 4, wrong 1, 2, 4.
    assert counts(transfer_matrix(hand_table())) == [[(3, 4), (1, 3)], [(0, 3), (3, 4)]]


def test_unconditional_transfer_counts_every_input() -> None:
    assert counts(transfer_matrix(hand_table(), Population.ALL)) == [[(4, 5), (2, 5)], [(1, 5), (4, 5)]]


def test_transfer_of_successes_counts_only_attacks_that_worked_where_they_were_built() -> None:
    # built at 8, working on 1, 2, 5: 8 -> 4 counts 1 and 2, wrong on 2; built at 4, on 1, 2, 4: 4 -> 8 counts 1 and 2
    found = counts(transfer_matrix(hand_table(), Population.BROKEN_AT_SOURCE))
    assert found == [[(3, 3), (1, 2)], [(0, 2), (3, 3)]]


def test_predicted_success_is_the_row_mean_weighted_by_the_draws() -> None:
    matrix = transfer_matrix(hand_table())
    uniform = RandomPrecision.of(SITES, (8, 4))
    assert predicted_success(matrix, ("8", "4"), uniform) == pytest.approx(((3 / 4 + 1 / 3) / 2, 3 / 8))
    switching = RandomPrecision.of(SITES, (4,), probability=0.25, baseline=8)
    assert predicted_success(matrix, ("8", "4"), switching) == pytest.approx((0.75 * 3 / 4 + 0.25 / 3, 0.25 * 3 / 4))
    assert predicted_success(matrix, ("8", "4"), RandomPrecision.of(SITES, (8, 6))) == (None, None)
    assert predicted_success(matrix, ("8", "4"), RandomPrecision.of(SITES, (8, 4), granularity="layer")) == (None, None)


def all_right_table(inputs: int, seed: int) -> PredictionTable:
    """Clean texts read rightly everywhere; attacks at random."""
    adversarial = np.random.default_rng(seed).integers(0, 2, (3, inputs, 3))
    return PredictionTable(("8", "6", "4"), np.zeros(inputs, np.int64), np.zeros((inputs, 3), np.int64), adversarial)


def draws_of(table: PredictionTable, columns: np.ndarray) -> DrawTable:
    """What the table says of draws ``columns`` (N, R) of its own bitmaps."""
    rows = np.arange(len(table.labels))[:, None]
    return DrawTable(table.clean[rows, columns], table.adversarial[:, rows, columns])


def test_success_under_independent_draws_is_the_mean_of_the_transfer_matrix() -> None:
    table = all_right_table(40, 0)
    every_width_equally_often = np.tile(np.arange(3), (40, 7))
    report = robustness_of(table, [(RandomPrecision.of(SITES, (8, 6, 4)), draws_of(table, every_width_equally_often))])
    (under,) = report.random_precision
    for row, source in zip(report.transfer, under.sources, strict=True):
        mean = sum(rate.estimate or 0 for rate in row) / 3
        assert source.predicted == pytest.approx(mean)
        assert source.success_mean.estimate == pytest.approx(mean)
    assert under.predicted == pytest.approx(under.success_mean.estimate)


def test_keyed_draws_come_near_the_predicted_success() -> None:
    table = all_right_table(200, 1)
    defense = RandomPrecision.of(SITES, (8, 6, 4))
    column = {name: index for index, name in enumerate(table.bitmaps)}
    columns = np.array([[column[str(defense.bitmap(n, r))] for r in range(20)] for n in range(200)])
    under = robustness_of(table, [(defense, draws_of(table, columns))]).random_precision[0]
    for source in under.sources:
        assert source.success_mean.estimate == pytest.approx(source.predicted, abs=0.04)
        assert (source.success_any.estimate or 0) > (source.success_mean.estimate or 0)


def test_the_clean_control_is_the_clean_error_where_all_widths_agree() -> None:
    labels = np.array([0, 1, 0, 1, 1])
    read = np.array([0, 1, 1, 1, 0])  # two errors in five
    clean = np.repeat(read[:, None], 2, axis=1)
    table = PredictionTable(("8", "4"), labels, clean, np.stack([clean, clean]))
    draws = draws_of(table, np.random.default_rng(0).integers(0, 2, (5, 20)))
    report = robustness_of(table, [(RandomPrecision.of(SITES, (8, 4)), draws)])
    (under,) = report.random_precision
    assert under.clean_any_wrong.estimate == pytest.approx(0.4)
    assert under.clean_accuracy.estimate == pytest.approx(0.6)
    for source in under.sources:  # of inputs that were right, no draw can get one wrong
        assert (source.control_mean.estimate, source.control_any.estimate, source.success_any.estimate) == (0, 0, 0)


def test_the_control_shows_what_the_draws_alone_get_wrong() -> None:
    labels = np.zeros(2, np.int64)
    clean = np.array([[0, 1], [0, 0]])  # the first text falls at 4 bits without any attack
    table = PredictionTable(("8", "4"), labels, clean, np.stack([clean, clean]))
    draws = draws_of(table, np.array([[0, 1, 0, 0], [0, 1, 1, 0]]))
    under = robustness_of(table, [(RandomPrecision.of(SITES, (8, 4)), draws)]).random_precision[0]
    at_8 = under.sources[0]
    assert (at_8.control_mean.hits, at_8.control_mean.trials) == (1, 8)
    assert (at_8.control_any.hits, at_8.control_any.trials) == (1, 2)
    assert (at_8.success_mean.hits, at_8.success_mean.trials) == (0, 7)  # less the draw that clean fails
    assert at_8.success_any == at_8.control_any


def test_recovered_is_the_share_of_draws_that_read_a_working_attack_rightly() -> None:
    table = hand_table()
    draws = draws_of(table, np.tile([0, 1], (5, 2)))
    under = robustness_of(table, [(RandomPrecision.of(SITES, (8, 4)), draws)]).random_precision[0]
    # built at 8, working on inputs 1, 2, 5; 4 bits undo the first alone: 2 of 12 draws
    assert (under.sources[0].recovered.hits, under.sources[0].recovered.trials) == (2, 12)


def test_more_draws_of_the_same_examples_do_not_narrow_the_interval() -> None:
    once = np.array([[True], [False], [True], [False]])
    often = np.repeat(once, 50, axis=1)
    assert (Rate.of(often).low, Rate.of(often).high) == (Rate.of(once).low, Rate.of(once).high)
    assert (Rate.of(often).trials, Rate.of(often).clusters) == (200, 4)
    assert Rate.of(once, np.zeros_like(once)).estimate is None


def test_a_report_survives_json_without_nan() -> None:
    table = hand_table()
    report = robustness_of(table, [(RandomPrecision.of(SITES, (8, 4)), draws_of(table, np.zeros((5, 2), int)))])
    text = json.dumps(report.to_json(), allow_nan=False)
    assert RobustnessResult.from_json(json.loads(text)) == report
    bare = robustness_of(table)
    assert RobustnessResult.from_json(bare.to_json()) == bare
    with pytest.raises(BadInputError, match="version 4: got 1"):
        RobustnessResult.from_json(bare.to_json() | {"version": 1})


def test_shards_join_to_the_whole() -> None:
    table = hand_table()
    parts = [
        PredictionTable(table.bitmaps, table.labels[rows], table.clean[rows], table.adversarial[:, rows])
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert counts(transfer_matrix(PredictionTable.join(parts))) == counts(transfer_matrix(table))


@pytest.fixture(scope="module")
def attacked(victim: Any) -> tuple[list[Bitmap], list[list[AttackResult]]]:
    bitmaps = [Bitmap.uniform(victim.model.site_names, bits) for bits in (8, 3)]
    settings = GbdaSettings(iterations=20, batch=2, samples=10, max_length=64, learning_rate=1.2)
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples)
    return bitmaps, [attack_examples(*args, bitmap, settings) for bitmap in bitmaps]


def judge_of(victim: Any) -> GoalFunction:
    return GbdaSettings(max_length=64).judge(victim.model, victim.tokenizer)


def test_the_table_of_a_model_agrees_with_the_attacks_own_verdicts(victim: Any, attacked: Any) -> None:
    bitmaps, results = attacked
    table = prediction_table(judge_of(victim), results, bitmaps)
    assert (table.clean.shape, table.adversarial.shape) == ((6, 2), (2, 6, 2))
    for i, row in enumerate(results):
        right = [result.status is not AttackStatus.SKIPPED for result in row]
        won = [result.status is AttackStatus.SUCCESS for result in row]
        assert table.clean_right[:, i].tolist() == right
        assert (table.adversarial_wrong[i, :, i] & table.clean_right[:, i]).tolist() == won
    assert str(victim.model.bitmap) == "32"


@pytest.mark.parametrize("granularity", ["request", "layer"])
def test_draws_of_a_model_are_what_each_drawn_bitmap_predicts(victim: Any, attacked: Any, granularity: str) -> None:
    _, results = attacked
    defense = RandomPrecision.of(victim.model.site_names, (8, 3), granularity=granularity)
    draws = draw_table(judge_of(victim), results, defense, 4)
    assert (draws.clean.shape, draws.adversarial.shape) == ((6, 4), (2, 6, 4))
    for n, r in ((0, 0), (3, 2), (5, 3)):
        here = prediction_table(judge_of(victim), results, [defense.bitmap(n, r)] * 2)
        assert draws.clean[n, r] == here.clean[n, 0]
        assert draws.adversarial[:, n, r].tolist() == here.adversarial[:, n, 0].tolist()


def test_random_precision_over_one_width_is_that_fixed_precision(victim: Any, attacked: Any) -> None:
    bitmaps, results = attacked
    table = prediction_table(judge_of(victim), results, bitmaps)
    defense = RandomPrecision.of(victim.model.site_names, (8,))
    draws = draw_table(judge_of(victim), results, defense, 3)
    under = robustness_of(table, [(defense, draws)]).random_precision[0]
    for row, source in zip(transfer_matrix(table), under.sources, strict=True):
        assert source.success_mean.estimate == row[0].estimate


def test_results_over_different_examples_are_refused(victim: Any, attacked: Any) -> None:
    bitmaps, results = attacked
    with pytest.raises(BadInputError, match="same examples in the same order"):
        prediction_table(judge_of(victim), [results[0], results[1][::-1]], bitmaps)
    with pytest.raises(BadInputError, match="at least 1 draw"):
        draw_table(judge_of(victim), results, RandomPrecision.of(SITES, (8,)), 0)
