"""Labeled texts of the hub, whose client is replaced by a data set made here."""

import datasets
import pytest

from qalof.errors import BadInputError
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.classification_hub import _data_set, is_hub_name


def data_set(rows, names=("World", "Sports"), label="label", text="text"):
    features = datasets.Features({text: datasets.Value("string"), label: datasets.ClassLabel(names=list(names))})
    columns = {text: [text for text, _ in rows], label: [index for _, index in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def hub(monkeypatch):
    """``hub(splits)``: what the hub holds from now on."""
    held = {}
    monkeypatch.setattr("qalof.hub.check_hub", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda source, subset, split: datasets.DatasetDict(held))
    _data_set.cache_clear()
    yield held.update
    _data_set.cache_clear()


def test_texts_labels_and_names_come_from_the_hub_and_the_test_split_stands_in(hub):
    hub({"train": data_set([("a war", 0), ("a match", 1), ("a vote", 0)]), "test": data_set([("a goal", 1)])})
    settings = ClassificationSettings(data="fancyzhx/ag_news", train_split="train[:2]")
    assert settings.label_names() == ("World", "Sports")
    assert settings.train_texts() == [("a war", 0), ("a match", 1)]
    assert settings.validation_texts()[0] == [("a goal", 1)]
    hub({"validation": data_set([("a cup", 1)])})
    _data_set.cache_clear()
    assert settings.validation_texts()[0] == [("a cup", 1)], "a validation split goes before the test split"


def test_any_split_and_any_column_can_be_named(hub):
    hub(
        {
            "train": data_set([("a war", 0)], label="topic", text="title"),
            "test_matched": data_set([("a goal", 1), ("a vote", 0)], label="topic", text="title"),
        }
    )
    settings = ClassificationSettings(
        data="owner/name", text_column="title", label_column="topic", validation_split="test_matched[:1]"
    )
    assert settings.validation_texts() == ([("a goal", 1)], {"1": 1})
    assert ClassificationSettings(data="owner/name", text_column="title", label_column="topic").label_names() == (
        "World",
        "Sports",
    )


def test_a_column_called_sentence_holds_the_texts_where_none_is_called_text(hub):
    hub({"train": data_set([("a war", 0)], text="sentence")})
    assert ClassificationSettings(data="owner/name").train_texts() == [("a war", 0)]


def test_numbers_of_another_data_set_find_their_classes_by_name(hub):
    hub({"train": data_set([("a war", 0)]), "test": data_set([("a goal", 0)], names=("Sports", "World"))})
    settings = ClassificationSettings(data="owner/name", classes=("Sports", "World"))
    assert settings.train_texts() == [("a war", 1)]


def test_a_row_without_a_label_is_refused(hub):
    hub({"test": data_set([("a goal", 1), ("a vote", -1)])})
    with pytest.raises(BadInputError, match="row 2: label must be a whole number from 0 to 1, or one of .*got -1"):
        ClassificationSettings(data="owner/name", validation_split="test").validation_texts()


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": data_set([("a", 0)], label="stars")}, "must have a column label .* text, stars; .*label_column"),
        ({"test": data_set([("a", 0)])}, "must have a split train"),
        ({"train": data_set([("a", 0), (" ", 1)])}, "split train, row 2: text must be a string"),
        ({"train": data_set([])}, "at least one text"),
    ],
)
def test_data_that_does_not_fit_is_refused_by_name_and_row(hub, splits, said):
    hub(splits)
    with pytest.raises(BadInputError, match=said):
        ClassificationSettings(data="owner/name").train_texts()


@pytest.mark.parametrize("source", ["tiny", "./a/b", "~/b", "/a/b", "reviews", "a/b/c", "a/b.jsonl", "a/", "/a"])
def test_paths_are_no_hub_names(source):
    assert not is_hub_name(source)


def test_a_folder_goes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_name("owner/name")
