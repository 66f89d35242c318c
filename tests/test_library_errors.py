"""What libraries and the system say of a user's models, data and folders is one line, never a traceback."""

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest

from qalof.errors import BadInputError, DiskError, QalofError
from qalof.files import write_json
from qalof.hub import load_rows
from qalof.locks import held
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
from qalof.tasks.zero_shot_data import load_items
from qalof.writing import disk_errors


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def settings(**changes):
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


DAMAGES = {
    "truncated safetensors": lambda folder: cut(folder / "model.safetensors"),
    "empty safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights that are a folder": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors").mkdir(),
    ),
    "config that is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config in UTF-16": lambda folder: (folder / "config.json").write_text("{}", encoding="utf-16"),
    "unknown architecture": settings(model_type="no_such_model", architectures=["NoSuchModel"]),
    "another shape": settings(n_embd=48),
    "a size that is text": settings(n_layer="many"),
    "not a causal architecture": settings(model_type="vit"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_cannot_be_loaded_is_one_line(damage, random_model, tmp_path):
    folder = shutil.copytree(random_model, tmp_path / "model")
    DAMAGES[damage](folder)
    with pytest.raises(BadInputError) as caught:
        load_pretrained(str(folder), HeadKind.CAUSAL_LM)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{", b'{"model": {"type": "BPE"}}', b"[]", b"null"])
def test_a_tokenizer_that_cannot_be_loaded_is_one_line(content, random_model, tmp_path):
    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)
    for other in ("vocab.json", "merges.txt"):
        (folder / other).unlink(missing_ok=True)
    with pytest.raises(BadInputError) as caught:
        load_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 64, b"no model", b"\0" * 400])
def test_a_gguf_file_that_is_none_is_one_line(content, tmp_path, monkeypatch):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(QalofError) as caught:
        load_pretrained(str(path), HeadKind.CAUSAL_LM)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "GGUF" in str(caught.value)


@pytest.mark.parametrize("source", ["", " ", "no such name!", "a/b/c", "a\0b", "x" * 300, "../..", "owner/name\n"])
def test_a_name_that_is_no_model_is_one_line(source, monkeypatch):
    monkeypatch.setattr("qalof.model.pretrained.check_hub", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError) as caught:
        load_tokenizer(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no/such-data-set", "a/b/c", "", "bad name"])
def test_a_hub_name_without_data_is_one_line(source, monkeypatch):
    monkeypatch.setattr("qalof.hub.check_hub", lambda: False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError, match="data set .* cannot be used") as caught:
        load_rows(source, "train")
    assert "\n" not in str(caught.value)


BROKEN_TABLES = {
    "train.parquet": b"PAR1 this is none",
    "train.csv": b'"text","label"\n"never closed,1\n\xff\xfe\n',
    "train.jsonl": b'{"text": "a"}\n{broken\n',
    "train.arrow": b"ARROW?",
}


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_a_table_that_a_library_cannot_read_is_one_line(name, tmp_path):
    (tmp_path / name).write_bytes(BROKEN_TABLES[name])
    with pytest.raises(BadInputError) as caught:
        load_rows(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row", [{}, {"goal": "a"}, {"goal": 1, "sol1": 2, "sol2": 3, "label": "x"}, {"goal": None, "sol1": [], "label": 0}]
)
def test_missing_and_mistyped_columns_are_named_with_their_line(row, tmp_path):
    path = tmp_path / "piqa.jsonl"
    path.write_text(json.dumps({"goal": "a", "sol1": "b", "sol2": "c", "label": 0}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(BadInputError, match="line 2"):
        load_items("piqa", str(path))


def unwritable(folder: Path) -> dict[str, Path]:
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "below a file": folder / "file" / "run" / "a.json",
        "too long": folder / ("n" * 300) / "a.json",
        "with NUL": folder / "a\0b" / "a.json",
        "below a loop": folder / "loop" / "a.json",
    }


@pytest.mark.parametrize("wrong", ["below a file", "too long", "with NUL", "below a loop"])
def test_a_place_that_cannot_be_written_is_one_line(wrong, tmp_path):
    path = unwritable(tmp_path)[wrong]
    with pytest.raises(BadInputError, match="must be a place that can be written") as caught:
        write_json(path, {})
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInputError), held(path, "--output"):
        pass


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG]
)
def test_what_the_system_says_against_a_place_is_bad_input(number):
    with pytest.raises(BadInputError, match="name another"), disk_errors(Path("there")):
        raise OSError(number, "no")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_takes_no_more_is_a_disk_error(number):
    with pytest.raises(DiskError, match="make room"), disk_errors(Path("there")):
        raise OSError(number, "no")


def test_other_errors_of_the_system_and_of_values_pass():
    for error in (OSError(errno.EAGAIN, "again"), ValueError("another"), KeyError("x")):
        with pytest.raises(type(error)), disk_errors(Path("there")):
            raise error


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--checkpoint", "FILE"],
        ["evaluate", "--checkpoint", "FILE/below"],
        ["evaluate", "--checkpoint", "LONG"],
        ["train", "--config", "FILE"],
        ["train", "--config", "FOLDER"],
        ["train", "--config", "LONG"],
        ["train", "--config", "UTF16"],
        ["run", "--config", "UTF16"],
        ["report", "FILE"],
    ],
)
def test_a_command_with_a_path_that_cannot_be_used_ends_with_2_and_one_line(words, tmp_path, monkeypatch, capsys):
    from orchestrate.cli.app import main

    (tmp_path / "file").write_text("- a list\n")
    (tmp_path / "utf16.yaml").write_text("command: run\n", encoding="utf-16")
    names = {"FILE": "file", "LONG": "n" * 300, "FOLDER": ".", "UTF16": "utf16.yaml"}
    for name, path in names.items():
        words = [word.replace(name, str(tmp_path / path)) for word in words]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qalof", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_an_error_of_the_system_that_nobody_met_is_one_line_too(tmp_path, monkeypatch, capsys):
    from orchestrate.cli import app as cli

    def fail(**_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "there"))

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert str(tmp_path / "there") in capsys.readouterr().err
