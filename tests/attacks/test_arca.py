"""ARCA and its relatives on a small trained language model, against computations that share no code with them."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from qalof.attacks.attack import attack_examples
from qalof.attacks.elicitation import Elicitation, allowed_tokens
from qalof.attacks.goal import FAILED, SUCCEEDED
from qalof.attacks.methods.arca import Arca, ArcaSettings
from qalof.attacks.methods.coordinate_search import CoordinateSearch, Proposal
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import prediction_table
from qalof.attacks.victim import frozen
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel

QUICK = ArcaSettings(candidates=8, sweeps=6, tokens=3)
# by example id, which with the seed decides where a search begins
TARGETS = {0: " film good", 2: " window.", 3: " Monday"}
EXAMPLES = [AttackExample(n, "", FAILED, target) for n, target in TARGETS.items()]


@pytest.fixture(scope="module")
def language(victim: Any) -> SwitchableModel:
    # in float64, where a search takes the same turns on every processor
    lm = copy.deepcopy(victim.lm).double()
    return SwitchableModel.of(lm, BaseModel("in memory", HeadKind.CAUSAL_LM), {})


@pytest.fixture(scope="module", params=list(Proposal))
def attacked(request: pytest.FixtureRequest, victim: Any, language: Any) -> tuple[ArcaSettings, list[AttackResult]]:
    settings = replace(QUICK, proposal=request.param, sweeps=60 if request.param == Proposal.GCG else QUICK.sweeps)
    return settings, attack_examples(language, None, victim.tokenizer, EXAMPLES, 8, settings)


def search_for(victim: Any, language: Any, settings: ArcaSettings, example: AttackExample) -> CoordinateSearch:
    return Arca(Elicitation(language, victim.tokenizer, settings.max_length), settings).search(example)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def terms(language: Any, prompt: list[int], target: list[int]) -> tuple[float, float]:
    """log p(target | prompt) and the prompt's mean NLL, one token at a time, each by a pass of its own."""

    def log_p(before: list[int], token: int) -> float:
        with torch.no_grad():
            logits = language(input_ids=torch.tensor([before])).logits[0, -1].double()
        return float(logits[token] - logits.logsumexp(-1))

    said = sum(log_p([*prompt, *target[:n]], token) for n, token in enumerate(target))
    nll = -sum(log_p(prompt[:n], prompt[n]) for n in range(1, len(prompt))) / (len(prompt) - 1)
    return said, nll


def continuation(language: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding, by hand."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(language(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_a_success_makes_the_model_say_the_target_and_a_failure_does_not(
    victim: Any, language: Any, attacked: Any
) -> None:
    language.set_bitmap(8)
    for result in attacked[1]:
        target = ids_of(victim.tokenizer, result.target)
        said = continuation(language, ids_of(victim.tokenizer, result.adversarial_text), len(target))
        assert (said == target) == (result.status is not AttackStatus.FAILED), result
    language.set_bitmap(32)


def test_the_searches_find_prompts(attacked: Any) -> None:
    # the model has learned sentences of one form by heart, so that few outputs can follow three tokens
    assert AttackStatus.SUCCESS in [result.status for result in attacked[1]]


def test_the_objective_never_falls(attacked: Any) -> None:
    for result in attacked[1]:
        assert list(result.losses) == sorted(result.losses, reverse=True)
        assert result.measures["log_probability"] == -result.losses[-1]


@pytest.mark.parametrize("monotone", [True, False])
def test_only_without_monotone_a_worse_prompt_is_taken(victim: Any, language: Any, monotone: bool) -> None:
    search = search_for(victim, language, replace(QUICK, monotone=monotone), EXAMPLES[1])
    with frozen(language):
        (high, row), (low, other) = sorted(
            zip(search.read([[80, 3, 200], [70, 5, 9]]), ([80, 3, 200], [70, 5, 9]), strict=True), reverse=True
        )
        search.proposals = lambda index, row: [other]  # type: ignore[method-assign]
        taken, reading = search.step(0, row, high)
    assert low.objective < high.objective
    assert (taken, reading.objective) == (
        (row, high.objective) if monotone else (other, pytest.approx(low.objective, rel=1e-5))
    )


