"""What every attack owes; a new one adds its settings to ATTACKS."""

import json
from dataclasses import replace
from typing import Any

import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackResult, AttackStatus
from qalof.attacks.victim import Victim

ATTACKS: dict[str, Any] = {
    "gbda": GbdaSettings(iterations=60, batch=4, samples=20, max_length=64, learning_rate=0.5, lambda_lm=0.5),
    # a vocabulary this small has no synonyms: any word may stand for any
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=64),
    "bert-attack": BertAttackSettings(candidates=12, max_length=64),
}
DRAWING = {"gbda"}
"""Those that use their seed; the others are deterministic whatever it is."""


@pytest.fixture(scope="module", params=ATTACKS)
def attacked(request: pytest.FixtureRequest, victim: Any) -> tuple[Any, list[AttackResult]]:
    settings = ATTACKS[request.param]
    seen: list[AttackResult] = []
    results = attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples, 8, settings, seen.append)
    assert seen == results
    return settings, results


def test_a_small_trained_classifier_is_mostly_broken(attacked: Any) -> None:
    statuses = [result.status for result in attacked[1]]
    assert statuses.count(AttackStatus.SKIPPED) <= 1
    assert statuses.count(AttackStatus.SUCCESS) >= 4


def test_a_success_is_misread_when_classified_again_alone(victim: Any, attacked: Any) -> None:
    victim.model.set_bitmap(8)
    for result in attacked[1]:
        predicted = Victim(victim.model, victim.tokenizer, 64).predict([result.adversarial_text])[0]
        assert (predicted != result.label) == (result.status is not AttackStatus.FAILED)
    victim.model.set_bitmap(32)


def test_the_record_is_whole_and_survives_json(victim: Any, attacked: Any) -> None:
    _, results = attacked
    for result, example in zip(results, victim.examples, strict=True):
        assert (result.example_id, result.original_text, result.label, result.target) == example
        assert (result.bitmap, result.seed) == ("8", 0)
        assert (result.words_changed > 0) == (result.adversarial_text != result.original_text)
        assert 0 <= result.wrong_samples <= result.samples <= result.queries
        assert AttackResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_results_depend_on_seed_example_and_bitmap_alone(victim: Any, attacked: Any) -> None:
    settings, results = attacked
    args = (victim.model, victim.lm, victim.tokenizer)
    assert attack_examples(*args, victim.examples[:2][::-1], 8, settings)[::-1] == results[:2]
    (other,) = attack_examples(*args, victim.examples[:1], 8, settings, seed=1)
    assert (replace(other, seed=0) != results[0]) == (other.attack in DRAWING)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_wrongly_labeled_example_is_skipped_with_one_query(victim: Any, name: str) -> None:
    example = victim.examples[0]._replace(label=1 - victim.examples[0].label)
    (result,) = attack_examples(victim.model, victim.lm, victim.tokenizer, [example], 32, ATTACKS[name])
    assert (result.status, result.queries, result.words_changed) == (AttackStatus.SKIPPED, 1, 0)
    assert result.adversarial_text == result.original_text


@pytest.mark.parametrize("name", ATTACKS)
def test_bitmap_gradients_and_modes_are_left_as_they_were(victim: Any, name: str) -> None:
    victim.model.set_bitmap("w4a8")
    victim.model.train()
    before = {path: p.requires_grad for path, p in victim.model.named_parameters()}
    assert any(before.values())
    attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples[:1], 4, ATTACKS[name])
    assert str(victim.model.bitmap) == "w4a8"
    assert victim.model.training
    assert {path: p.requires_grad for path, p in victim.model.named_parameters()} == before
    assert all(p.grad is None for p in (*victim.model.parameters(), *victim.lm.parameters()))
    victim.model.eval()
    victim.model.set_bitmap(32)
