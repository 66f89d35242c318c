"""A success counts where the text still means what it did: similarity at several thresholds, and true labels."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qalof.attacks.meaning import THRESHOLDS, Meaning, success_by_similarity
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus, summarize
from qalof.attacks.robustness.transfer import prediction_table
from qalof.bitmap import Bitmap
from qalof.tiny.reviews import LABELS, OPINIONS, make_reviews, true_label


class ByLength:
    name = "by length"

    def of(self, reference: str, texts: Any) -> list[float]:
        return [len(text) / len(reference) for text in texts]


def result(status: AttackStatus, found: str, label: int = 1, **measures: float) -> AttackResult:
    example = AttackExample(0, "the food was superb", label)
    return AttackResult.of(example, "x", "8", status, example.text, found, queries=3, seed=0, measures=measures)


def test_the_generator_s_rule_gives_every_review_its_own_label() -> None:
    reviews = make_reviews(random.Random(5), 600)
    assert [true_label(review.text) for review in reviews] == [review.label for review in reviews]


@pytest.mark.parametrize("word", OPINIONS)
def test_the_rule_follows_the_sign_and_strength_of_an_opinion(word: str) -> None:
    sign = int(OPINIONS[word] > 0)
    assert true_label(f"The food was {word}.") == sign
    assert true_label(f"The food was not {word}.") == 1 - sign
    weak = abs(OPINIONS[word]) * 0.5 < 1
    assert true_label(f"The food was slightly {word}.") == (None if weak else sign)


def test_a_success_whose_true_label_changed_is_counted_apart_and_others_are_left() -> None:
    judge = Meaning(None, true_label)
    kept = judge.judged(result(AttackStatus.SUCCESS, "the food was brilliant"))
    turned = judge.judged(result(AttackStatus.SUCCESS, "the food was awful"))
    undecided = judge.judged(result(AttackStatus.SUCCESS, "the food was paper"))
    failed = judge.judged(result(AttackStatus.FAILED, "the food was awful"))
    skipped = result(AttackStatus.SKIPPED, "the food was superb")
    assert [each.status for each in (kept, turned, undecided, failed, judge.judged(skipped))] == [
        AttackStatus.SUCCESS, AttackStatus.LABEL_CHANGED, AttackStatus.LABEL_CHANGED, AttackStatus.FAILED,
        AttackStatus.SKIPPED,
    ]  # fmt: skip
    assert judge.judged(skipped) == skipped
    summary = summarize([kept, turned, undecided, failed, skipped])
    assert (summary.success_rate.estimate, summary.label_changed.estimate) == (0.25, 0.5)
    assert summary.after_attack_accuracy.estimate == 0.6, "a text with another label fooled nobody"
    assert AttackResult.from_json(turned.to_json()) == turned
    assert len(LABELS) == 2


def test_tables_read_the_original_in_place_of_a_text_whose_true_label_changed() -> None:
    judged = [
        Meaning(None, true_label).judged(result(AttackStatus.SUCCESS, f"the food was {w}")) for w in ("kind", "bad")
    ]
    assert [each.valid_text for each in judged] == ["the food was kind", "the food was superb"]

    class Judge:
        def __init__(self) -> None:
            self.read: list[str] = []
            self.model: Any = self

        def answers(self, examples: Any, rows: Any) -> Any:
            self.read += [text for row in rows for text in row]
            return [[1] * len(row) for row in rows]

        def __getattr__(self, name: str) -> Any:
            from contextlib import nullcontext

            return {"parameters": list, "training": False, "at": nullcontext, "set_bitmap": lambda b: None}[name]

    judge = Judge()
    table = prediction_table(judge, [[replace(judged[1], bitmap="8")]], [Bitmap.uniform(("a",), 8)])  # type: ignore[arg-type]
    assert "the food was bad" not in judge.read
    assert not np.any(table.adversarial_wrong)


def test_success_by_similarity_never_rises_with_the_threshold_and_begins_below_all_successes() -> None:
    rng = random.Random(0)
    results = [
        result(rng.choice([AttackStatus.SUCCESS, AttackStatus.FAILED]), "x", similarity=rng.uniform(0.5, 1))
        for _ in range(40)
    ]
    rates = [rate.estimate for rate in success_by_similarity(results).values()]
    assert list(success_by_similarity(results)) == list(THRESHOLDS)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] <= summarize(results).success_rate.estimate
    assert success_by_similarity([result(AttackStatus.SUCCESS, "x")]) == {}


def test_every_judged_text_has_a_similarity_and_the_name_of_its_judge() -> None:
    judged = Meaning(ByLength()).judged(result(AttackStatus.SUCCESS, "the food"))
    assert judged.measures["similarity"] == len("the food") / len("the food was superb")
    assert judged.substitutes["meaning"] == "by length"
    assert judged.status is AttackStatus.SUCCESS
