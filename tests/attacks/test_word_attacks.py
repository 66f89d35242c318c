"""The search that TextFooler and BERT-Attack share, on goals made by hand, and both on small trained victims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.continuation_goal import ContinuationGoal
from qalof.attacks.goal import FAILED, GoalFunctionResult
from qalof.attacks.methods.bert_attack import BertAttack, BertAttackSettings, mask_of
from qalof.attacks.methods.substitution import Swap, WordAttack, WordAttackSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.substitutes.stop_words import is_stop_word
from qalof.attacks.words import Words
from qalof.errors import BadInputError

SETTINGS: dict[str, Any] = {
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=64),
    "bert-attack": BertAttackSettings(candidates=12, max_length=64),
}


class Weighed:
    """Damage is the sum of what the words weigh; from ``enough`` on the victim is broken."""

    model: Any = None
    bitmap = "32"
    queries_per_text = 1
    protected: frozenset[str] = frozenset()

    def begin(self, example: int) -> None:
        self.seen = []

    def __init__(self, weights: Mapping[str, float], enough: float) -> None:
        self.weights, self.enough = weights, enough
        self.seen: list[str] = []

    def read(self, text: str) -> str:
        return text

    def lost(self, original: str, label: int) -> bool:
        self.seen.append(original)
        return False

    def get_results(self, original: str, label: int, texts: Sequence[str]) -> list[GoalFunctionResult]:
        self.seen += [text for text in texts if text != original]
        found = [sum(self.weights.get(word, 0.0) for word in text.split()) for text in texts]
        return [GoalFunctionResult(damage, damage, damage >= self.enough) for damage in found]

    def measures(self, original: str, found: str) -> Mapping[str, float]:
        return {}

    def answers(self, examples: Any, rows: Any) -> Any:
        raise NotImplementedError


class Listed(WordAttack):
    """Candidates, each with its similarity, as listed; at least 0.5 is similar enough."""

    name = "listed"

    def __init__(self, goal: Any, candidates: Mapping[str, Mapping[str, float]], **settings: Any) -> None:
        super().__init__(goal, WordAttackSettings(**settings), {"synonyms": "listed"})
        self.listed = candidates

    def hidden(self, words: Words, index: int) -> str:
        return words.without(index)

    def candidates(self, original: Words, index: int) -> list[str]:
        return list(self.listed.get(original.words[index], {}))

    def similar(self, original: Words, current: Words, index: int, swapped: Sequence[Words]) -> list[Swap]:
        scores = [self.listed[original.words[index]][words.words[index]] for words in swapped]
        return [Swap(words, score) for words, score in zip(swapped, scores, strict=True) if score >= 0.5]


def attack(
    text: str,
    weights: Mapping[str, float],
    candidates: Mapping[str, Mapping[str, float]],
    enough: float = 100.0,
    **settings: Any,
) -> tuple[AttackResult, Weighed]:
    goal = Weighed(weights, enough)
    result = Listed(goal, candidates, **settings).run(AttackExample(0, text, 0))
    assert result.queries == len(goal.seen)
    return result, goal


def test_words_are_tried_in_the_order_of_what_their_absence_does() -> None:
    weights = {"plum": -1.0, "fig": -3.0, "pear": -2.0}
    _, goal = attack("plum the fig pear", weights, {word: {"nut": 1.0} for word in weights})
    hidden, tried = goal.seen[1:4], goal.seen[4:]
    assert hidden == ["the fig pear", "plum the pear", "plum the fig"]
    assert tried == ["plum the nut pear", "plum the nut nut", "nut the nut nut"]


def test_stop_words_are_neither_asked_about_nor_replaced_nor_put_in() -> None:
    result, goal = attack("The fig", {"the": 9.0, "a": 9.0}, {"The": {"a": 1.0}, "fig": {"the": 1.0}}, 5.0)
    assert goal.seen == ["The fig", "The"]
    assert (result.status, result.adversarial_text) == (AttackStatus.FAILED, "The fig")


def test_of_those_that_break_the_victim_the_most_similar_is_taken_and_the_rest_left_alone() -> None:
    weights = {"fig": -2.0, "nut": 5.0, "date": 6.0, "lime": 4.0}
    swaps = {"fig": {"lime": 0.9, "nut": 0.7, "date": 0.6}, "plum": {"nut": 1.0}}
    result, _ = attack("a fig, no, fig and plum", weights, swaps, 4.5)
    assert (result.status, result.words_changed) == (AttackStatus.SUCCESS, 1)
    # lime alone is the most similar, but does not break; date does the most damage
    assert result.adversarial_text == "a fig, no, nut and plum"
    assert result.losses == (5.0,)


def test_without_a_break_the_largest_damage_stays_if_it_is_more_than_before() -> None:
    weights = {"fig": -2.0, "nut": 1.0, "date": 3.0, "plum": -1.0, "pear": -4.0}
    swaps = {"fig": {"nut": 1.0, "date": 0.5}, "plum": {"pear": 1.0}}
    result, _ = attack("fig plum", weights, swaps)
    assert (result.status, result.adversarial_text) == (AttackStatus.FAILED, "date plum")
    assert result.losses == (2.0,)


def test_what_is_not_similar_enough_is_never_shown_to_the_victim() -> None:
    result, goal = attack("fig", {"nut": 9.0}, {"fig": {"nut": 0.49}}, 5.0)
    assert (result.status, result.adversarial_text) == (AttackStatus.FAILED, "fig")
    assert "nut" not in goal.seen
    assert attack("fig", {"nut": 9.0}, {"fig": {"nut": 0.5}}, 5.0)[0].status is AttackStatus.SUCCESS


def test_antonyms_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "antonyms.tsv").write_text("nut\tfig\n", encoding="utf-8")
    kept, _ = attack("Fig", {"nut": 9.0, "date": 8.0}, {"Fig": {"nut": 1.0, "date": 0.6}}, 5.0)
    dropped, _ = attack(
        "Fig",
        {"nut": 9.0, "date": 8.0},
        {"Fig": {"nut": 1.0, "date": 0.6}},
        5.0,
        antonyms=str(tmp_path / "antonyms.tsv"),
    )
    assert (kept.adversarial_text, dropped.adversarial_text) == ("nut", "date")


def test_bert_attack_changes_at_most_two_words_in_five() -> None:
    settings = BertAttackSettings()
    proposer = SimpleNamespace(name="nuts", candidates=lambda words, index: ["nut"])
    alike = SimpleNamespace(name="alike", of=lambda text, texts: [1.0] * len(texts))
    for count, most in ((1, 0), (2, 0), (3, 1), (9, 3), (10, 4)):
        goal = Weighed({"nut": 1.0}, 99.0)
        text = " ".join(f"fig{number}" for number in range(count))
        result = BertAttack(goal, settings, proposer, alike, None).run(AttackExample(0, text, 0))  # type: ignore[arg-type]
        assert result.words_changed == most


def test_a_mask_is_a_token_that_says_no_more_than_that() -> None:
    def tokenizer(mask: str | None, unknown: str | None) -> Any:
        return SimpleNamespace(mask_token=mask, unk_token=unknown, eos_token="</s>")

    assert mask_of(tokenizer("[MASK]", "[UNK]")) == "[MASK]"
    assert mask_of(tokenizer(None, "<unk>")) == "<unk>"
    assert mask_of(tokenizer(None, "</s>")) is None
    assert mask_of(tokenizer(None, None)) is None


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("text", ["", " ", "...", "film", "the"])
def test_texts_with_next_to_nothing_in_them_are_no_error(victim: Any, language: Any, name: str, text: str) -> None:
    for model in (victim.model, language):
        (result,) = attack_examples(
            model, victim.lm, victim.tokenizer, [AttackExample(0, text, label := FAILED)], 32, SETTINGS[name]
        )
        assert result.label == label
        if result.status is not AttackStatus.SUCCESS:
            assert result.words_changed == len(result.losses)
        if text != "film":
            assert result.adversarial_text == result.original_text


@pytest.mark.parametrize("name", SETTINGS)
def test_a_filter_that_nothing_passes_fails_on_the_text_as_it_was(victim: Any, name: str) -> None:
    text = victim.examples[0].text + " " + victim.examples[0].text  # long enough for TextFooler's filter
    settings = replace(SETTINGS[name], least_similarity=1.0)
    (result,) = attack_examples(
        victim.model, victim.lm, victim.tokenizer, [AttackExample(0, text, victim.examples[0].label)], 32, settings
    )
    assert (result.status, result.adversarial_text, result.words_changed) == (AttackStatus.FAILED, text, 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_stop_word_of_a_text_is_changed(victim: Any, name: str) -> None:
    for result in attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples, 8, SETTINGS[name]):
        before, after = Words.of(result.original_text), Words.of(result.adversarial_text)
        assert before.gaps == after.gaps
        for word, other in zip(before.words, after.words, strict=True):
            assert word == other or not (is_stop_word(word) or is_stop_word(other))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_language_model_is_broken_by_a_rise_over_words_that_were_not_touched(
    victim: Any, language: Any, name: str
) -> None:
    examples = [replace_label(example) for example in victim.examples[:3]]
    results = attack_examples(language, victim.lm, victim.tokenizer, examples, 32, SETTINGS[name])
    goal = ContinuationGoal(language, victim.tokenizer, 64)
    assert [result.status for result in results].count(AttackStatus.SUCCESS) >= 2
    for result in results:
        measured = result.measures["nll_after"] / result.measures["nll_before"] - 1
        (verdict,) = goal.get_results(result.original_text, FAILED, [result.adversarial_text])
        assert verdict.score == pytest.approx(measured)
        assert (result.status is AttackStatus.SUCCESS) == (measured >= 0.1)
        assert result.losses[-1] == pytest.approx(measured, rel=1e-4)
        assert list(result.losses) == sorted(result.losses)


def replace_label(example: AttackExample) -> AttackExample:
    return example._replace(label=FAILED)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("head", ["classifier", "language model"])
def test_queries_are_the_texts_that_pass_through_the_victim(victim: Any, language: Any, name: str, head: str) -> None:
    model = victim.model if head == "classifier" else language
    examples = victim.examples if head == "classifier" else [replace_label(each) for each in victim.examples[:2]]
    read = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal read
        read += len(kwargs["input_ids"])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        results = attack_examples(model, victim.lm, victim.tokenizer, examples, 32, SETTINGS[name])
    finally:
        hook.remove()
    # what was found is read once more for a language model's record
    assert read == sum(result.queries + bool(result.measures) for result in results)


def test_the_record_names_what_stood_in_for_what(victim: Any) -> None:
    found = {
        name: attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples[:1], 32, settings)[
            0
        ].substitutes
        for name, settings in SETTINGS.items()
    }
    assert found["textfooler"]["synonyms"] == "neighbors in the input embeddings"
    assert found["textfooler"]["part of speech"] == "off"
    assert found["bert-attack"]["mask"] == "left out"
    assert "layer 1" in found["bert-attack"]["similarity"]


def test_a_users_synonyms_are_what_is_swapped_in(victim: Any, tmp_path: Path) -> None:
    swaps = {"good": "bad", "great": "awful", "lovely": "dull", "fine": "poor"}
    path = tmp_path / "mine.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in swaps.items()), encoding="utf-8")
    settings = replace(SETTINGS["textfooler"], synonyms=str(path))
    both = swaps | {b: a for a, b in swaps.items()}
    results = attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples, 32, settings)
    assert [result.status for result in results].count(AttackStatus.SUCCESS) >= 5
    for result in results:
        if result.status is AttackStatus.SUCCESS:
            changed = [
                (a, b)
                for a, b in zip(result.original_text.split(), result.adversarial_text.split(), strict=True)
                if a != b
            ]
            assert all(both[a] == b for a, b in changed)
            assert result.substitutes["synonyms"] == "list mine.tsv"
    path.write_text("good bad\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="line 1 must be two words"):
        settings.examples(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TextFoolerSettings(window=0), "window must be a whole number of at least 1: got 0"),
        (lambda: TextFoolerSettings(rise=0.0), "above 0: got 0"),
        (lambda: BertAttackSettings(candidates=0), "candidates must be a whole number of at least 1: got 0"),
        (lambda: BertAttackSettings(most_changed=1.5), "at most 1: got 1.5"),
        (lambda: BertAttackSettings(max_length=0), "max_length must be a whole number of at least 1: got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        make()
