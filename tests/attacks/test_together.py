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


def tokens_by_way(victim: Any, tokens_read: list[int], method: str) -> list[list[int]]:
    """The tokens of every pass, one text at a time and together."""
    args = (victim.model, victim.lm, victim.tokenizer, victim.examples, 8, WORDS[method])
    found = []
    for run in (attack_examples, attack_together):
        tokens_read.clear()
        run(*args)
        found.append(list(tokens_read))
    return found


def test_six_texts_together_take_fewer_passes_than_one_by_one(
    victim: Any, monkeypatch: Any, tokens_read: list[int]
) -> None:
    monkeypatch.setattr(ChangeReader, "shares", False)  # which takes more passes of fewer tokens
    alone, together = tokens_by_way(victim, tokens_read, "textfooler")
    assert len(together) * 3 < len(alone)


def test_six_texts_together_take_fewer_tokens_than_one_by_one(victim: Any, tokens_read: list[int]) -> None:
    alone, together = tokens_by_way(victim, tokens_read, "bert-attack")
    assert sum(together) < 0.8 * sum(alone)


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
