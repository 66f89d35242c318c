"""Elastic training: a node is lost, and the run goes on with fewer workers."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import yaml

from orchestrate.runs.directory import read_result
from qalof.files import read_whole_lines, write_text

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS, EVERY = 1000, 400
LOST_AFTER = EVERY + 25
"""The steps on record when the node is taken away.  Its worker dies up to a second or two later, on a fast machine some
hundred steps on, which must not fall into the saving of a checkpoint: then no step would be repeated."""

# a cluster of two nodes on this machine, one of which is taken away; a process of its own, for Ray is one a process
SCRIPT = """
import json, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from orchestrate.cluster.connection import connect
from orchestrate.config.train import TrainConfig
from orchestrate.config.loader import load_config
from orchestrate.jobs.run import execute
from qalof.files import read_whole_lines

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)

def lose_a_node():
    while len(read_whole_lines(folder / "run" / "losses.jsonl")) <= int(sys.argv[2]):
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)

threading.Thread(target=lose_a_node, daemon=True).start()
with connect(cluster.address):
    execute("train", load_config(TrainConfig, folder / "train.yaml"), folder / "run")
cluster.shutdown()
"""


def test_a_run_that_loses_a_node_goes_on_with_the_workers_that_are_left(random_model, tmp_path):
    data = {"max_length": 96, "stride": 16, "train_split": "train[:48]", "validation_split": "validation[:8]"}
    config = {
        "model": {"source": random_model},
        "task": {"name": "squad-span", "settings": data},
        "adapters": {"rank": 2},
        "objective": {"name": "spnet", "bitmaps": ["w8a32kv32"]},
        "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": EVERY, "seed": 3},
        "workers": {"count": 2, "min_count": 1, "threads": 1},
        "evaluation": {"bitmaps": [8]},
        "tracking": {"root": str(tmp_path)},
    }
    write_text(tmp_path / "train.yaml", yaml.safe_dump(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # the cluster of the script has no token, whatever token an earlier Ray left in the home folder
    environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "no-token")
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), str(LOST_AFTER)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=540, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [json.loads(line)["step"] for line in read_whole_lines(tmp_path / "run" / "losses.jsonl")]
    assert set(steps) == set(range(STEPS))
    gone_back_to = {after for before, after in pairwise(steps) if after <= before}
    assert gone_back_to == {EVERY}, "the run must go on from the checkpoint before the loss, and repeat what came after"
    assert read_result(tmp_path / "run" / "result.json")["steps"] == STEPS
