"""The accuracy that is left after a small attack, on the small trained classifier."""

import json
from dataclasses import replace

import pytest

from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.substitution import WordAttack
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackStatus
from qalof.attacks.robustness.adversarial_accuracy import (
    AdversarialAccuracy,
    AdversarialAccuracySettings,
    DrawnAround,
)
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.tasks.classification import ClassificationSettings, ClassificationTask

ATTACK = TextFoolerSettings(
    least_cosine=-1.0, part_of_speech="off", most_synonyms=4, least_similarity=0.0, max_length=64, most_queries=14
)
SETTINGS = AdversarialAccuracySettings(texts=6, attack=ATTACK, references=(32, 4))
DRAWN = replace(SETTINGS, references=(4,), random_precision=DrawnAround((4, 8), draws=3))


@pytest.fixture(scope="module")
def task(victim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rows = [json.dumps({"text": each.text, "label": each.label}) for each in victim.examples]
    (folder / "validation.jsonl").write_text("\n".join(rows))
    (folder / "labels.json").write_text('["bad", "good"]')
    return ClassificationTask(victim.tokenizer, ClassificationSettings(str(folder), max_length=64))


@pytest.fixture
def bitmaps(victim):
    names = [site.name for site in victim.model.sites]
    mixed = Bitmap.parse({name: (3 if index % 2 else 8) for index, name in enumerate(names)}, names)
    return [mixed, Bitmap.parse(3, names)]


def scores(victim, task, bitmaps, settings=SETTINGS):
    measured = AdversarialAccuracy(victim.model, task, settings)
    return {str(bitmap): measured.measure(bitmap).per_example[ADVERSARIAL_ACCURACY] for bitmap in bitmaps}


def test_a_text_is_left_where_neither_old_texts_nor_an_attack_of_its_own_fool_the_bitmap(victim, task, bitmaps):
    lm = load_pretrained(str(victim.folder), HeadKind.CAUSAL_LM)
    old = [attack_examples(victim.model, lm, victim.tokenizer, victim.examples, b, ATTACK) for b in (32, 4)]
    judge = ATTACK.judge(victim.model, victim.tokenizer)
    for bitmap, found in scores(victim, task, bitmaps).items():
        own = attack_examples(victim.model, lm, victim.tokenizer, victim.examples, bitmap, ATTACK)
        with victim.model.at(bitmap):
            texts = [[r.original_text, a.valid_text, b.valid_text] for r, a, b in zip(own, *old, strict=True)]
            wrong = [
                any(label != example.label for label in row)
                for example, row in zip(victim.examples, judge.answers(victim.examples, texts), strict=True)
            ]
        broken = [bad or r.status is AttackStatus.SUCCESS for bad, r in zip(wrong, own, strict=True)]
        assert found == [0.0 if bad else 100.0 for bad in broken]


@pytest.mark.parametrize("settings", [SETTINGS, DRAWN], ids=["fixed", "drawn"])
def test_the_number_does_not_depend_on_what_was_measured_before(victim, task, bitmaps, settings):
    forward, backward = (scores(victim, task, order, settings) for order in (bitmaps, bitmaps[::-1]))
    assert forward == backward


def test_a_bitmap_is_attacked_only_where_no_old_text_fools_it(victim, task, monkeypatch):
    runs, run = [], WordAttack.run
    monkeypatch.setattr(WordAttack, "run", lambda self, example: runs.append(example.id) or run(self, example))
    measured = AdversarialAccuracy(victim.model, task, SETTINGS)
    at = measured.measure(Bitmap.parse(4, victim.model.bitmap.sites))
    again = len(runs)
    assert measured.measure(Bitmap.parse(4, victim.model.bitmap.sites)) == at
    # at a reference every success is an old text, so what is attacked again held, or was wrong unattacked
    held = len(runs) - again
    assert 0 < held < len(victim.examples)
    assert sum(score == 100.0 for score in at.per_example[ADVERSARIAL_ACCURACY]) <= held


def test_no_attack_reads_more_texts_than_its_budget(victim):
    def attacked(most):
        settings = replace(ATTACK, most_queries=most)
        return attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples, 8, settings)

    for most in (1, 4, 9):
        assert all(result.queries <= most for result in attacked(most))
    free = attacked(None)
    assert attacked(max(result.queries for result in free)) == free


