"""Seconds until a command on a real model gets to its work, in fresh processes, and where they go.

    make real-model
    QALOF_DATA=../shared/data python benchmarks/start_up.py > benchmarks/results/start_up.json

``validate`` is measured to its end and ``train`` to the beginning of its first step, whose own time is given as
``first_step``. ``cold`` has a cache that holds the models alone, as after ``make real-model``, so texts are tokenized
and files are hashed; ``warm`` is the same command again. ``seconds`` are those of a clock, which depend on what else
the machine does, and ``cpu_seconds`` those of the processor. ``imports`` are those of the command's own modules, and
``other`` is the time that no name covers; ``ray`` occurs where the workers of the config are not the process itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from measure import environment

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train" / "sp_real.yaml"
BEGUN, SPANS = "QALOF_BENCHMARK_BEGUN", "spans.json"


class Watch:
    """Seconds by name, and those to the beginning of the first step and of that step itself."""

    def __init__(self) -> None:
        self.cpu: float | None = None
        self.spans: dict[str, float] = {}
        self.ready: float | None = None
        self.first_step: float | None = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        started = time.time()
        try:
            yield
        finally:
            self.spans[name] = self.spans.get(name, 0.0) + time.time() - started

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Count what a function takes, wherever it is looked up on ``owner``."""
        inner = getattr(owner, attribute)

        @functools.wraps(inner)
        def timed(*args: Any, **options: Any) -> Any:
            with self.span(name):
                return inner(*args, **options)

        setattr(owner, attribute, timed)

    def wrap_context(self, owner: Any, attribute: str, name: str) -> None:
        """Count what it takes to enter a context manager."""
        inner = getattr(owner, attribute)

        @contextmanager
        def timed(*args: Any, **options: Any) -> Iterator[Any]:
            started = time.time()
            with inner(*args, **options) as entered:
                self.spans[name] = self.spans.get(name, 0.0) + time.time() - started
                yield entered

        setattr(owner, attribute, timed)

    def write(self, folder: Path) -> None:
        done = time.time()
        ready = self.ready or done
        total = ready - float(os.environ[BEGUN])
        spans = {name: round(seconds, 3) for name, seconds in self.spans.items()}
        spans["other"] = round(total - sum(spans.values()), 3)
        cpu = time.process_time() if self.cpu is None else self.cpu
        measured = {"seconds": round(total, 3), "cpu_seconds": round(cpu, 3), "first_step": self.first_step}
        found = {**measured, "spans": spans}
        (folder / SPANS).write_text(json.dumps(found), encoding="utf-8")


class Enough(Exception):
    """The first step is done."""


def child(command: str, config: str, folder: Path) -> None:
    """Run a command in this process as ``qalof`` does, up to the end of its first step."""
    watch = Watch()
    watch.spans["imports"] = time.time() - float(os.environ[BEGUN])
    with watch.span("imports"):
        from orchestrate.cli import app
        from orchestrate.config import build
        from orchestrate.jobs import base, run
        from orchestrate.pipeline import describe  # noqa: F401
        from orchestrate.runs import mlflow_tracker
        from qalof.model import pretrained  # noqa: F401
        from qalof.tasks import factory
        from qalof.training import loop
    watch.wrap(factory, "load_tokenizer", "tokenizer")
    watch.wrap(build.BaseModel, "load", "model")
    watch.wrap(build, "build", "switches and adapters")
    watch.wrap(base, "input_digests", "digests of inputs")
    watch.wrap(mlflow_tracker.Tracker, "open", "record")
    watch.wrap_context(run, "connect", "ray")
    for task, _ in factory.TASKS.values():
        watch.wrap(task, "train_features", "data")
    step: Callable[[Any], Any] = loop.Trainer.train_step

    def first(trainer: Any) -> None:
        watch.ready, watch.cpu = time.time(), time.process_time()
        step(trainer)
        watch.first_step = round(time.time() - watch.ready, 3)
        raise Enough

    loop.Trainer.train_step = first  # type: ignore[method-assign]
    output = ["--output", str(folder / "run")] if command == "train" else []
    extra = [f"tracking.root={folder / 'record'}"] if command == "train" else []
    sys.argv = ["qalof", command, "--config", config, *output, *extra]
    with suppress(Enough):
        app.main()
    watch.write(folder)


def measured(command: str, config: str, cache: Path) -> dict[str, Any]:
    """One fresh process with its own run directory."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--child", command, "--config", config, "--folder", folder]
        # an installed package has compiled modules, whatever this variable says of a checkout
        given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        told = {**given, "QALOF_CACHE": str(cache), BEGUN: repr(time.time())}
        done = subprocess.run(words, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{command} failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads((Path(folder) / SPANS).read_text(encoding="utf-8"))
        print(command, found, file=sys.stderr, flush=True)
        return found


def beside(real: Path, folder: Path) -> Path:
    """A cache that has the models of ``real`` and nothing else."""
    for name in ("models", "converted"):
        if (real / name).is_dir():
            (folder / name).symlink_to(real / name)
    return folder


def summed_up(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of the seconds, and of each span the median."""
    seconds = [run["seconds"] for run in runs]
    names = dict.fromkeys(name for run in runs for name in run["spans"])
    spans = {name: round(statistics.median(run["spans"].get(name, 0.0) for run in runs), 2) for name in names}
    steps = [run["first_step"] for run in runs if run["first_step"] is not None]
    found = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": len(runs)}
    first = {"first_step": round(statistics.median(steps), 2)} if steps else {}
    first["cpu_seconds"] = round(statistics.median(run["cpu_seconds"] for run in runs), 2)
    return {**{name: round(value, 2) for name, value in found.items()}, **first, "spans": spans}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=("validate", "train"), help="for this script itself")
    parser.add_argument("--folder", type=Path, help="likewise")
    options = parser.parse_args()
    if options.child:
        child(options.child, options.config, options.folder)
        return
    from qalof.cache import cache_dir

    result: dict[str, Any] = {}
    for command in ("validate", "train"):
        with tempfile.TemporaryDirectory() as folder:
            cache = beside(cache_dir(), Path(folder))
            cold = [measured(command, options.config, cache)]
            warm = [measured(command, options.config, cache) for _ in range(options.repeats)]
        result[command] = {"cold": summed_up(cold), "warm": summed_up(warm)}
    config = Path(options.config)
    shown = config.relative_to(CONFIG.parents[2]) if config.is_relative_to(CONFIG.parents[2]) else config.name
    print(json.dumps({"config": str(shown), **result, **environment()}, indent=2))


if __name__ == "__main__":
    main()
