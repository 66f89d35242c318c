"""Sampling that no batch changes: the noise, the choice, and when a choice is safe."""

import math

import pytest
import torch

from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.training import sampling
from qalof.training.sampling import Plan, SamplingRule, Writer, gumbel_noise, pick, random_share

CPU = torch.device("cpu")
WORD = (1 << 64) - 1


def splitmix(word):
    """SplitMix64's finaliser on Python's integers."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def test_the_noise_is_the_hash_of_seed_sample_position_and_token():
    noise = gumbel_noise(7, [(5, 3), (0, 2**33)], 40, CPU)
    for row, (index, position) in enumerate([(5, 3), (0, 2**33)]):
        key = 0
        for part in (7, index, 3, position):
            key = splitmix(((key ^ part) + 0x9E3779B97F4A7C15) & WORD)
        for token in (0, 1, 39):
            share = ((splitmix((key + (token + 1) * 0x9E3779B97F4A7C15) & WORD) >> 11) + 0.5) * 2.0**-53
            assert float(noise[row, token]) == pytest.approx(-math.log(-math.log(share)), rel=1e-12)


def test_the_noise_is_gumbel_and_shares_are_uniform():
    noise = gumbel_noise(0, [(i, 1) for i in range(20)], 10_000, CPU).flatten()
    assert torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
    shares = [random_share(1, index, 2) for index in range(20_000)]
    assert 0 <= min(shares) < 0.001
    assert 0.999 < max(shares) < 1
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (1.0, 3), (2.0, 4)])
def test_tokens_come_as_often_as_the_softmax_says(temperature, top_k):
    logits = torch.tensor([2.0, 1.5, 0.0, 1.0, -1.0, 0.5])
    count = 30_000
    noise = gumbel_noise(3, [(index, 9) for index in range(count)], 6, CPU)
    tokens, _ = pick(logits.expand(count, 6), noise, SamplingRule(temperature, top_k), 0.0)
    kept = logits if top_k == 0 else logits.masked_fill(logits < logits.sort().values[-top_k], -torch.inf)
    expected = (kept / temperature).softmax(0)
    found = torch.bincount(tokens, minlength=6) / count
    # four standard errors of a share
    assert (found - expected).abs().max() < 4 * 0.5 / count**0.5
    assert (found[expected == 0] == 0).all()


@pytest.mark.parametrize("top_k", [0, 1, 5, 20, 100])
@pytest.mark.parametrize("greedy", [False, True])
def test_a_sure_choice_survives_every_small_error_of_the_logits(top_k, greedy):
    torch.manual_seed(0)
    margin, rule = 0.05, SamplingRule(0.7, top_k)
    logits = torch.randn(400, 60)
    noise = gumbel_noise(1, [(i, 0) for i in range(400)], 60, CPU) * (0 if greedy else 1)
    tokens, sure = pick(logits, noise, rule, margin)
    assert 0 < int(sure.sum()) < 400
    for _ in range(20):
        error = (torch.rand(400, 60) - 0.5) * margin * 0.7
        moved, _ = pick(logits + error, noise, rule, 0.0)
        assert torch.equal(moved[sure], tokens[sure])


@pytest.fixture(scope="module")
def model(random_model):
    return load_pretrained(random_model, HeadKind.CAUSAL_LM)


def plans(lengths=(1, 1, 1, 1, 1, 1, 1)):
    return [Plan(i, tuple(range(40 + i, 40 + i + n)), n + 2 + i % 3, 20 + n) for i, n in enumerate(lengths)]


def written(model, these, batch, rule=None, stops=(0,)):
    writer = Writer(model, rule or SamplingRule(), 11, stops)
    found = [text for at in range(0, len(these), batch) for text in writer.write(these[at : at + batch])]
    return found, writer.decided_again


@pytest.mark.parametrize("lengths", [(1,) * 7, (5, 2, 9, 1, 1, 20, 4)], ids=["alike", "padded"])
@pytest.mark.parametrize("rule", [SamplingRule(), SamplingRule(0.7, 5)], ids=["all", "top 5"])
def test_batches_order_padding_and_doubt_change_no_text(model, monkeypatch, lengths, rule):
    these = plans(lengths)
    stops = tuple(range(0, 1500, 7))  # so that texts end early, and at different times
    alone, _ = written(model, these, 1, rule, stops)
    assert len({len(text.ids) - n for text, n in zip(alone, lengths, strict=True)}) > 1
    for batch in (3, 7):
        assert written(model, these, batch, rule, stops)[0] == alone
    backwards, _ = written(model, these[::-1], 4, rule, stops)
    assert backwards[::-1] == alone
    # decided in fp64 throughout: the texts are those of exact arithmetic
    monkeypatch.setattr(sampling, "MARGIN", math.inf)
    exact, again = written(model, these, 7, rule, stops)
    assert exact == alone
    assert again >= sum(len(text.ids) - n for text, n in zip(exact, lengths, strict=True))


def test_the_beginning_is_greedy_and_the_rest_depends_on_seed_and_sample(model):
    (plan, *_) = plans()
    found, _ = written(model, [plan, Plan(99, plan.start, plan.greedy_until, plan.longest)], 2)
    greedy = model.generate(
        input_ids=torch.tensor([plan.start]), attention_mask=torch.ones(1, 1), max_length=12, do_sample=False,
        pad_token_id=0, eos_token_id=0,
    )[0].tolist()  # fmt: skip
    for text in found:
        assert text.ids[: plan.greedy_until] == greedy[: plan.greedy_until]
    assert found[0].ids != found[1].ids
    assert written(model, [Plan(0, plan.start, 12, 12)], 1)[0][0].ids == greedy
    assert written(model, [plan], 1)[0][0] == found[0]


def test_a_stop_ends_a_text_and_is_no_part_of_it(model):
    (plan, *_) = plans()
    whole = written(model, [plan], 1, stops=())[0][0]
    assert (len(whole.ids), whole.ended) == (plan.longest, False)
    stop = whole.ids[9]
    cut = written(model, [plan], 1, stops=(stop,))[0][0]
    assert cut.ended
    assert cut.ids == whole.ids[: whole.ids.index(stop, 1)]


@pytest.mark.parametrize(("rule", "law"), [((0, 0), "temperature"), ((1, -1), "top_k")])
def test_rules_that_are_none(rule, law):
    with pytest.raises(BadInputError, match=law):
        SamplingRule(*rule)
