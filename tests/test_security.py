"""What docs/security.md says is true of the code: nothing is unpickled, run or sent that was not meant to be."""

import ast
import json
import pickle
from pathlib import Path

import pytest

from orchestrate.cluster.carried_error import error_as_text, error_of_text
from orchestrate.config.loader import read_yaml
from orchestrate.pipeline.plan import StepConfig
from orchestrate.runs.mlflow_writes import OutsideError, Writer
from qalof.errors import BadInputError, NonFiniteLossError, QalofError
from tests.sources import SOURCES, name_of, nodes

DANGEROUS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen", "eval", "exec", "numpy.load",
    "np.load", "torch.load", "marshal.loads", "shelve.open",
}  # fmt: skip
ALLOWED = {"qalof/tiny/pretrain.py": "torch.load"}
"""Calls that are bounded: with ``weights_only``, on a file that the same script wrote."""


def test_no_call_unpickles_runs_texts_or_trusts_remote_code():
    for path, call in [(file, node) for file in SOURCES for node in nodes(file) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func)
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        place = f"{name_of(path)}:{call.lineno}: {name}"
        if name in DANGEROUS:
            assert ALLOWED.get(name_of(path)) == name, place
            assert given.get("weights_only") == "True", place
        assert given.get("shell") in (None, "False"), place
        assert given.get("trust_remote_code") in (None, "False"), place
        assert "0.0.0.0" not in given.values(), place
        if name == "yaml.load":
            assert given["Loader"] in ("FileLoader", "OverrideLoader"), place


class Planted:
    """What a pickle may do."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.write_text, (self.place, "run")


@pytest.mark.parametrize("data", ["object", "argument of an exception", "no pickle"])
def test_a_planted_error_runs_nothing_and_is_known_by_what_it_says(data, tmp_path):
    import base64

    planted = Planted(tmp_path / "planted")
    raw = {"object": planted, "argument of an exception": ValueError(planted), "no pickle": None}[data]
    dumped = b"nonsense" if raw is None else pickle.dumps(raw)
    found = error_of_text(json.dumps({"said": "ValueError: it failed", "error": base64.b64encode(dumped).decode()}))
    assert (type(found), str(found)) == (QalofError, "ValueError: it failed")
    assert not (tmp_path / "planted").exists()
    error_as_text(ValueError(planted))
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    "error", [BadInputError("x must be 1"), NonFiniteLossError(3, "4", 1.0), OSError(28, "full", "a")]
)
def test_an_error_of_a_worker_arrives_as_it_was_raised(error):
    found = error_of_text(error_as_text(error))
    assert (type(found), str(found)) == (type(error), str(error))


def test_yaml_makes_plain_values_alone(tmp_path):
    (tmp_path / "config.yaml").write_text(f"a: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'planted'}]")
    with pytest.raises(BadInputError):
        read_yaml(tmp_path / "config.yaml")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "/tmp/x", "..", "a\n", ""])
def test_a_name_in_a_config_cannot_leave_the_output_folder(name):
    from orchestrate.jobs.ptq.config import MethodConfig

    with pytest.raises(ValueError, match="name"):
        StepConfig(name=name, command="train", config={})
    with pytest.raises(ValueError, match="name"):
        MethodConfig.model_validate({"name": name})


@pytest.mark.parametrize("place", ["../secret", "link", "/etc/hostname"])
def test_a_queue_sends_no_file_from_outside_its_run_directory(place, tmp_path):
    class Client:
        """Fails the test where a file is sent."""

        def log_artifact(self, *given):
            raise AssertionError("a file is sent")

    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    writer = Writer(Client(), "1")
    writer.folder, writer.ids = folder, {"k": "1"}
    with pytest.raises(OutsideError):
        writer.do({"do": "artifact", "run": "k", "path": str(folder / place), "folder": None}, True)
