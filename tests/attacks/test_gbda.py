import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.gbda import (
    Gbda,
    GbdaSettings,
    coefficient_for,
    example_seed,
    gumbel,
    inverse_document_frequency,
    soft_nll,
    soft_recall,
)
from qalof.attacks.result import AttackStatus
from qalof.attacks.victim import Victim as AttackedModel
from qalof.attacks.victim import frozen, margins
from qalof.errors import BadInputError

QUICK = GbdaSettings(iterations=60, batch=4, samples=20, max_length=64, learning_rate=0.5, lambda_lm=0.5)


def attack_of(victim: Any, settings: GbdaSettings) -> Gbda:
    return Gbda(AttackedModel(victim.model, victim.tokenizer, settings.max_length), victim.lm, settings)


def test_the_margin_that_the_optimization_works_on_falls(victim: Any) -> None:
    attack = attack_of(victim, replace(QUICK, lambda_lm=0.0, lambda_sim=0.0, kappa=100.0))
    example = victim.examples[0]
    ids = attack.victim.encode([example.text])[0]
    with frozen(victim.model, victim.lm):
        _, losses = attack.optimize(ids, example.label, torch.Generator().manual_seed(0))
    # with kappa out of reach and no other term the loss is the margin + 100
    assert losses[0] > 100 > losses[-1]


def test_samples_that_are_embedded_once_for_victim_and_language_model_give_the_same_losses(victim: Any) -> None:
    attack = attack_of(victim, replace(QUICK, iterations=3))
    # the fixture's language model has embeddings of its own, so it is given the victim's here
    example = victim.examples[0]
    ids = attack.victim.encode([example.text])[0]
    assert not attack.one_embedding
    attack.lm_embedding = attack.embedding
    found = []
    for attack.one_embedding in (False, True):
        with frozen(victim.model, victim.lm):
            found.append(attack.optimize(ids, example.label, torch.Generator().manual_seed(0))[1])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_one_embedding_is_seen_by_its_values(victim: Any) -> None:
    attack = attack_of(victim, QUICK)
    assert Gbda(attack.victim, copy.deepcopy(attack.victim.model), QUICK).one_embedding


def test_the_first_and_last_token_are_held(victim: Any) -> None:
    attack = attack_of(victim, QUICK)
    ids = attack.victim.encode([victim.examples[0].text])[0]
    generator = torch.Generator().manual_seed(0)
    seen = []

    def objective(pi: torch.Tensor) -> torch.Tensor:
        seen.append(pi[:, [0, -1]].detach())
        return (pi * torch.arange(pi.shape[-1])).mean()

    theta, _ = attack.optimize(ids, 0, generator, objective)
    ends = torch.nn.functional.one_hot(torch.tensor([ids[0], ids[-1]]), len(attack.embedding)).float()
    assert all(torch.equal(rows, ends.expand_as(rows)) for rows in seen)
    samples = attack.hard_samples(torch.zeros_like(theta), ids, generator)
    assert {(row[0], row[-1], len(row)) for row in samples} == {(ids[0], ids[-1], len(ids))}


def test_no_iterations_and_a_large_coefficient_return_the_original(victim: Any) -> None:
    settings = replace(QUICK, iterations=0, coefficient=1e4)
    for result in attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples[:2], 8, settings):
        assert result.status is AttackStatus.FAILED
        assert result.adversarial_text == result.original_text
        assert (result.words_changed, result.wrong_samples, result.losses) == (0, 0, ())
        assert result.queries == 1 + settings.samples


def test_seeds_are_keyed_by_seed_example_and_bitmap() -> None:
    assert len({example_seed(s, e, b) for s in (0, 1) for e in (0, 1) for b in ("8", "4")}) == 8


def test_a_text_of_two_tokens_has_nothing_to_change(victim: Any) -> None:
    attack = attack_of(victim, QUICK)
    for text in ("a", "."):
        label = attack.victim.predict([text])[0]
        result = attack.run(victim.examples[0]._replace(text=text, label=label))
        assert (result.status, result.adversarial_text) == (AttackStatus.FAILED, text)


def test_special_tokens_are_never_drawn_and_stay_where_the_text_has_them(victim: Any) -> None:
    attack = attack_of(victim, QUICK)
    end = victim.tokenizer.eos_token_id
    ids = [5, 7, end, 9]
    theta = attack.initial(ids)
    assert theta[0, end] == -math.inf
    assert theta[1, end] == coefficient_for(len(attack.embedding))
    rows = attack.hard_samples(torch.where(theta == -math.inf, theta, 0.0), ids, torch.Generator().manual_seed(0))
    assert end not in {row[1] for row in rows}


def test_the_rescaled_coefficient_keeps_the_starting_probability() -> None:
    assert coefficient_for(50_257) == 15.0
    for vocabulary in (50_257, 2048, 300):
        odds = math.exp(coefficient_for(vocabulary))
        assert odds / (odds + vocabulary - 1) == pytest.approx(0.98486, abs=1e-5)


def test_the_margin_is_the_lead_over_the_best_other_class() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [3.0, 1.0, 0.0]])
    assert margins(logits, 1).tolist() == [2.0, -2.0]


def test_soft_likelihood_of_one_hot_rows_is_the_mean_nll_of_the_tokens() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[3, 1, 4, 1]])
    log_p = torch.randn(1, 4, 6).log_softmax(-1)
    hard = torch.nn.functional.one_hot(ids, 6).float()
    expected = torch.nn.functional.cross_entropy(log_p[0, :-1], ids[0, 1:])
    assert soft_nll(hard, log_p)[0].item() == pytest.approx(expected.item(), abs=1e-6)


def test_recall_takes_the_best_match_of_each_inner_position_by_weight() -> None:
    reference = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    states = torch.tensor([[[0.0, 1.0], [3.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])  # ends would match, but are dropped
    assert soft_recall(reference, states, torch.ones(4)).item() == pytest.approx((1 + 0.5**0.5) / 2)
    weighted = soft_recall(reference, states, torch.tensor([7.0, 3.0, 1.0, 7.0])).item()
    assert weighted == pytest.approx((3 + 0.5**0.5) / 4)
    assert soft_recall(reference, reference, torch.ones(4)).item() == pytest.approx(1.0)


def test_idf_weighs_by_documents_not_by_occurrences() -> None:
    idf = inverse_document_frequency([[0, 0, 1], [0, 2]], 4)
    assert idf == pytest.approx([0.0, math.log(3 / 2), math.log(3 / 2), math.log(3)])


def test_gumbel_noise_has_the_standard_mean_and_is_finite() -> None:
    noise = gumbel((200_000,), torch.Generator().manual_seed(0))
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)


def test_another_vocabulary_is_refused(victim: Any) -> None:
    with pytest.raises(BadInputError, match="idf must have the victim's"):
        attack_of(victim, replace(QUICK, idf=(1.0, 2.0)))
    with pytest.raises(BadInputError, match="max_length must fit"):
        attack_of(victim, replace(QUICK, max_length=65))
    with pytest.raises(BadInputError, match="samples must be a whole number of at least 1: got 0"):
        GbdaSettings(samples=0)
