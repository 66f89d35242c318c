"""Attackers who know that the precision is drawn: what they average, what they pay, and what they may not know."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from qalof.attacks.attack import attack_examples
from qalof.attacks.continuation_goal import ContinuationGoal
from qalof.attacks.goal import LabelGoal
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.victim import classifier
from qalof.errors import BadInputError

WORDS: dict[str, Any] = {
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=64),
    "bert-attack": BertAttackSettings(candidates=12, max_length=64),
}
GBDA = GbdaSettings(iterations=6, batch=2, samples=4, max_length=64)


def knows(model: Any, widths: tuple[int, ...] = (3, 8), draws: int | None = None, **others: Any) -> Expectation:
    combine = others.pop("combine", "mean")
    return Expectation(RandomPrecision.of(model.site_names, widths, **others), draws, combine)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("draws", [1, 3])
def test_the_mean_over_one_precision_is_the_attack_there_and_k_draws_cost_k_times_the_queries(
    victim: Any, name: str, draws: int
) -> None:
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples[:3])
    fixed = attack_examples(*args, 4, WORDS[name])
    adaptive = attack_examples(*args, knows(victim.model, (4,), draws), WORDS[name])
    assert any(result.queries > 1 for result in fixed)
    for one, other in zip(fixed, adaptive, strict=True):
        assert other.queries == draws * one.queries
        assert replace(other, queries=one.queries, bitmap="4", losses=()) == replace(one, losses=())
        assert other.losses == pytest.approx(one.losses)


def test_gbda_pays_for_every_draw_too(victim: Any) -> None:
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples[:2])
    fixed = attack_examples(*args, 8, GBDA)
    adaptive = attack_examples(*args, knows(victim.model, (8, 4)), GBDA)
    assert [result.queries for result in adaptive] == [2 * result.queries for result in fixed]


def test_a_gradient_attack_minimizes_the_mean_of_the_losses_over_the_set(victim: Any) -> None:
    model, example = victim.model, victim.examples[0]
    ids = victim.tokenizer(example.text)["input_ids"]
    pi = torch.softmax(torch.randn(2, len(ids), len(victim.tokenizer), generator=torch.manual_seed(0)) * 3, -1)

    def loss(precisions: Expectation | None, bitmap: int) -> torch.Tensor:
        attack = GBDA.build(model, victim.tokenizer, victim.lm, 0, precisions)
        with model.at(bitmap), torch.no_grad():
            return attack.objective(ids, example.label)(pi)

    mean = loss(knows(model, (3, 8)), 32)
    torch.testing.assert_close(mean, (loss(None, 3) + loss(None, 8)) / 2)


def test_probabilities_are_averaged_and_votes_are_counted(victim: Any) -> None:
    model, texts = victim.model, [example.text for example in victim.examples]
    alone = []
    for width in (2, 3, 8):
        with model.at(width):
            alone.append(classifier(model, victim.tokenizer, 64).logits(texts).double().softmax(-1))
    expected = torch.stack(alone)
    given = [
        classifier(model, victim.tokenizer, 64, knows(model, (2, 3, 8), combine=how)).logits(texts).softmax(-1)
        for how in ("mean", "majority")
    ]
    torch.testing.assert_close(given[0], expected.mean(0))
    votes = torch.nn.functional.one_hot(expected.argmax(-1), 2).double().mean(0)
    torch.testing.assert_close(given[1], votes, atol=1e-9, rtol=0)


def test_a_language_model_s_nll_is_averaged_word_by_word(victim: Any, language: Any) -> None:
    text = victim.examples[0].text
    alone = []
    for width in (3, 8):
        with language.at(width):
            alone.append(ContinuationGoal(language, victim.tokenizer, 64)._readings([text])[0])
    (mean,) = ContinuationGoal(language, victim.tokenizer, 64, precisions=knows(language))._readings([text])
    assert mean.nats == pytest.approx([(a + b) / 2 for a, b in zip(alone[0].nats, alone[1].nats, strict=True)])
    assert (mean.words, mean.tokens) == (alone[0].words, alone[0].tokens)


def test_the_attacker_s_draws_are_his_own_and_depend_on_example_and_step_alone(victim: Any) -> None:
    defense = RandomPrecision.of(victim.model.site_names, range(2, 17), granularity="layer", seed=7)
    attacker = Expectation(defense, 4)
    keys = [(example, step) for example in range(5) for step in range(5)]
    drawn = {key: attacker.at(*key) for key in keys}
    assert {key: Expectation(defense, 4).at(*key) for key in reversed(keys)} == drawn
    bitmaps = {bitmap for drawing in drawn.values() for bitmap, _ in drawing}
    assert len(bitmaps) == 4 * len(keys), "every step draws afresh"
    assert not bitmaps & {defense.bitmap(example, draw) for example in range(50) for draw in range(20)}
    assert all(sum(weight for _, weight in drawing) == pytest.approx(1) for drawing in drawn.values())


@pytest.mark.parametrize("name", [*WORDS, "gbda"])
def test_results_do_not_depend_on_the_order_of_examples(victim: Any, name: str) -> None:
    settings = {**WORDS, "gbda": GBDA}[name]
    attacker = knows(victim.model, (3, 4, 8), 2, granularity="layer")
    args = (victim.model, victim.lm, victim.tokenizer)
    forth = attack_examples(*args, victim.examples[:3], attacker, settings)
    back = attack_examples(*args, victim.examples[:3][::-1], attacker, settings)
    assert back[::-1] == forth
    assert str(victim.model.bitmap) == "32"


def test_the_weights_of_a_baseline_are_those_of_the_defense(victim: Any) -> None:
    defense = RandomPrecision.of(victim.model.site_names, (4, 8), probability=0.5, baseline=32)
    weights = {str(bitmap): weight for bitmap, weight in Expectation(defense).at(0, 0)}
    assert weights == pytest.approx({"4": 0.25, "8": 0.25, "32": 0.5})
    assert Expectation(defense).passes == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: knows(model, granularity="layer"), "too many bitmaps to average over all: give draws"),
        (lambda model: knows(model, draws=0), "draws must be a whole number of at least 1"),
        (lambda model: knows(model, combine="median"), "combine must be mean or majority: got 'median'"),
    ],
)
def test_an_impossible_mean_is_refused(victim: Any, make: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make(victim.model)


def test_a_goal_without_precisions_reads_at_the_model_s_bitmap(victim: Any) -> None:
    goal = LabelGoal(classifier(victim.model, victim.tokenizer, 64))
    with victim.model.at(4):
        assert (goal.bitmap, goal.queries_per_text) == ("4", 1)
