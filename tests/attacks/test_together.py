"""Several texts in one forward pass: the same results, fewer passes, and one bad text stops no other."""

from dataclasses import replace
from typing import Any

import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.changes import ChangeReader
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.methods.together import Rendezvous, attack_together
from qalof.attacks.result import AttackExample
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.errors import BadInputError

WORDS: dict[str, Any] = {
    "textfooler": TextFoolerSettings(least_cosine=-1.0, part_of_speech="off", max_length=64),
    "bert-attack": BertAttackSettings(candidates=12, max_length=64),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("at", ["4", "mean", "layer"])
def test_texts_attacked_together_come_out_as_they_do_alone(victim: Any, name: str, at: str) -> None:
    sites = victim.model.site_names
    where: Any = {
        "4": 4,
        "mean": Expectation(RandomPrecision.of(sites, (3, 8))),
        "layer": Expectation(RandomPrecision.of(sites, (3, 8), granularity="layer"), 2),
    }[at]
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples, where, WORDS[name])
    alone, together = attack_examples(*args), attack_together(*args, at_once=4)
    for one, other in zip(alone, together, strict=True):
        assert replace(other, losses=(), measures={}) == replace(one, losses=(), measures={})
        assert other.losses == pytest.approx(one.losses, abs=1e-5)
    assert str(victim.model.bitmap) == "32"


def test_six_texts_together_take_fewer_passes_than_one_by_one(victim: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(ChangeReader, "shares", False)  # which takes more passes of fewer tokens
    passes = []
    forward = type(victim.model).forward
    monkeypatch.setattr(type(victim.model), "forward", lambda self, *a, **k: passes.append(1) or forward(self, *a, **k))
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples, 8, WORDS["textfooler"])
    counts = []
    for run in (attack_examples, attack_together):
        passes.clear()
        run(*args)
        counts.append(len(passes))
    assert counts[1] * 3 < counts[0]


def test_six_texts_together_take_fewer_tokens_than_one_by_one(victim: Any, monkeypatch: Any) -> None:
    tokens: list[int] = []
    forward = type(victim.model).forward

    def counted(self: Any, *args: Any, **given: Any) -> Any:
        tokens.append(given["input_ids"].numel())
        return forward(self, *args, **given)

    monkeypatch.setattr(type(victim.model), "forward", counted)
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples, 8, WORDS["bert-attack"])
    counts = []
    for run in (attack_examples, attack_together):
        tokens.clear()
        run(*args)
        counts.append(sum(tokens))
    assert counts[1] < 0.8 * counts[0]


def test_a_text_whose_attack_raises_stops_no_other(victim: Any, monkeypatch: Any) -> None:
    from qalof.attacks.methods.textfooler import TextFooler

    true = TextFooler.run

    def run(self: Any, example: AttackExample) -> Any:
        if example.id == 2:
            raise RuntimeError("this one breaks")
        return true(self, example)

    monkeypatch.setattr(TextFooler, "run", run)
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples, 4, WORDS["textfooler"])
    found = attack_together(*args, at_once=4)
    assert [isinstance(each, Exception) for each in found] == [example.id == 2 for example in victim.examples]


def test_an_error_of_the_answerer_reaches_all_who_asked_and_nobody_waits_for_ever() -> None:
    from threading import Thread

    def serve(asked: Any) -> Any:
        raise ValueError(f"cannot answer {len(asked)}")

    meeting, seen = Rendezvous(3), []

    def ask(number: int) -> None:
        try:
            meeting.ask(number, "x", serve, number)
        except ValueError as error:
            seen.append(str(error))
        finally:
            meeting.leave()

    threads = [Thread(target=ask, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    meeting.serve()
    for thread in threads:
        thread.join(20)
    assert seen == ["cannot answer 3"] * 3


def test_a_language_model_is_attacked_alone(victim: Any, language: Any) -> None:
    with pytest.raises(BadInputError, match="where the victim gives labels"):
        attack_together(language, victim.lm, victim.tokenizer, victim.examples, 8, WORDS["textfooler"])
