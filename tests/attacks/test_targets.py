"""Targets: the shipped list, and files."""

from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from qalof.attacks.goal import FAILED
from qalof.attacks.methods.arca import ArcaSettings
from qalof.attacks.result import AttackExample
from qalof.attacks.targets import HARMLESS_TARGETS, targets_of
from qalof.errors import BadInputError
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.factory import make_task
from qalof.tasks.language_modeling import LanguageModelingSettings

GPT2 = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer" / "gpt2"


def test_there_are_a_hundred_harmless_targets_of_two_words() -> None:
    assert len(set(HARMLESS_TARGETS)) == len(HARMLESS_TARGETS) >= 100
    assert all(len(target.split(" ")) == 2 and target.islower() for target in HARMLESS_TARGETS)


@pytest.mark.skipif(not GPT2.is_dir(), reason=f"needs GPT-2's vocabulary in {GPT2}")
def test_harmless_targets_are_two_tokens_of_gpt2() -> None:
    tokenizer = ByteLevelBPETokenizer(str(GPT2 / "vocab.json"), str(GPT2 / "merges.txt"))
    assert {len(tokenizer.encode(f" {target}").ids) for target in HARMLESS_TARGETS} == {2}


def test_an_example_is_a_target_after_a_space_and_the_prefix() -> None:
    task = make_task("language-modeling", LanguageModelingSettings(), "tiny")
    examples = ArcaSettings(prefix="Dear reader").examples(task)
    assert examples[1] == AttackExample(1, "Dear reader", FAILED, f" {HARMLESS_TARGETS[1]}")
    assert len(examples) == len(HARMLESS_TARGETS)


def test_a_file_has_a_target_a_line(tmp_path: Path) -> None:
    path = tmp_path / "targets.txt"
    path.write_text("grüner Tee\n\n  two words \n", encoding="utf-8")
    assert targets_of(str(path)) == ("grüner Tee", "two words")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"\n \n", "at least one line"), (b"tea\xff", "at byte 3")],
)
def test_a_file_without_targets_is_bad_input(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "targets.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=said) as caught:
        targets_of(str(path))
    assert "'harmless'" in str(caught.value)


def test_a_classifier_has_nothing_to_say() -> None:
    task = make_task("classification", ClassificationSettings(), "tiny")
    with pytest.raises(BadInputError, match="causal LM's checkpoint: got one of task classification"):
        ArcaSettings().examples(task)
