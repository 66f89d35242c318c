"""Texts and targets as users have them: each is attacked, or left out with its reason; none ends an attack."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.examples import fitting
from qalof.attacks.goal import FAILED
from qalof.attacks.methods.arca import ArcaSettings
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.methods.together import attack_together
from qalof.attacks.result import AttackExample
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.substitutes.synonyms import read_thesaurus
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel

ODD = {
    "one word": "good",
    "one letter": "x",
    "emoji": "🙂🙃",
    "emoji and a word": "good 🙂",
    "punctuation": "... !!!",
    "control characters": "a\x00b \x07 good",
    "white space within": "good\u2028bad\x85fine\tdull",
    "combining characters": "e\u0301\u0301 \u200b\u200d good",
    "right to left": "טוב جيد good",
    "longer than the model": "good food " * 400,
    "one endless word": "good" * 400,
    "special token": "good <|endoftext|> bad",
    "lone surrogate": "good \ud800 bad",
    "blank": " ",
    "empty": "",
}
SETTINGS: dict[str, Any] = {
    "gbda": GbdaSettings(iterations=1, batch=2, samples=2, max_length=16),
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=16, most_synonyms=2),
    "bert-attack": BertAttackSettings(candidates=2, max_length=16),
}


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("method", SETTINGS)
def test_an_odd_text_is_attacked_or_has_a_reason_not_to_be(method: str, text: str, victim: Any) -> None:
    settings, good = SETTINGS[method], AttackExample(7, "good food", 1)
    examples = [AttackExample(0, ODD[text], 1), good]
    kept, reasons = fitting(settings, examples, victim.model, victim.tokenizer)
    assert (list(reasons) == [0]) == (text in ("lone surrogate", "blank", "empty"))
    assert all("must" in reason and "\n" not in reason for reason in reasons.values())
    for result in attack_examples(victim.model, victim.lm, victim.tokenizer, kept, 8, settings):
        assert result.words_total >= 1


@pytest.mark.parametrize("label", [-1, 2, 99])
@pytest.mark.parametrize("method", SETTINGS)
def test_a_label_that_the_classifier_does_not_have_is_left_out(method: str, label: int, victim: Any) -> None:
    examples = [AttackExample(0, "good food", label), AttackExample(1, "good food", 1)]
    kept, reasons = fitting(SETTINGS[method], examples, victim.model, victim.tokenizer)
    assert [example.id for example in kept] == [1]
    assert "label must be" in reasons[0]


@pytest.fixture(scope="module")
def language(victim: Any) -> SwitchableModel:
    return SwitchableModel.of(victim.lm, BaseModel("in memory", HeadKind.CAUSAL_LM), {})


@pytest.mark.parametrize("prefix", ["", "We found", "food " * 30, "\x07", "🙂"])
@pytest.mark.parametrize("text", ODD)
def test_an_odd_target_is_attacked_or_has_a_reason_not_to_be(
    text: str, prefix: str, victim: Any, language: Any
) -> None:
    settings = ArcaSettings(candidates=2, sweeps=1, tokens=2, prefix=prefix, max_length=24)
    examples = [AttackExample(0, prefix, FAILED, f" {ODD[text]}"), AttackExample(1, "", FAILED, " good")]
    kept, reasons = fitting(settings, examples, language, victim.tokenizer)
    too_long = text in ("longer than the model", "one endless word") or len(prefix) > 100
    too_long = too_long and text != "lone surrogate"
    assert not too_long or "must fit in max_length 24" in reasons[0]
    results = attack_examples(language, None, victim.tokenizer, kept, 8, settings)
    assert [result.example_id for result in results] == [example.id for example in kept]


def test_an_attack_without_any_text_is_refused_with_the_first_reason(victim: Any) -> None:
    examples = [AttackExample(0, "", 1), AttackExample(1, " ", 1)]
    with pytest.raises(BadInputError, match="at least one text or target .*at least 1 word"):
        fitting(SETTINGS["gbda"], examples, victim.model, victim.tokenizer)


@pytest.mark.parametrize("method", ["textfooler", "bert-attack"])
def test_odd_texts_are_attacked_together_and_by_one_who_knows_the_defense(method: str, victim: Any) -> None:
    examples = [AttackExample(index, text, 1) for index, text in enumerate(ODD.values())]
    kept, _ = fitting(SETTINGS[method], examples, victim.model, victim.tokenizer)
    knows = Expectation(RandomPrecision.of(victim.model.site_names, (4, 8)), 2)
    for at in (8, knows):
        found = attack_together(victim.model, victim.lm, victim.tokenizer, kept, at, SETTINGS[method], at_once=5)
        assert [result.example_id for result in found] == [example.id for example in kept]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.tsv", b"", "at least one pair"),
        ("alone.tsv", b"good\tgood\n", "at least one pair"),
        ("one.tsv", b"good\n", "line 1 must be two words"),
        ("phrase.tsv", b"good\tgreat\ngood\tvery good\n", "line 2 must be two words"),
        ("nul.tsv", b"good\tgr\x00eat\n", "line 1 must be two words"),
        ("latin.tsv", "caf\xe9\tbar\n".encode("latin-1"), "UTF-8"),
        ("wide.tsv", "good\tgreat\n".encode("utf-16"), "UTF-8"),
        ("list.jsonl", b"[1, 2]\n", "line 1 must be"),
    ],
)
def test_a_word_list_that_is_none_is_refused_before_any_text_is_attacked(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    task: Any = SimpleNamespace()
    for settings in (
        TextFoolerSettings(synonyms=str(tmp_path / name)),
        BertAttackSettings(antonyms=str(tmp_path / name)),
    ):
        with pytest.raises(BadInputError, match=said):
            settings.examples(task)


@pytest.mark.parametrize(
    "content", [b"good\tgreat\n", b"  Good \t great \n\n", b"\xef\xbb\xbfgood\tgreat\ngood\tgreat\ngreat\tgood\r\n"]
)
def test_spaces_around_words_duplicates_and_a_byte_order_mark_change_no_word_list(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "list.tsv").write_bytes(content)
    assert read_thesaurus(str(tmp_path / "list.tsv")) == {"good": ("great",), "great": ("good",)}
