"""A checkpoint as a model of MLflow answers as the project's own code does, wherever it is loaded."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

import qalof
from orchestrate.cli.app import main
from orchestrate.mlflow_model.flavor import CheckpointModel, save_model
from orchestrate.mlflow_model.register import default_alias
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.serving import served as served_module
from qalof.serving.answers import ANSWERING
from qalof.serving.served import ServedModel, request_of, write_served
from qalof.tasks.classification import class_logits
from qalof.tasks.factory import TASKS

PROMPTS = pd.DataFrame({"prompt": ["The river is", "Ada lives in the old town near", "Who"]})


@pytest.fixture
def registered(json_of, empty_store, random_model, lm_checkpoint, tmp_path, monkeypatch):
    """Two versions of a language model in a record of its own."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    words = ["register", "--checkpoint", lm_checkpoint, "--name", "lm", "--bitmap", "w4a8", "--bitmap", "8,4"]
    result = json_of(*words)
    assert json_of(*words)["versions"] == [{**row, "new": False} for row in result["versions"]], "registered once"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs/mlflow.db")
    mlflow.set_registry_uri(None)
    yield result
    mlflow.set_tracking_uri(before)


def own_texts(checkpoint: Path, bitmap: str, prompts, most: int) -> list[str]:
    """What the model writes to one prompt at a time."""
    import torch

    model, tokenizer = qalof.load(checkpoint), qalof.task_of(checkpoint).tokenizer
    model.set_bitmap(bitmap)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        out = model.generate(ids, max_new_tokens=most, do_sample=False, pad_token_id=0)
        texts.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def test_a_registered_version_answers_as_the_checkpoint_does_by_alias_parameters_and_draws(
    registered, lm_checkpoint, tmp_path
):
    import mlflow

    rows = registered["versions"]
    assert [row["alias"] for row in rows] == ["bitmap-w4a8", f"bitmap-{rows[1]['id']}"]
    at_w4a8, mixed = (mlflow.pyfunc.load_model(row["uri"]) for row in rows)
    folder = Path(mlflow.artifacts.download_artifacts(rows[0]["uri"]))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".bin", ".py")]
    assert (folder / "data" / "served" / "base" / "model.safetensors").is_file(), "the base travels too"
    assert "qalof==" in (folder / "requirements.txt").read_text()
    few = {"max_new_tokens": 5}
    prompts = list(PROMPTS["prompt"])
    assert list(at_w4a8.predict(PROMPTS, params=few)["text"]) == own_texts(lm_checkpoint, "w4a8", prompts, 5)
    assert list(mixed.predict(PROMPTS, params=few)["text"]) == own_texts(lm_checkpoint, "8,4", prompts, 5)
    other = at_w4a8.predict(PROMPTS, params={**few, "bitmap": "w8a8"})
    assert list(other["text"]) == own_texts(lm_checkpoint, "w8a8", prompts, 5)
    drawn = {**few, "random_precision": ["4", "8"], "seed": 7}
    model = qalof.load(lm_checkpoint)
    defense = RandomPrecision.of(model.site_names, ("4", "8"), seed=7)
    each = [own_texts(lm_checkpoint, str(defense.bitmap(i)), [prompt], 5)[0] for i, prompt in enumerate(prompts)]
    assert list(at_w4a8.predict(PROMPTS, params=drawn)["text"]) == each
    assert list(at_w4a8.predict(PROMPTS, params=drawn)["text"]) == each, "a seed replays its draws"
    for wrong, law in (
        ({"bitmap": "w4q8"}, "w4q8"), ({"bitmap": "/etc/x.json"}, "write its bitmap out"),
        ({"max_new_tokens": 0}, "max_new_tokens"), ({"max_new_tokens": 500}, "positions"),
        ({"random_precision": ["3y"]}, "3y"), ({"random_precision": ["4"], "granularity": "word"}, "granularity"),
        ({"random_precision": ["4"], "probability": 1.5}, "probability"), ({"random_precision": "4"}, "1D array"),
        ({"random_precision": ["4"], "seed": -5}, "seed"), ({"bitmap": 4}, "bitmap"),
    ):  # fmt: skip
        with pytest.raises(mlflow.exceptions.MlflowException, match=law) as refused:
            at_w4a8.predict(PROMPTS, params=wrong)
        assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "a/b", "--bitmap", "8"], ["--name", "m", "--bitmap", "8", "--alias", "v1"],
        ["--name", "m", "--bitmap", "8", "--alias", "a", "--alias", "b"], ["--name", "m", "--bitmap", "9y"],
        ["--name", "m", "--bitmap", "8", "--uri", "ftp://me:word@host"],
    ],
)  # fmt: skip
def test_a_bad_name_alias_bitmap_or_store_is_refused_in_one_line(words, lm_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qalof", "register", "--checkpoint", str(lm_checkpoint), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n"), said[:7]) == (2, 1, "error: ")
    assert "word@" not in said
    assert not (tmp_path / "runs").exists(), "nothing was written"


