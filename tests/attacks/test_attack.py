import json
from pathlib import Path

import pytest

from qalof.attacks.examples import labeled_texts, texts_or_paragraphs
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus, summarize, words_changed
from qalof.errors import BadInputError
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.factory import make_task
from qalof.tasks.language_modeling import LanguageModelingSettings


def result(status: AttackStatus, *, changed: int = 0, total: int = 10, queries: int = 1) -> AttackResult:
    return AttackResult(
        7, "gbda", "w4a8", status, 1, "a b", "a c", changed, total, queries, samples=3, wrong_samples=1,
        losses=(2.5, 1.25), seed=3,
    )  # fmt: skip


def test_skipped_inputs_enter_neither_success_nor_perturbation_nor_queries() -> None:
    results = [
        result(AttackStatus.SUCCESS, changed=1, queries=100),
        result(AttackStatus.SUCCESS, changed=3, queries=200),
        result(AttackStatus.FAILED, changed=9, queries=300),
        result(AttackStatus.SKIPPED, queries=1),
    ]
    summary = summarize(results)
    assert summary.examples == 4
    assert summary.original_accuracy.estimate == 0.75
    assert summary.after_attack_accuracy.estimate == 0.25
    assert summary.success_rate.estimate == pytest.approx(2 / 3)
    assert summary.perturbation == pytest.approx(0.2)
    assert summary.queries == 200


def test_means_over_nothing_are_none() -> None:
    summary = summarize([result(AttackStatus.SKIPPED)])
    assert (summary.perturbation, summary.queries) == (None, None)
    assert (summary.success_rate.low, summary.success_rate.high) == (0.0, 1.0)


def test_a_result_survives_json() -> None:
    original = result(AttackStatus.SUCCESS, changed=1)
    assert AttackResult.from_json(json.loads(json.dumps(original.to_json()))) == original


@pytest.mark.parametrize("damage", [{"status": "won"}, {"more": 1}, {"losses": None}])
def test_a_damaged_result_is_bad_input(damage: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="attack result must have"):
        AttackResult.from_json(result(AttackStatus.FAILED).to_json() | damage)


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a bc", 2),
        ("a b c", "a b x c", 1),
        ("a b c", "", 3),
        ("a  b", "a b", 0),
    ],
)
def test_words_changed_counts_places_or_else_edits(before: str, after: str, count: int) -> None:
    assert words_changed(before, after) == count


def test_examples_are_numbered_by_their_place_in_the_split() -> None:
    task = make_task("classification", ClassificationSettings(), "tiny")
    examples = labeled_texts(task)
    assert [(e.id, e.text, e.label) for e in examples] == [(n, *each) for n, each in enumerate(task.validation)]


def test_a_language_model_is_attacked_on_its_longer_lines(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(20))
    (tmp_path / "text.txt").write_text(f"= Title =\n {long} \n\n{long[:-7]}\n{long} more\n", encoding="utf-8")
    task = make_task("language-modeling", LanguageModelingSettings(data=str(tmp_path / "text.txt")), "tiny")
    assert texts_or_paragraphs(task) == [AttackExample(0, long, 0), AttackExample(1, f"{long} more", 0)]
    with pytest.raises(BadInputError, match="classifier's checkpoint: got one of task language-modeling"):
        labeled_texts(task)


def test_a_result_of_an_example_counts_its_words_and_keeps_what_the_example_says() -> None:
    example = AttackExample(7, "a b c", 1, " d")
    made = AttackResult.of(
        example, "arca", "4", AttackStatus.FAILED, "a b c", "a x c", queries=3, seed=5, measures={"nats": 1.5}
    )
    assert (made.example_id, made.label, made.target, made.words_changed, made.words_total) == (7, 1, " d", 1, 3)
    assert (made.samples, made.wrong_samples, made.losses, made.measures) == (0, 0, (), {"nats": 1.5})
    empty = AttackResult.of(example, "arca", "4", AttackStatus.SKIPPED, "", "", queries=1, seed=5)
    assert (empty.words_changed, empty.words_total) == (0, 1)
