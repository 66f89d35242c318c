"""A hub that is out of reach: what is in the cache loads, what is not fails at once."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, sys, time
import transformers, datasets, peft
import qalof
from qalof.errors import BadInputError
from qalof.hub import check_hub, load_rows
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
said = {"cached": len(load_tokenizer("somebody/cached")), "reached": check_hub(), "errors": []}
for ask in (lambda: load_tokenizer("no/model"), lambda: load_pretrained("no/model", HeadKind.CAUSAL_LM),
            lambda: load_rows("no/data", "train")):
    began = time.monotonic()
    try:
        ask()
    except BadInputError as error:
        said["errors"].append([str(error), time.monotonic() - began])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What a process of its own says, whose hub refuses connections and whose cache holds one tokenizer."""
    home = tmp_path_factory.mktemp("home")
    repo = home / "hub" / "models--somebody--cached"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in (ROOT / "qalof" / "tiny" / "model").iterdir():
        if file.suffix == ".json":
            shutil.copy(file, repo / "snapshots" / ("0" * 40))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    without = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HTTPS_PROXY", "ALL_PROXY")
    kept = {k: v for k, v in os.environ.items() if k not in without and k.upper() not in without}
    environment = kept | {"HF_HOME": str(home), "HF_ENDPOINT": f"http://127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_in_the_cache_loads_without_the_hub(said):
    assert said["cached"] > 100
    assert said["reached"] is False


def test_what_is_not_in_the_cache_is_one_line_at_once(said):
    assert len(said["errors"]) == 3
    for told, seconds in said["errors"]:
        assert "\n" not in told
        assert seconds < 15, "one retry of the hub's library takes longer"
