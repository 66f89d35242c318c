"""What the goals tell of changed texts, by hand and against independent computations."""

from typing import Any

import pytest
import torch

from qalof.attacks.continuation_goal import ContinuationGoal
from qalof.attacks.goal import FAILED, SUCCEEDED, LabelGoal
from qalof.attacks.goals import label_or_continuation
from qalof.attacks.result import AttackExample
from qalof.attacks.victim import Victim
from qalof.errors import BadInputError

TEXT = "We found the film lovely in the evening."


def nats(language: Any, tokenizer: Any, text: str) -> list[tuple[str, float, bool]]:
    """Of each token but the first: its text, NLL and whether it was the likeliest; one forward pass, no batching."""
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        log_p = language(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    rows = zip(ids[1:], log_p[:-1], strict=True)
    return [(tokenizer.decode([token]), -float(row[token]), int(row.argmax()) == token) for token, row in rows]


def test_a_text_that_is_not_changed_has_no_rise(victim: Any, language: Any) -> None:
    goal = ContinuationGoal(language, victim.tokenizer, 64)
    (verdict,) = goal.get_results(TEXT, FAILED, [TEXT])
    assert (verdict.score, verdict.succeeded) == (0.0, False)


def test_the_rise_leaves_out_the_tokens_of_the_changed_words(victim: Any, language: Any) -> None:
    goal = ContinuationGoal(language, victim.tokenizer, 64)
    changed = TEXT.replace("lovely", "Monday")
    (verdict,) = goal.get_results(TEXT, FAILED, [changed])

    def kept(text: str, word: str) -> list[float]:
        start = text.index(word) - 1  # with the space before it
        found, at = [], len(victim.tokenizer.decode(victim.tokenizer(text)["input_ids"][:1]))
        for piece, value, _ in nats(language, victim.tokenizer, text):
            if not start <= at < start + len(word) + 1:
                found.append(value)
            at += len(piece)
        return found

    before, after = kept(TEXT, "lovely"), kept(changed, "Monday")
    assert len(before) == len(after) > 5
    assert verdict.score == pytest.approx(sum(after) / sum(before) - 1, rel=1e-4)


def test_success_begins_at_the_rise_that_was_asked_for(victim: Any, language: Any) -> None:
    changed = TEXT.replace("the film", "a Monday")
    (verdict,) = ContinuationGoal(language, victim.tokenizer, 64).get_results(TEXT, FAILED, [changed])
    assert verdict.score > 0
    for factor, broken in ((0.99, True), (1.01, False)):
        goal = ContinuationGoal(language, victim.tokenizer, 64, verdict.score * factor)
        assert goal.get_results(TEXT, FAILED, [changed])[0].succeeded is broken
        example = AttackExample(0, TEXT, FAILED)
        assert goal.answers([example], [[TEXT, changed, TEXT]]) == [[FAILED, SUCCEEDED if broken else FAILED, FAILED]]


def test_texts_are_scored_alike_alone_and_together(victim: Any, language: Any) -> None:
    goal = ContinuationGoal(language, victim.tokenizer, 64)
    texts = [TEXT.replace("film", word) for word in ("play", "room", "an unknown thing")] + [TEXT[:20]]
    together = goal.get_results(TEXT, FAILED, texts)
    for text, verdict in zip(texts, together, strict=True):
        assert goal.get_results(TEXT, FAILED, [text])[0].score == pytest.approx(verdict.score, abs=1e-6)


def test_words_left_out_are_aligned(victim: Any, language: Any) -> None:
    goal = ContinuationGoal(language, victim.tokenizer, 64)
    shorter = TEXT.replace(" lovely", "")
    measures = goal.measures(TEXT, shorter)
    tokens = nats(language, victim.tokenizer, shorter)
    assert measures["nll_after"] == pytest.approx(sum(value for _, value, _ in tokens) / len(tokens), rel=1e-4)
    assert measures["accuracy_after"] == pytest.approx(sum(hit for *_, hit in tokens) / len(tokens))


def test_words_beyond_the_longest_length_play_no_part(victim: Any, language: Any) -> None:
    goal = ContinuationGoal(language, victim.tokenizer, 5)
    longer = f"{TEXT} And more of it."
    assert goal.read(longer) == goal.read(TEXT)
    assert goal.get_results(goal.read(TEXT), FAILED, [longer])[0].score == pytest.approx(0.0, abs=1e-6)


def test_a_classifiers_damage_and_importance_are_those_of_its_probabilities(victim: Any) -> None:
    goal = LabelGoal(Victim(victim.model, victim.tokenizer, 64))
    example = victim.examples[1]
    changed = example.text
    for good, bad in (("good", "bad"), ("great", "awful"), ("lovely", "dull"), ("fine", "poor")):
        changed = changed.replace(good, bad)
    p = goal.victim.logits([example.text, changed]).double().softmax(-1)
    verdict, same = goal.get_results(example.text, 1, [changed, example.text])
    assert verdict.score == pytest.approx(float(1 - p[1, 1]))
    # it flips to label 0, whose gain counts as well
    assert verdict.succeeded
    assert verdict.importance == pytest.approx(float(p[0, 1] - p[1, 1] + p[1, 0] - p[0, 0]))
    assert (same.succeeded, same.importance) == (False, 0.0)
    assert same.score == pytest.approx(float(1 - p[0, 1]))


def test_the_head_chooses_the_goal(victim: Any, language: Any) -> None:
    assert isinstance(label_or_continuation(victim.model, victim.tokenizer, 64, 0.1), LabelGoal)
    assert isinstance(label_or_continuation(language, victim.tokenizer, 64, 0.1), ContinuationGoal)
    with pytest.raises(BadInputError, match="above 0: got 0"):
        label_or_continuation(language, victim.tokenizer, 64, 0.0)
