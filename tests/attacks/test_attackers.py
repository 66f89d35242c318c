"""Four attackers on tables made by hand."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.robustness.attackers import ATTACKERS, AttackerResult, attackers_of, comparisons_of, misread
from qalof.attacks.robustness.transfer import DrawTable, PredictionTable

N, R = 40, 6


def results(bitmap: str, statuses: np.ndarray, queries: int) -> list[AttackResult]:
    names = {True: AttackStatus.SUCCESS, False: AttackStatus.SKIPPED}
    return [
        AttackResult.of(
            AttackExample(n, "a b", 0), "x", bitmap, names[bool(statuses[n])], "a b", "a c", queries=queries, seed=0,
            measures={"similarity": n / N},
        )
        for n in range(N)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def case() -> tuple[list[list[AttackResult]], list[AttackResult], DrawTable]:
    rng = np.random.default_rng(0)
    attacked = rng.random((3, N)) < 0.8
    sources = [results(bitmap, attacked[i], 10 * (i + 1)) for i, bitmap in enumerate(("8", "4"))]
    chance = np.array([0.2, 0.5, 0.7])[:, None, None]
    draws = DrawTable((rng.random((N, R)) < 0.1).astype(np.int64), (rng.random((3, N, R)) < chance).astype(np.int64))
    return sources, results("mean over 8,4", attacked[2], 60), draws


def test_each_attacker_is_what_it_says(case) -> None:
    sources, adaptive, draws = case
    found = attackers_of(sources, adaptive, draws)
    assert tuple(each.attacker for each in found) == ATTACKERS
    random, worst, mean, retry = found
    wrong, clean = draws.adversarial == 1, draws.clean == 0
    attacked = [np.array([r.status is AttackStatus.SUCCESS for r in row]) for row in (*sources, adaptive)]
    by_source = [(wrong[i] & clean)[attacked[i]].sum() / clean[attacked[i]].sum() for i in range(3)]
    assert worst.success.estimate == pytest.approx(max(by_source[:2]))
    assert worst.source == "4"
    trials = [clean[attacked[i]].sum() for i in range(2)]
    pooled = sum(r * t for r, t in zip(by_source[:2], trials, strict=True)) / sum(trials)
    assert random.success.estimate == pytest.approx(pooled)
    assert random.success.clusters <= N, "draws and sources of one text are one cluster"
    assert mean.success.estimate == pytest.approx(by_source[2])
    assert retry.success.estimate == pytest.approx(wrong[2][attacked[2]].any(axis=1).mean())
    assert retry.control.estimate == pytest.approx((~clean)[attacked[2]].any(axis=1).mean())
    assert mean.control.estimate == pytest.approx((~clean)[attacked[2]].mean())
    assert retry.accuracy.estimate == pytest.approx(1 - wrong[2].any(axis=1).mean())


def test_a_retrying_attacker_pays_for_his_tries_until_one_works(case) -> None:
    _, worst, mean, retry = attackers_of(*case)
    assert (worst.queries, mean.queries) == (20, 60)
    attacked = [r.status is AttackStatus.SUCCESS for r in case[1]]
    tries = [next((d + 1 for d in range(R) if row[d]), R) for row in case[2].adversarial[2].tolist()]
    expected = 60 + np.mean([t for t, one in zip(tries, attacked, strict=True) if one])
    assert retry.queries == pytest.approx(expected)


def test_success_at_similarity_never_exceeds_success_and_json_keeps_it(case) -> None:
    for each in attackers_of(*case):
        rates = [each.success.estimate, *(rate.estimate for rate in each.similar.values())]
        assert rates == sorted(rates, reverse=True)
        assert AttackerResult.from_json(json.loads(json.dumps(asdict(each)))) == each


def test_comparisons_are_paired_over_all_examples_and_attacks_differ_from_nothing(case) -> None:
    _, _, draws = case
    labels = np.zeros(N, dtype=np.int64)
    fixed = np.random.default_rng(3).random((2, N, 2)) < 0.9
    table = PredictionTable(("8", "4"), labels, np.zeros((N, 2), dtype=np.int64), fixed.astype(np.int64))
    values = misread(table, draws)
    found = {(each.first, each.second): each for each in comparisons_of(values)}
    assert all(each.examples == N for each in found.values())
    assert found["adaptive", "clean"].adjusted_p < 0.01
    assert found["adaptive", "fixed 8"].difference.estimate == pytest.approx(
        (draws.adversarial[2] == 1).mean() - fixed[0, :, 0].mean()
    )
    assert np.array_equal(values["retrying"], (draws.adversarial[2] == 1).any(axis=1))
    assert all(each.p <= each.adjusted_p for each in found.values())


def test_table_and_comparisons_have_the_same_worst_source(case) -> None:
    _, adaptive, _ = case
    rng = np.random.default_rng(5)
    for _ in range(10):
        attacked = rng.random((2, N)) < rng.random((2, 1))
        sources = [results(bitmap, attacked[i], 10) for i, bitmap in enumerate(("8", "4"))]
        wrong = (rng.random((3, N, R)) < rng.random((3, 1, 1))).astype(np.int64)
        draws = DrawTable((rng.random((N, R)) < 0.3).astype(np.int64), wrong)
        table = PredictionTable(("8", "4"), np.zeros(N, dtype=np.int64), draws.clean[:, :2], wrong[:2, :, :2])
        _, worst, _, _ = attackers_of(sources, adaptive, draws)
        assert 1 - worst.accuracy.estimate == pytest.approx(misread(table, draws)["worst_source"].mean())