def test_under_random_precision_a_score_is_a_share_of_draws_with_an_interval(victim, task, bitmaps):
    measured = AdversarialAccuracy(victim.model, task, DRAWN)
    found = measured.measure(bitmaps[0])
    values = found.per_example[ADVERSARIAL_ACCURACY]
    assert len(values) == 6
    assert all(round(value * 3 / 100, 6) in (0, 1, 2, 3) for value in values)
    interval = found.interval(ADVERSARIAL_ACCURACY)
    assert interval.low <= interval.estimate <= interval.high


@pytest.mark.parametrize("granularity", ["request", "layer"])
def test_the_bitmaps_of_a_front_are_a_defense_too(victim, task, bitmaps, granularity):
    front = RandomPrecision.of(victim.model.bitmap.sites, bitmaps, granularity=granularity)
    before = victim.model.bitmap
    assert 0 <= AdversarialAccuracy(victim.model, task, SETTINGS).measure(front)[ADVERSARIAL_ACCURACY] <= 100
    assert victim.model.bitmap == before


def test_settings_that_change_the_number_change_the_fingerprint(tmp_path):
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text("good\tfine\n")
    lists = [replace(ATTACK, synonyms=str(tmp_path / name)) for name in ("a.tsv", "b.tsv")]
    same = {replace(SETTINGS, attack=each).fingerprint() for each in lists}
    assert len(same) == 1
    (tmp_path / "b.tsv").write_text("good\tgreat\n")
    others = [
        SETTINGS, DRAWN, replace(SETTINGS, texts=5), replace(SETTINGS, references=(8,)), replace(SETTINGS, seed=1),
        replace(SETTINGS, attack=replace(ATTACK, most_queries=15)), *(replace(SETTINGS, attack=each) for each in lists),
    ]  # fmt: skip
    assert len({each.fingerprint() for each in others}) == len(others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": replace(ATTACK, synonyms="nowhere.tsv")}, "word list nowhere.tsv does not exist"),
        ({"attack": replace(ATTACK, encoder="nowhere")}, "nowhere"),
        ({"references": (33,)}, "33"),
        ({"random_precision": DrawnAround(("no.json",))}, "no.json"),
    ],
    ids=["list", "encoder", "reference", "defense"],
)
def test_settings_that_cannot_be_used_are_refused_when_it_is_made(victim, task, change, message):
    with pytest.raises(BadInputError, match=message) as caught:
        AdversarialAccuracy(victim.model, task, replace(SETTINGS, **change))
    assert "\n" not in str(caught.value)


def test_a_defense_without_bitmaps_is_refused():
    with pytest.raises(BadInputError, match="at least one to draw from"):
        DrawnAround(())


def test_words_without_a_candidate_are_refused(victim, task, tmp_path):
    (tmp_path / "list.tsv").write_text("ship\tvessel\n")
    listed = replace(SETTINGS, attack=replace(ATTACK, synonyms=str(tmp_path / "list.tsv")))
    with pytest.raises(BadInputError, match="has no word of the 6 texts"):
        AdversarialAccuracy(victim.model, task, listed)
    near = AdversarialAccuracy(victim.model, task, replace(SETTINGS, attack=replace(ATTACK, least_cosine=1.0)))
    with pytest.raises(BadInputError, match="no word of 6 texts has a candidate"):
        near.measure(victim.model.bitmap)


def test_only_classification_has_it(victim):
    class Other:
        name = "squad-span"

    with pytest.raises(BadInputError, match="must have a task of classification: got squad-span"):
        AdversarialAccuracy(victim.model, Other(), SETTINGS)
