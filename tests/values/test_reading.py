"""Reading what users wrote: marks at the beginning, other encodings, paths that cannot be read."""

import json
from pathlib import Path

import pytest

import qalof
from orchestrate.config.loader import load_config, read_yaml
from orchestrate.config.train import TrainConfig
from qalof.attacks.substitutes.synonyms import read_thesaurus
from qalof.attacks.targets import targets_of
from qalof.errors import BadInputError
from qalof.files import read_json, read_json_lines
from qalof.reading import library_errors, read_lines, read_text
from qalof.tasks.classification_data import file_rows
from qalof.tasks.language_modeling import load_text
from qalof.tasks.squad_data import load_squad
from tests.sources import SOURCES, attributes, name_of

SQUAD = json.dumps(
    {"data": [{"paragraphs": [{"context": "é in Oslo", "qas": [{"id": "1", "question": "Where?", "answers": []}]}]}]},
    ensure_ascii=False,
)
READERS = {
    "config": ("c.yaml", "title: é\n", lambda path: read_yaml(path) == {"title": "é"}),
    "json": ("c.json", '{"a": "é"}', lambda path: read_json(path, "file") == {"a": "é"}),
    "json lines": ("c.jsonl", '{"a": "é"}\n', lambda path: list(read_json_lines(path, "file")) == [(1, {"a": "é"})]),
    "labeled texts": ("c.jsonl", '{"text": "é", "label": 0}\n', lambda path: file_rows(path)[0][1]["text"] == "é"),
    "text": ("c.txt", "é is a letter", lambda path: load_text(str(path), "train") == "é is a letter"),
    "word pairs": ("c.tsv", "né\tbon\n", lambda path: read_thesaurus(str(path)) == {"né": ("bon",), "bon": ("né",)}),
    "words with synonyms": (
        "c.jsonl",
        '{"word": "né", "synonyms": ["bon"]}\n',
        lambda path: read_thesaurus(str(path)) == {"né": ("bon",)},
    ),
    "targets": ("c.txt", "é tea\n", lambda path: targets_of(str(path)) == ("é tea",)),
    "questions": ("c.json", SQUAD, lambda path: load_squad(str(path), "train")[0].context == "é in Oslo"),
}
"""What users write: a file's name, its text, and whether a reader gives that back."""


@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_is_no_part_of_what_is_read(kind, tmp_path):
    name, text, read = READERS[kind]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read(path)
    path.write_text(text, encoding="utf-8-sig")
    assert read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("kind", READERS)
def test_another_encoding_is_one_line_that_names_the_file(kind, encoding, tmp_path):
    name, text, read = READERS[kind]
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    with pytest.raises(BadInputError, match="must be UTF-8") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def broken_paths(folder: Path):
    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    return {
        "missing": folder / "none.json",
        "a folder": folder / "folder",
        "below a file": folder / "file" / "c.json",
        "too long": folder / ("a" * 300),
        "with NUL": folder / "a\0b",
    }


@pytest.mark.parametrize("wrong", ["missing", "a folder", "below a file", "too long", "with NUL"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_text(path, "word list"),
        lambda path: list(read_lines(path, "word list")),
        lambda path: read_json(path, "word list"),
        lambda path: load_config(TrainConfig, path),
        lambda path: load_squad(str(path), "train"),
        lambda path: load_text(str(path), "train"),
        lambda path: read_thesaurus(str(path)),
        lambda path: targets_of(str(path)),
        lambda path: qalof.task("classification", data=str(path)),
        lambda path: qalof.task("squad-span", source=str(path)),
        lambda path: qalof.load(path),
    ],
)
def test_a_path_that_cannot_be_read_is_one_line(read, wrong, tmp_path):
    with pytest.raises(BadInputError) as caught:
        read(broken_paths(tmp_path)[wrong])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_the_system_refuses_is_one_line(error, tmp_path, monkeypatch):
    path = tmp_path / "c.json"
    path.write_text("{}")

    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadInputError, match=f"cannot be read: {error.strerror}"):
        read_json(path, "data file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {steps: 1}\ntraining: {steps: 2}\n", "'training' stands twice in one mapping, in lines 1 and 2"),
        ("training:\n  steps: 1\n  seed: 3\n  steps: 2\n", "'steps' stands twice in one mapping, in lines 2 and 4"),
        ("training: {steps: 1, steps: 1}\n", "'steps' stands twice in one mapping, in lines 1 and 1"),
        ("a: [{b: 1, c: 2, b: 3}]\n", "'b' stands twice"),
        ("4: 1\n4: 2\n", "'4' stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text, said, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=said):
        read_yaml(path)


def test_anchors_and_merges_are_no_keys_that_stand_twice(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: {<<: *x}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}


def test_carriage_returns_end_lines_in_texts(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(path, "text") == "one\ntwo\nthree\n"


class PanicException(BaseException):
    """As a library in Rust raises it."""


def test_what_a_library_raises_becomes_one_line_and_what_is_no_error_passes():
    for error in (ValueError("first\nsecond"), KeyError("x"), PanicException("stride"), RuntimeError()):
        with (
            pytest.raises(BadInputError, match="data 'd' cannot be used .*; mend it") as caught,
            library_errors("data 'd'", "mend it"),
        ):
            raise error
        assert "\n" not in str(caught.value)
    for passing in (KeyboardInterrupt(), SystemExit(3), MemoryError(), GeneratorExit()):
        with pytest.raises(type(passing)), library_errors("data", "mend it"):
            raise passing


def test_texts_of_users_are_read_in_one_place():
    """A new reader must not forget marks and encodings; files that the house wrote itself are read as it likes."""
    own = {
        "qalof/reading.py",
        "orchestrate/runs/environment.py",
        "orchestrate/report/page.py",
        "orchestrate/jobs/train/losses.py",
        "orchestrate/cluster/connection.py",
        "qalof/tiny/zero_shot.py",
        "qalof/locks.py",
        "qalof/digests.py",
    }
    assert not {name_of(path) for path in SOURCES if "read_text" in attributes(path)} - own
