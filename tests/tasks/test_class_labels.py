"""A label finds its class by name, in whatever column and form a data set has it."""

import json
from dataclasses import asdict

import pytest

import qalof
from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.factory import describe_task, task


def write(folder, rows, names=None, split="train"):
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if names is not None:
        (folder / "labels.json").write_text(json.dumps(names))
    return str(folder)


def texts(words, labels):
    return [{"text": word, "label": label} for word, label in zip(words, labels, strict=True)]


def test_words_in_the_column_of_labels_name_the_classes_in_alphabetical_order(tmp_path):
    data = write(tmp_path / "d", texts("abc", ("pos", "neg", "pos")))
    settings = ClassificationSettings(data=data)
    assert settings.label_names() == ("neg", "pos")
    assert settings.train_texts() == [("a", 1), ("b", 0), ("c", 1)]


def test_the_same_words_and_their_numbers_are_the_same_labels(tmp_path):
    names = ["negative", "positive"]
    numbers = ClassificationSettings(data=write(tmp_path / "n", texts("ab", (1, 0)), names)).train_texts()
    words = ClassificationSettings(data=write(tmp_path / "w", texts("ab", ("positive", "negative")), names))
    assert words.train_texts() == numbers == [("a", 1), ("b", 0)]


def test_data_to_score_on_with_its_own_order_of_classes_is_read_by_name(tmp_path):
    data = write(tmp_path / "a", texts("ab", (0, 1)), ["negative", "positive"])
    turned = write(tmp_path / "b", texts("ab", (0, 1)), ["positive", "negative"], "test")
    settings = ClassificationSettings(data=data, validation_data=turned, validation_split="test")
    assert settings.train_texts() == [("a", 0), ("b", 1)]
    assert settings.validation_texts() == ([("a", 1), ("b", 0)], {"0": 1, "1": 0})


def test_a_map_names_the_class_of_each_label_of_either_data_set(tmp_path):
    data = write(tmp_path / "a", [{"review": "a", "stars": 5}, {"review": "b", "stars": 1}])
    other = write(tmp_path / "b", [{"review": "c", "stars": "good"}], split="dev")
    settings = ClassificationSettings(
        data=data, validation_data=other, text_column="review", label_column="stars",
        label_map={1: "negative", 5: "positive", "good": "positive"},
    )  # fmt: skip
    assert settings.label_names() == ("negative", "positive")
    assert settings.train_texts() == [("a", 1), ("b", 0)]
    assert settings.validation_texts() == ([("c", 1)], {"good": 1})
    assert ClassificationSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_classes_are_in_the_order_that_is_asked_for(tmp_path):
    data = write(tmp_path / "d", texts("ab", ("neg", "pos")))
    settings = ClassificationSettings(data=data, classes=("pos", "neg"))
    assert settings.train_texts() == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("labels", "names", "settings", "said"),
    [
        ((0, 1), None, {}, "needs its label names: .*labels.json.*label_map"),
        (("x", 1), None, {}, "needs its label names"),
        (("x", "x"), None, {}, "must be two or more different names: got x"),
        ((0, 2), ["no", "yes"], {}, "line 2: label must be a whole number from 0 to 1, or one of no, yes: got 2"),
        ((0, "maybe"), ["no", "yes"], {}, "line 2: label must be .*got 'maybe'"),
        ((0, True), ["no", "yes"], {}, "got True"),
        ((0, None), ["no", "yes"], {}, "got None"),
        ((0, 1), ["no", "yes"], {"classes": ("yes", "maybe")}, "which means 'no'; say which class .*{no: yes}"),
        (("a", "c"), None, {"label_map": {"a": "no", "b": "yes"}}, "or a key of label_map .a, b.: got 'c'"),
        ((0, 1), ["no", "yes"], {"label_map": {False: "no"}}, "key of label_map must be a text .*got False; quote it"),
        ((0, 1), ["no", "yes"], {"label_map": {0.5: "no"}}, "key of label_map must be a text .*got 0.5; quote it"),
        ((0, 1), ["no", "yes"], {"label_map": {"a": "no"}}, "the classes of label_map must be two or more"),
        ((0, 1), ["no", "yes"], {"classes": ("no", "no")}, "classes must be two or more different names: got no, no"),
        ((0, 1), ["no", "yes"], {"text_column": "body"}, "must have a column body .*it has text, label; .*text_column"),
        (
            (0, 1),
            ["no", "yes"],
            {"train_split": "train[2:]"},
            r"must read like test or test\[:512\]: got 'train\[2:\]'",
        ),
        ((0, 1), ["no", "yes"], {"train_split": "other"}, "must hold other.jsonl for the other split"),
    ],
)
def test_a_label_without_a_class_is_refused_with_the_way_out(tmp_path, labels, names, settings, said):
    data = write(tmp_path / "d", texts("ab", labels), names)
    with pytest.raises(BadInputError, match=said):
        ClassificationSettings(data=data, **settings).train_texts()


def test_a_task_says_which_class_each_label_is(tmp_path):
    data = write(tmp_path / "d", texts("abc", ("pos", "neg", "pos")), split="test")
    made = task("classification", data=data, train_split="test", validation_split="test")
    assert made.label_mapping() == f"classes: 0 neg, 1 pos; labels in {data}: neg is neg, pos is pos"


def test_a_checkpoint_scores_other_data_in_the_order_of_the_classes_that_it_learned(tmp_path, random_model):
    mine = write(tmp_path / "a", texts("ab", (0, 1)), ["negative", "positive"])
    other = write(tmp_path / "b", texts("ab", (0, 1)), ["positive", "negative"], "validation")
    work = task("classification", source=random_model, data=mine, validation_split="train")
    model = build(BaseModel(random_model, work.head, labels=2), {"8": AdapterSpec(2)})
    qalof.save(model, tmp_path / "checkpoint", {"task": describe_task(work)})
    scored = qalof.task_of(tmp_path / "checkpoint", {"name": "classification", "settings": {"data": other}})
    assert scored.label_names == ("negative", "positive")
    assert [each.label for each in scored.validation] == [1, 0]
    asked = {"name": "classification", "settings": {"data": other, "classes": ["positive", "negative"]}}
    assert [each.label for each in qalof.task_of(tmp_path / "checkpoint", asked).validation] == [0, 1]


def test_where_texts_and_labels_stand_changes_no_fingerprint(tmp_path, random_model):
    names = ["negative", "positive"]
    one = write(tmp_path / "a", texts("ab", (0, 1)), names, "validation")
    rows = [{"review": "a", "stars": "bad"}, {"review": "b", "stars": "good"}]
    two = write(tmp_path / "b", rows, split="validation")
    columns = {"text_column": "review", "label_column": "stars"}
    mapped = {"label_map": {"bad": "negative", "good": "positive"}}
    first = task("classification", source=random_model, data=one).fingerprint()
    assert task("classification", source=random_model, data=two, **columns, **mapped).fingerprint() == first
