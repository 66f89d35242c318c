"""SQuAD scoring: every rule by a hand-worked case, and the whole development set by a second computation."""

import random
import re
from pathlib import Path

import pytest

from qalof.model.pretrained import load_tokenizer
from qalof.tasks.squad_data import load_squad
from qalof.tasks.squad_metrics import exact_match, f1, normalize_answer
from qalof.tasks.squad_span import SpanTask

DEV = Path(__file__).resolve().parents[3] / "shared" / "data" / "squad" / "dev-v1.1.json"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        # lower case
        ("The Cat", "cat"),
        ("ÉCOLE", "école"),
        # spaces of any kind and number
        ("  a   big\tdog ", "big dog"),
        ("big\u00a0dog\nhouse", "big dog house"),
        # ASCII punctuation goes without leaving a space; other marks stay
        ("U.S.", "us"),
        ("rock 'n' roll!", "rock n roll"),
        ("twenty-one", "twentyone"),
        ("$3.5 million", "35 million"),
        ("1990–1995", "1990–1995"),
        ("“quoted”", "“quoted”"),
        # a, an, the as whole words alone
        ("theatre", "theatre"),
        ("an apple a day", "apple day"),
        ("A THE an", ""),
        ("the a", ""),
        ("", ""),
        ("...", ""),
    ],
)
def test_normalization(text, normal):
    assert normalize_answer(text) == normal


def test_punctuation_goes_before_articles():
    # "a.n" becomes the article "an" only after its dot is gone
    assert normalize_answer("a.n apple") == "apple"
    # and "the-cat" becomes one word, which no article is cut from
    assert normalize_answer("the-cat") == "thecat"


def test_articles_leave_a_space_that_is_collapsed():
    assert normalize_answer("up the hill") == "up hill"


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "overlap"),
    [
        ("the cat", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        # the overlap counts each token as often as both have it
        ("cat cat", ["cat"], 0, 2 / 3),
        ("cat cat dog", ["cat cat"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        # order matters to the match alone
        ("dog big", ["big dog"], 0, 1),
        # the best gold answer counts, for each metric by itself
        ("dog", ["cat", "dog"], 1, 1),
        ("in 1990", ["1990", "in May 1990"], 0, 0.8),
        # v1.1: no overlap is F1 0, even where both are empty
        ("the", ["The"], 1, 0),
        ("", [""], 1, 0),
        ("", ["cat"], 0, 0),
        ("cat", ["..."], 0, 0),
        ("cat", [], 0, 0),
        ("Denver Broncos.", ["Denver Broncos", "The Denver Broncos"], 1, 1),
        ("35 million", ["$3.5 million"], 1, 1),
        ("3 5 million", ["$3.5 million"], 0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
    ],
)
def test_hand_worked_scores(prediction, answers, match, overlap):
    assert exact_match(prediction, answers) == match
    assert f1(prediction, answers) == pytest.approx(overlap)


PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def second_words(text):
    """Words of an answer, by another way: character by character, articles last."""
    kept = "".join(character for character in text.lower() if character not in PUNCTUATION)
    # an article is a whole run of word characters, not a whole run between spaces
    kept = re.sub(r"(?<!\w)(?:the|an|a)(?!\w)", " ", kept)
    return kept.split()


def second_scores(prediction, answers):
    """Exact match and F1 in percent, by lists that are emptied."""
    best = [0.0, 0.0]
    guessed = second_words(prediction)
    for answer in answers:
        wanted, left, common = second_words(answer), second_words(answer), 0
        for word in guessed:
            if word in left:
                left.remove(word)
                common += 1
        overlap = 200 * common / (len(guessed) + len(wanted)) if common else 0.0
        best = [max(best[0], 100.0 * (guessed == wanted)), max(best[1], overlap)]
    return best


def perturbed(examples):
    """Predictions of several kinds for each question, by name."""
    rng = random.Random(0)
    golds = [example.texts[0] for example in examples]

    def shuffled(text):
        words = text.split()
        rng.shuffle(words)
        return " ".join(words)

    return {
        "dressed": [f" The  {gold.upper()}, a!" for gold in golds],
        "without the last word": [" ".join(gold.split()[:-1]) for gold in golds],
        "a word more": [f"{gold} indeed" for gold in golds],
        "doubled": [f"{gold} {gold}" for gold in golds],
        "shuffled": [shuffled(gold) for gold in golds],
        "hyphens for spaces": [gold.replace(" ", "-") for gold in golds],
        "another question's": golds[1:] + golds[:1],
        "the context's beginning": [example.context[:40] for example in examples],
        "empty": ["" for _ in golds],
    }


@pytest.mark.slow
@pytest.mark.skipif(not DEV.is_file(), reason="shared/data/squad is not at hand")
def test_the_real_development_set_scores_as_a_second_computation_says(random_model):
    examples = load_squad(str(DEV), "validation")
    assert len(examples) == 8977
    task = SpanTask(load_tokenizer(random_model))
    for place in range(max(len(example.texts) for example in examples)):
        # every gold answer is right, the annotators' second and third as much as the first
        gold = [example.texts[place % len(example.texts)] for example in examples]
        found = task._score(examples, gold)
        assert found["exact_match"] == 100.0
        worded = [score for score, text in zip(found.per_example["f1"], gold, strict=True) if second_words(text)]
        assert set(worded) == {100.0}
    scores = {}
    for name, answers in perturbed(examples).items():
        found = task._score(examples, answers)
        expected = [second_scores(answer, example.texts) for answer, example in zip(answers, examples, strict=True)]
        assert found.per_example["exact_match"] == [match for match, _ in expected], name
        assert found.per_example["f1"] == pytest.approx([overlap for _, overlap in expected], abs=1e-9), name
        assert found["f1"] == pytest.approx(sum(overlap for _, overlap in expected) / len(examples))
        scores[name] = (found["exact_match"], found["f1"])
    assert scores["dressed"] == (100.0, pytest.approx(100.0, abs=0.1))
    assert scores["empty"][1] == 0.0
    assert scores["another question's"][0] < 5
    assert scores["without the last word"][0] < scores["a word more"][1]
    assert 60 < scores["a word more"][1] < 100
