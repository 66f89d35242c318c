"""How much of a search's time goes into its record over HTTP: 200 trials, and a real ``mlflow server`` on 127.0.0.1.

    python benchmarks/tracking.py > benchmarks/results/tracking.json

A search of the shipped tiny model in this process, each of whose trials scores ``--limit`` questions, writes a run per
trial.  What counts as logging is all that the search waits for it: opening the record, handing over writes, and at the
end whatever is not written yet.  The thread that talks to the server is counted beside it, in seconds of its processor
time, since it takes some of the same cores.

Trials of a real model take minutes where these take less than a second, so the share of such a search is smaller.  What
does not shrink is the work per trial: ``seconds_per_trial`` says how long the thread takes to write one, and shorter
trials than that would pile up and be waited for at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import environment, report

import qalof
from orchestrate.jobs.run import execute
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.runs.mlflow_store import ui_command
from orchestrate.runs.mlflow_tracker import Tracker
from qalof.files import read_whole_lines
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.factory import describe_task


@contextmanager
def server(root: Path) -> Iterator[str]:
    """Run MLflow's server on the record in ``root``, and yield its URI once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(ui_command(root, port), stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def clocked(spent: Counter[str]) -> Iterator[None]:
    """Within the block, add up the seconds of each part of logging."""

    def timed(name: str, clock: Callable[[], float], original: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            began = clock()
            try:
                return original(*given, **named)
            finally:
                spent[name] += clock() - began

        return call

    before = {name: getattr(Tracker, name) for name in ("send", "close", "flush")}
    opened = Tracker.open
    Tracker.open = timed("open", time.perf_counter, opened)  # type: ignore[method-assign]
    Tracker.send = timed("hand over", time.perf_counter, before["send"])  # type: ignore[method-assign]
    Tracker.close = timed("wait at the end", time.perf_counter, before["close"])  # type: ignore[method-assign]
    Tracker.flush = timed("thread", time.thread_time, before["flush"])  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tracker.open = opened  # type: ignore[method-assign]
        for name, original in before.items():
            setattr(Tracker, name, original)


def checkpoint(folder: Path) -> Path:
    """Save the tiny model with fresh adapters: a search takes as long as with trained ones."""
    work = qalof.task("squad-span", max_length=128, stride=32)
    model = build(BaseModel("tiny", work.head, labels=work.labels), {"4": AdapterSpec(8), "8": AdapterSpec(8)})
    qalof.save(model, folder, {"task": describe_task(work)})
    return folder


def measured(trials: int, limit: int, threads: int) -> dict[str, Any]:
    """Search once, and say where the time went."""
    spent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as uri:
        root = Path(name)
        data = {
            "checkpoint": str(checkpoint(root / "checkpoint")), "limit": limit, "strategy": "random",
            "space": {"weight": [4, 8], "activation": "same", "kv": "same", "group": "site"},
            "max_evaluations": trials, "tracking": {"uri": uri},
            "workers": {"count": 1, "in_process": True, "threads": threads},
        }  # fmt: skip
        began = time.perf_counter()
        with clocked(spent):
            found = execute("search", SearchConfig.model_validate(data), root / "run")
        seconds = time.perf_counter() - began
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        (experiment,) = [each for each in client.search_experiments() if each.name == "qalof"]
        runs = client.search_runs([experiment.experiment_id], max_results=trials + 100)
        lengths = [
            (run.info.end_time - run.info.start_time) / 1000 for run in runs if "mlflow.parentRunId" in run.data.tags
        ]
        left = len(read_whole_lines(root / "run" / "tracking_queue.jsonl"))
    logging = sum(spent[part] for part in ("open", "hand over", "wait at the end"))
    return {
        "trials": found["evaluations"],
        "trials_on_record": len(lengths),
        "writes_left": left,
        "trial_seconds": {"median": round(statistics.median(lengths), 3), "sum": round(sum(lengths), 1)},
        "seconds": round(seconds, 1),
        "logging_seconds": {part: round(spent[part], 2) for part in ("open", "hand over", "wait at the end")},
        "logging_share": round(logging / seconds, 4),
        "thread_processor_seconds": round(spent["thread"], 1),
        "thread_processor_share": round(spent["thread"] / seconds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rounds = [measured(options.trials, options.limit, options.threads) for _ in range(options.rounds)]
    report(
        {
            "benchmark": "tracking",
            "what": "share of a search's seconds that it waits for its record at an MLflow server over HTTP",
            "model": "tiny",
            "questions_per_trial": options.limit,
            "environment": environment(),
            "rounds": rounds,
            "under_five_percent": all(each["logging_share"] < 0.05 for each in rounds),
        }
    )


if __name__ == "__main__":
    main()
