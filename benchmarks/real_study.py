"""The whole study on one GPU: pretrain a GPT-2, fine-tune it by every method on real SQuAD, score, rank, search.

    python benchmarks/real_study.py prepare --raw ../shared/data --data study/data      # where the raw data lie
    python benchmarks/real_study.py run --data study/data --state study/state --minutes 9 > study.json
    python benchmarks/real_study.py table study.json

``run`` goes on from its state until its minutes are over, and can be called again until ``finished`` is true; it
needs torch, transformers and peft alone.  ``--scale`` is ``gpu`` (GPT-2 small's shape, 124 M parameters),
``gpu-short`` (45 M) or ``cpu`` (minutes, learns nothing).  Answers are those of 39 of the dev set's 48 articles, 8,977
questions; intervals are 95 % bootstraps over questions.  The span head is trained with each method's adapters.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from study import stages
from study.clock import Clock, OutOfTimeError
from study.data import PreparedSpanTask, prepare
from study.pretrain import pretrain
from study.scales import SCALES, Scale

from qalof.files import read_json, write_json

SEARCHED = "cascade"
BUDGET = 6.0
REFERENCE = {
    "static8": {"8": "S1: 63.8 / 75.1"},
    "cpt": {"8": "S1: 63.5 / 74.7", "7": "S1: 63.8 / 74.9", "6": "S1: 63.1 / 74.3"},
    "spnet": {"4/8 hybrid": "S1: 61.0 / 72.3"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare")
    preparing.add_argument("--raw", type=Path, required=True)
    running = commands.add_parser("run")
    running.add_argument("--state", type=Path, required=True)
    running.add_argument("--minutes", type=float, default=9.0)
    running.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for command in (preparing, running):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--scale", choices=sorted(SCALES), default="gpu")
    commands.add_parser("table").add_argument("result", type=Path)
    options = parser.parse_args()
    if options.command == "prepare":
        print(json.dumps(prepare(options.raw, options.data, SCALES[options.scale])))
    elif options.command == "table":
        print(table(json.loads(options.result.read_text(encoding="utf-8"))))
    else:
        device = torch.device(options.device)
        print(json.dumps(run(options.data, options.state, options.scale, device, Clock(options.minutes)), indent=2))


def run(data: Path, state: Path, name: str, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Every stage whose result is not there yet, in order, while there is time."""
    scale = SCALES[name]
    done: dict[str, Any] = {}
    for stage, work in _stages(data, state, scale, device, clock, done).items():
        file = state / "results" / f"{stage}.json"
        if not file.exists():
            print(f"stage {stage}", file=sys.stderr)
            try:
                found = None if clock.out else work()
            except OutOfTimeError:
                found = None
            if found is None:
                break
            write_json(file, found)
        done[stage] = read_json(file, "stage's result")
    finished = len(done) == len(_stages(data, state, scale, device, clock, done))
    return {"benchmark": "real_study", "scale": name, "finished": finished, "environment": _environment(device)} | done


def _stages(
    data: Path, state: Path, scale: Scale, device: torch.device, clock: Clock, done: dict[str, Any]
) -> dict[str, Callable[[], dict[str, Any] | None]]:
    task = PreparedSpanTask(data, scale)
    base = state / "pretrained"
    best = state / SEARCHED
    work: dict[str, Callable[[], dict[str, Any] | None]] = {
        "pretraining": lambda: pretrain(data, base, scale, device, clock)
    }
    for method in stages.METHODS:
        place = state / method

        def tune(method: str = method, place: Path = place) -> dict[str, Any] | None:
            return stages.fine_tune(method, base / "model", place, task, scale, device, clock)

        def score(place: Path = place) -> dict[str, Any] | None:
            return stages.score(place, task, scale, device, clock)

        work[f"train_{method}"], work[f"score_{method}"] = tune, score
    work["speed"] = lambda: stages.speed(best, scale, device)
    work["sensitivity"] = lambda: stages.explore(best, task, scale, device, clock, "one_at_a_time")
    work["search"] = lambda: stages.explore(best, task, scale, device, clock, "greedy")
    work["confirmation"] = lambda: stages.confirm(best, done["search"], task, device, BUDGET)
    return work


def table(result: dict[str, Any]) -> str:
    """Exact match and F1 by method and width, as markdown, beside the references' numbers."""
    lines = ["| method | bits | exact match | F1 | reference (EM / F1) |", "|---|---|---|---|---|"]
    for method in stages.METHODS:
        scored = result.get(f"score_{method}")
        for bits, row in (scored or {"widths": {}})["widths"].items():
            cells = [f"{v:.1f} [{low:.1f}, {high:.1f}]" for v, low, high in (row["exact_match"], row["f1"])]
            lines.append(f"| {method} | {bits} | {' | '.join(cells)} | {REFERENCE.get(method, {}).get(bits, '')} |")
    return "\n".join(lines)


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"device": name, **versions, "transformers": transformers.__version__}


if __name__ == "__main__":
    main()
