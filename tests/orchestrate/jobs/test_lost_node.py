"""A node is killed in the middle of a search, and another in the middle of an attack: each ends as if undisturbed."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.run import execute
from orchestrate.jobs.search.config import SearchConfig
from qalof.files import read_whole_lines, write_text

pytestmark = pytest.mark.ray

# a head and two more nodes on this machine; a process of its own, for Ray is one per process
SCRIPT = """
import json, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from orchestrate.cluster.connection import connect
from orchestrate.config.loader import load_config
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from qalof.files import read_whole_lines, write_text

folder = Path(sys.argv[1])
watched = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": watched}
)
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

def kill(node, record, lines):
    while (done := len(read_whole_lines(record))) < lines:
        time.sleep(0.02)
    cluster.remove_node(node, allow_graceful=False)  # SIGKILL
    killed.append(done)

killed = []
with connect(cluster.address):
    for command, record, node in (("search", "search.jsonl", nodes[0]), ("attack", "attacks.jsonl", nodes[1])):
        killer = threading.Thread(target=kill, args=(node, folder / command / record, 2), daemon=True)
        killer.start()
        execute(command, load_config(JOBS[command].config, folder / f"{command}.yaml"), folder / command)
        killer.join()
cluster.shutdown()
write_text(folder / "killed.json", json.dumps(killed))
"""


def test_a_search_and_an_attack_that_lose_a_node_end_as_if_undisturbed(span_checkpoint, review_checkpoint, tmp_path):
    here = {"count": 1, "in_process": True, "threads": 1}
    configs = {
        "search": {
            "checkpoint": str(span_checkpoint), "limit": 8, "strategy": "tpe", "max_evaluations": 12,
            "space": {"weight": [2, 4, 8]}, "workers": {"count": 3, "threads": 1},
        },
        "attack": {
            "checkpoint": str(review_checkpoint), "limit": 4, "bitmaps": [8, 4],
            "method": {"name": "gbda", "settings": {"iterations": 8, "batch": 2, "samples": 6}},
            "random_precision": {"bitmaps": [8, 4], "granularity": "layer", "draws": 2},
            "workers": {"count": 2, "threads": 1},
        },
    }  # fmt: skip
    for command, data in configs.items():
        config = {**data, "tracking": {"root": str(tmp_path)}}
        write_text(tmp_path / f"{command}.yaml", yaml.safe_dump(config))
        kind = {"search": SearchConfig, "attack": AttackConfig}[command]
        execute(command, kind.model_validate({**config, "workers": here}), tmp_path / "undisturbed" / command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # the cluster of the script has no token, whatever token an earlier Ray left in the home folder
    environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "no-token")
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=540, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    # a file, for Ray writes into the middle of a line that is printed
    killed = json.loads((tmp_path / "killed.json").read_text())
    assert len(killed) == 2
    assert killed[0] < 12, "the first kill fell into the search"
    assert killed[1] < 8, "the second kill fell into the attack"
    ours, theirs = tmp_path, tmp_path / "undisturbed"
    fronts = [json.loads((place / "search" / "front.json").read_text()) for place in (ours, theirs)]
    assert fronts[0] == fronts[1]
    results = [json.loads((place / "attack" / "robustness.json").read_text()) for place in (ours, theirs)]
    assert results[0] == results[1]
    assert attacks(ours / "attack") == attacks(theirs / "attack")


def attacks(folder):
    parsed = [json.loads(line) for line in read_whole_lines(folder / "attacks.jsonl")]
    return sorted(
        ({name: value for name, value in line.items() if name != "seconds"} for line in parsed),
        key=lambda line: (line["bitmap"], line["example_id"]),
    )