def test_the_exact_terms_are_those_of_one_pass_a_token(victim: Any, language: Any) -> None:
    example = AttackExample(0, "We found", FAILED, " the room")
    settings = replace(QUICK, lambda_lm=0.7)
    search = search_for(victim, language, settings, example)
    rows = [[*ids_of(victim.tokenizer, "We found"), *drawn] for drawn in ((3, 80, 200), (70, 5, 9), (300, 300, 300))]
    with frozen(language):
        readings = search.read(rows)
    target = ids_of(victim.tokenizer, example.target)
    for row, reading in zip(rows, readings, strict=True):
        said, nll = terms(language, row, target)
        assert reading.log_probability == pytest.approx(said, rel=1e-4)
        assert reading.nll == pytest.approx(nll, rel=1e-4)
        assert reading.objective == pytest.approx(said - 0.7 * nll, rel=1e-4)
        assert reading.elicits == (continuation(language, row, len(target)) == target)
    assert search.queries == 3


def knows(language: Any, widths: tuple[int, ...], draws: int | None = None, **others: Any) -> Expectation:
    return Expectation(RandomPrecision.of(language.site_names, widths, **others), draws)


def search_over(victim: Any, language: Any, settings: ArcaSettings, precisions: Expectation) -> CoordinateSearch:
    attack = settings.build(language, victim.tokenizer, None, 0, precisions)
    attack.goal.victim.begin(EXAMPLES[1].id)
    return attack.search(EXAMPLES[1])


def test_the_objective_and_its_gradient_are_means_over_the_precisions(victim: Any, language: Any) -> None:
    settings, weights = replace(QUICK, lambda_lm=0.7), {"2": 0.5, "8": 0.25, "32": 0.25}
    over = knows(language, (8, 32), probability=0.5, baseline=2)
    rows = [[80, 3, 200], [70, 5, 9]]
    search, alone = search_over(victim, language, settings, over), search_for(victim, language, settings, EXAMPLES[1])
    with frozen(language):
        readings, scores = search.read(rows), search.scores(rows[:1], search.places)
        found = {}
        for bits in weights:
            with language.at(bits):
                found[bits] = alone.read(rows), alone.scores(rows[:1], search.places)
    for index, reading in enumerate(readings):
        for name in ("objective", "log_probability", "nll"):
            mean = sum(weight * getattr(found[bits][0][index], name) for bits, weight in weights.items())
            assert getattr(reading, name) == pytest.approx(mean, rel=1e-9)
    torch.testing.assert_close(scores, sum(weight * found[bits][1] for bits, weight in weights.items()))
    # two prompts and one gradient, at each of three precisions
    assert search.queries == 3 * (2 + 1)


def test_a_prompt_found_over_precisions_is_said_by_most_of_them(victim: Any, language: Any) -> None:
    results = attack_examples(language, None, victim.tokenizer, EXAMPLES, knows(language, (8, 4, 3)), QUICK)
    goal = Elicitation(language, victim.tokenizer, 32)
    for result in results:
        said = 0
        for bits in (8, 4, 3):
            with language.at(bits):
                said += goal.elicits(result.adversarial_text, result.target)
        assert (said >= 2) == (result.status is not AttackStatus.FAILED)
    assert AttackStatus.SUCCESS in [result.status for result in results]
    assert results[0].bitmap == knows(language, (8, 4, 3)).name


def test_the_mean_over_one_precision_is_the_search_there_but_for_its_own_draws(victim: Any, language: Any) -> None:
    (result,) = attack_examples(language, None, victim.tokenizer, EXAMPLES[1:2], knows(language, (8,), draws=2), QUICK)
    goal = Elicitation(language, victim.tokenizer, 32)
    with language.at(8):
        assert goal.elicits(result.adversarial_text, result.target) == (result.status is not AttackStatus.FAILED)
    assert list(result.losses) == sorted(result.losses, reverse=True)