def test_every_task_says_how_it_answers():
    assert set(ANSWERING) == set(TASKS)


def test_a_classifier_answers_with_its_labels_where_its_data_is_not(review_checkpoint, tmp_path):
    write_served(tmp_path / "served", review_checkpoint)
    texts = ["a warm film", "a dull and slow film about nothing"]
    found = CheckpointModel(str(tmp_path / "served")).predict(pd.DataFrame({"text": texts}), {"bitmap": "4"})
    task, model = qalof.task_of(review_checkpoint), qalof.load(review_checkpoint)
    model.set_bitmap("4")
    shares = class_logits(model, task.encode(texts)[0], 1).softmax(-1)
    assert list(found["label"]) == [task.label_names[int(each.argmax())] for each in shares]
    assert list(found["probabilities"][1]) == list(task.label_names)
    assert list(found["probabilities"][1].values()) == pytest.approx(shares[1].tolist(), abs=1e-5)


def test_a_span_model_answers_as_it_is_scored_and_draws_from_secret_seeds(span_checkpoint, tmp_path, monkeypatch):
    write_served(tmp_path / "served", span_checkpoint)
    served, task = ServedModel(tmp_path / "served"), qalof.task_of(span_checkpoint)
    asked = task.validation[:6]
    rows = [{"question": each.question, "context": each.context} for each in asked]
    with served.model.at("8"):
        scored = task._score(asked, [each["answer"] for each in served.predict(rows, request_of({"bitmap": "8"}))])
    model = qalof.load(span_checkpoint)
    model.set_bitmap("8")
    assert scored.per_example == task.evaluate(model, limit=6).per_example
    drawn = request_of({"random_precision": ["4", "8"]})
    seeds = []
    monkeypatch.setattr(served_module.secrets, "randbits", lambda bits: seeds.append(bits) or 5)
    replayed = request_of({"random_precision": ["4", "8"], "seed": 5})
    assert served.predict(rows, drawn) == served.predict(rows, replayed)
    assert seeds == [32], "a call without a seed draws a secret one, and one with a seed none"
    with pytest.raises(BadInputError, match="granularity token"):
        served.predict(rows, request_of({"random_precision": ["4"], "granularity": "token"}))
    with pytest.raises(BadInputError, match="text in question and context"):
        served.predict([{"question": "who?"}])


def test_aliases_are_legal_for_bitmaps_of_any_length():
    sites = [f"h.{i}" for i in range(30)]
    assert default_alias(Bitmap.uniform(sites, 4)) == "bitmap-4"
    mixed = Bitmap.parse(",".join(["4", "8"] * 15), sites)
    assert default_alias(mixed) == f"bitmap-{mixed.id}"


@pytest.mark.slow
def test_a_server_answers_a_request_over_http_and_refuses_a_bad_bitmap_with_status_400(lm_checkpoint, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    save_model(tmp_path / "model", lm_checkpoint, "w4a8", "language-modeling")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    places = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **places, "PYTHONPATH": str(Path(__file__).parents[3])}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                time.sleep(1)
        prompts = list(PROMPTS["prompt"])
        records = PROMPTS.to_dict("records")
        said = asked(port, {"dataframe_records": records, "params": {"bitmap": "8", "max_new_tokens": 4}})
        assert [row["text"] for row in said[1]["predictions"]] == own_texts(lm_checkpoint, "8", prompts, 4)
        status, told = asked(port, {"dataframe_records": records, "params": {"bitmap": "w4q8"}})
        assert (status, "w4q8" in told["message"]) == (400, True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def asked(port: int, request: dict) -> tuple[int, dict]:
    """Status and answer of a request to the scoring server."""
    body = json.dumps(request).encode()
    sent = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )  # fmt: skip
    try:
        with urllib.request.urlopen(sent, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
