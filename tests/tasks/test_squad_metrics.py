import pytest

from qalof.tasks.squad_metrics import exact_match, f1, normalize_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("  a   big\tdog ", "big dog"),
        ("U.S.", "us"),
        ("rock 'n' roll!", "rock n roll"),
        ("theatre", "theatre"),
        ("an apple a day", "apple day"),
        ("", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalize_answer(text) == normal


def test_punctuation_goes_before_articles():
    # "a.n" becomes the article "an" only after its dot is gone
    assert normalize_answer("a.n apple") == "apple"


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "overlap"),
    [
        ("the cat", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat", "dog"], 1, 1),
        ("the", ["The"], 1, 0),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
    ],
)
def test_hand_worked_scores(prediction, answers, match, overlap):
    assert exact_match(prediction, answers) == match
    assert f1(prediction, answers) == pytest.approx(overlap)