def test_all_prompts_of_a_step_meet_the_same_draws(victim: Any, language: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_over(victim, language, QUICK, knows(language, (2, 3, 8), draws=1, granularity="layer"))
    met: list[str] = []
    read = CoordinateSearch._read
    monkeypatch.setattr(
        CoordinateSearch, "_read", lambda self, rows: met.append(str(language.bitmap)) or read(self, rows)
    )
    row = [80, 3, 200]
    with frozen(language):
        (first,) = search.read([row])
        for index in range(3):
            row, first = search.step(index, row, first)
    # one reading of the beginning and one per step, each at a draw of its own, proposals and the present prompt alike
    assert len(met) == len(set(met)) == 4


def test_the_gradient_term_is_the_derivative_of_the_objective_along_an_embedding(victim: Any, language: Any) -> None:
    example, place, h = AttackExample(0, "", FAILED, " the room"), 1, 1e-2
    row = ids_of(victim.tokenizer, "We found the")
    search = search_for(victim, language, QUICK, example)
    target = ids_of(victim.tokenizer, example.target)
    embedding = victim.lm.get_input_embeddings().weight.detach().double()
    victim.lm.double()  # for differences

    def objective(change: torch.Tensor) -> float:
        embedded = embedding[[*row, *target]].clone()
        embedded[place] += change
        with torch.no_grad():
            log_p = victim.lm(inputs_embeds=embedded[None]).logits[0].log_softmax(-1)
        return sum(float(log_p[len(row) - 1 + n, token]) for n, token in enumerate(target))

    try:
        slopes = [(objective(h * embedding[v]) - objective(-h * embedding[v])) / (2 * h) for v in (5, 80, 200, 301)]
    finally:
        victim.lm.float()
    with frozen(language):
        (scores,) = search.scores([row], [place])
    assert [float(scores[v]) for v in (5, 80, 200, 301)] == pytest.approx(slopes, rel=2e-2, abs=1e-3)


def test_what_a_token_costs_in_fluency_is_in_its_score_exactly(victim: Any, language: Any) -> None:
    # with the target's weight taken out by a difference: score at lambda minus score at 0 is linear in lambda, and at
    # the last place, after which the prompt ends, it is log p(v | before) / (n - 1) and nothing else
    example = AttackExample(0, "", FAILED, " the room")
    row = ids_of(victim.tokenizer, "We found the")
    place = len(row) - 1
    with frozen(language):
        with_it = search_for(victim, language, replace(QUICK, lambda_lm=2.0), example).scores([row], [place])[0]
        without = search_for(victim, language, QUICK, example).scores([row], [place])[0]
        log_p = language(input_ids=torch.tensor([row[:place]])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(with_it - without, 2.0 * log_p / (len(row) - 1), atol=1e-4)


def test_averaging_over_random_tokens_is_a_mean_of_single_gradients(victim: Any, language: Any) -> None:
    search = search_for(victim, language, replace(QUICK, lambda_lm=1.0), EXAMPLES[1])
    rows = [[80, token, 200] for token in (3, 90, 310)]
    with frozen(language):
        together = search.scores(rows, [1])
        alone = torch.stack([search.scores([row], [1]) for row in rows]).mean(0)
    assert torch.allclose(together, alone, atol=1e-4)


def test_forbidden_tokens_never_appear(victim: Any, attacked: Any) -> None:
    end = victim.tokenizer.eos_token_id
    for result in attacked[1]:
        forbidden = {end, *ids_of(victim.tokenizer, result.target)}
        assert not forbidden & {*ids_of(victim.tokenizer, result.adversarial_text)}
        assert not forbidden & {*ids_of(victim.tokenizer, result.original_text)}


def test_tokens_that_resemble_a_word_of_the_target_are_forbidden(victim: Any) -> None:
    tokenizer, size = victim.tokenizer, len(victim.tokenizer)
    target = " windows"
    ids = ids_of(tokenizer, target)
    allowed = set(allowed_tokens(tokenizer, size + 3, ids, target))
    out = {tokenizer.decode([token]) for token in range(size) if token not in allowed}
    assert " window" in out  # what the target begins with
    assert {tokenizer.decode([token]) for token in ids} <= out
    assert all(len(text.strip()) > 3 or tokenizer.encode(text)[0] in ids for text in out if text != "<|endoftext|>")
    assert max(allowed) < size
    longer = allowed_tokens(tokenizer, size, ids_of(tokenizer, " Win"), " Win")
    assert " window" not in {tokenizer.decode([token]) for token in longer}  # what begins like it, in whatever case
    with pytest.raises(BadInputError, match="got none"):
        allowed_tokens(tokenizer, 3, [0, 1, 2], "abc")


def test_every_prompt_is_what_its_text_is_tokenized_to(victim: Any, attacked: Any) -> None:
    settings, results = attacked
    for result in results:
        for text in (result.original_text, result.adversarial_text):
            assert len(ids_of(victim.tokenizer, text)) == settings.tokens


def test_proposals_that_their_text_does_not_spell_are_dropped_and_counted(victim: Any, language: Any) -> None:
    search = search_for(victim, language, replace(QUICK, candidates=100), AttackExample(1, "", FAILED, " the room"))
    row = ids_of(victim.tokenizer, " found the room")
    with frozen(language):
        rows = search.proposals(0, row)
    assert search.unspelt > 0
    assert len(rows) == 100
    assert all(ids_of(victim.tokenizer, victim.tokenizer.decode(each)) == each != row for each in rows)


def test_a_prefix_is_kept_and_the_start_is_alike_at_every_bitmap(victim: Any, language: Any) -> None:
    example = EXAMPLES[1]._replace(text="We found the")
    settings = replace(QUICK, lambda_lm=1.0)
    by_bitmap = {
        bitmap: attack_examples(language, None, victim.tokenizer, [example], bitmap, settings)[0]
        for bitmap in ("32", "4", "w4a8")
    }
    assert all(r.adversarial_text.startswith("We found the") for r in by_bitmap.values())
    assert all(len(ids_of(victim.tokenizer, r.adversarial_text)) == 3 + 3 for r in by_bitmap.values())
    assert len({r.original_text for r in by_bitmap.values()}) == 1
    assert by_bitmap["32"].original_text.startswith("We found the")
    other = attack_examples(language, None, victim.tokenizer, [example], 32, settings, seed=1)[0]
    assert other.original_text != by_bitmap["32"].original_text


def test_results_depend_on_seed_example_and_bitmap_alone(victim: Any, language: Any, attacked: Any) -> None:
    settings, results = attacked
    again = attack_examples(language, None, victim.tokenizer, EXAMPLES[:2][::-1], 8, settings)
    assert again[::-1] == results[:2]


def test_the_record_is_whole_and_survives_json(attacked: Any) -> None:
    settings, results = attacked
    for result, example in zip(results, EXAMPLES, strict=True):
        assert (result.example_id, result.label, result.target) == (example.id, FAILED, example.target)
        assert (result.attack, result.bitmap, result.seed) == (str(settings.proposal), "8", 0)
        assert AttackResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_every_prompt_that_the_model_reads_is_a_query(victim: Any, language: Any) -> None:
    read = 0

    def count(module: Any, args: Any, named: dict[str, Any]) -> None:
        nonlocal read
        read += len(named["input_ids"] if named.get("input_ids") is not None else named["inputs_embeds"])

    hook = language.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        for proposal in Proposal:
            read, settings = 0, replace(QUICK, proposal=proposal, sweeps=2)
            (result,) = attack_examples(language, None, victim.tokenizer, EXAMPLES[:1], 8, settings)
            assert result.queries == read
            if result.status is AttackStatus.FAILED:
                assert read <= 2 + sum(settings.work(5))
    finally:
        hook.remove()


def test_bitmap_gradients_and_modes_are_left_as_they_were(victim: Any, language: Any) -> None:
    language.set_bitmap("w4a8")
    language.train()
    attack_examples(language, None, victim.tokenizer, EXAMPLES[:1], 4, replace(QUICK, sweeps=1))
    assert (str(language.bitmap), language.training) == ("w4a8", True)
    assert all(p.grad is None for p in language.parameters())
    language.eval()
    language.set_bitmap(32)


def test_the_judge_answers_by_what_the_model_says_at_each_bitmap(victim: Any, language: Any) -> None:
    bitmaps = [Bitmap.parse(width, language.site_names) for width in ("8", "2")]
    results = [attack_examples(language, None, victim.tokenizer, EXAMPLES, bitmap, QUICK) for bitmap in bitmaps]
    table = prediction_table(QUICK.judge(language, victim.tokenizer), results, bitmaps)
    assert table.clean.shape == (len(EXAMPLES), 2)
    for j, bitmap in enumerate(bitmaps):
        language.set_bitmap(bitmap)
        for n, example in enumerate(EXAMPLES):
            target = ids_of(victim.tokenizer, example.target)
            for text, answer in (
                (results[0][n].original_text, table.clean[n, j]),
                *((results[i][n].adversarial_text, table.adversarial[i, n, j]) for i in range(2)),
            ):
                said = continuation(language, ids_of(victim.tokenizer, text), len(target))
                assert answer == (SUCCEEDED if said == target else FAILED)
    language.set_bitmap(32)
    wrong = table.adversarial_wrong
    assert wrong[0, :, 0].tolist() == [result.status is not AttackStatus.FAILED for result in results[0]]
    assert (wrong[0, :, 0] != wrong[0, :, 1]).any()  # two bits say something else


def test_a_target_that_the_first_prompt_elicits_is_skipped(victim: Any, language: Any) -> None:
    example = EXAMPLES[0]
    (first,) = attack_examples(language, None, victim.tokenizer, [example], 32, QUICK)
    said = continuation(language, ids_of(victim.tokenizer, first.original_text), 1)
    lucky = example._replace(target=victim.tokenizer.decode(said))
    attack = Arca(Elicitation(language, victim.tokenizer, 32), QUICK)
    # the target takes part in what may be drawn, so that the prompt is put there
    attack.start = lambda search, example: ids_of(victim.tokenizer, first.original_text)  # type: ignore[method-assign]
    result = attack.run(lucky)
    assert (result.status, result.queries, result.words_changed) == (AttackStatus.SKIPPED, 1, 0)
    assert result.adversarial_text == result.original_text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 0}, "tokens.*at least 1: got 0"),
        ({"candidates": 0}, "candidates.*at least 1"),
        ({"lambda_lm": -1.0}, "lambda_lm.*-1"),
        ({"lambda_lm": float("nan")}, "lambda_lm.*nan"),
        ({"proposal": "autopromt"}, "autopromt.*autoprompt"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        replace(QUICK, **change)


def test_what_cannot_be_attacked_is_refused(victim: Any, language: Any) -> None:
    with pytest.raises(BadInputError, match="causal LM.*classifier"):
        QUICK.judge(victim.model, victim.tokenizer)
    with pytest.raises(BadInputError, match="max_length"):
        replace(QUICK, max_length=65).judge(language, victim.tokenizer)
    with pytest.raises(BadInputError, match="fit in max_length 4: got 3"):
        attack_examples(language, None, victim.tokenizer, EXAMPLES[:1], 8, replace(QUICK, max_length=4))
    with pytest.raises(BadInputError, match="at least 1 token: got ''"):
        attack_examples(language, None, victim.tokenizer, [AttackExample(0, "", FAILED)], 8, QUICK)
