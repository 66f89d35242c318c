"""Texts as words and gaps."""

import pytest

from qalof.attacks.result import words_changed
from qalof.attacks.words import Words, cased

TEXTS = ("", "  ", "-- ...", "a", ' "Well-known,"  he\tsaid (twice).\n', "don't", "x -- y", "naïve café_s _")


@pytest.mark.parametrize("text", TEXTS)
def test_words_and_gaps_make_the_text_again(text: str) -> None:
    words = Words.of(text)
    assert words.text == text
    assert len(words.gaps) == len(words.words) + 1
    assert len(words.words) <= len(text.split())


def test_a_word_reaches_from_the_first_to_the_last_letter_between_white_space() -> None:
    assert Words.of(TEXTS[4]).words == ("Well-known", "he", "said", "twice")
    assert Words.of("x -- y").words == ("x", "y")
    assert Words.of("don't").words == ("don't",)


def test_swapping_some_words_changes_so_many_and_no_gap() -> None:
    words = Words.of(TEXTS[4])
    swapped = words.replaced(0, "Odd").replaced(3, "once")
    assert swapped.text == ' "Odd,"  he\tsaid (once).\n'
    assert words_changed(words.text, swapped.text) == 2


def test_a_word_that_is_left_out_takes_the_white_space_before_it_along() -> None:
    words = Words.of("We (all) saw it.")
    assert [words.without(index) for index in range(4)] == [
        "(all) saw it.",
        "We () saw it.",
        "We (all) it.",
        "We (all) saw.",
    ]
    assert Words.of("one").without(0) == ""


def test_the_text_before_a_word_and_its_parts() -> None:
    words = Words.of("We (all) saw it.")
    assert [words.before(index) for index in range(4)] == ["", "We (", "We (all) ", "We (all) saw "]
    assert words.part(1, 3) == "all) saw"


def test_a_window_has_its_size_wherever_the_word_stands() -> None:
    words = Words.of(" ".join("abcdefghij"))
    assert [words.window(index, 5) for index in (0, 1, 5, 9)] == [(0, 5), (0, 5), (3, 8), (5, 10)]
    assert words.window(3, 15) == (0, 10)


def test_capitals_are_those_of_the_word_replaced() -> None:
    assert [cased("good", like) for like in ("bad", "Bad", "BAD", "I")] == ["good", "Good", "GOOD", "Good"]
