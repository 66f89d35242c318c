"""Switchable training of a real language model on real data, with everything that it is compared with.

    make real-model
    python benchmarks/real_study.py prepare --raw ../shared/data --data build/study/data
    python benchmarks/real_study.py run --data build/study/data --state build/study/state
    python benchmarks/real_study.py summarize --data build/study/data --state build/study/state > real_study.json

``summarize --onto FILE`` completes the summary by an earlier one, whose state was lost with its machine.

``run`` goes on from its state: at the grain of one training checkpoint and one scored bitmap, and a stage whose inputs
are unchanged is skipped.  It stops after ``--minutes``, and can be called until nothing is left; it says what is left.
It needs torch, transformers, peft and scipy alone.  ``--scale`` is ``cpu`` (days of two cores at low priority),
``gpu`` (for one GPU, with ``--jobs 3``: on an H100 400 passes took 47 seconds beside two other stages, and 240 beside
seven, since more processes take turns) or ``tiny`` (a test).

The model is SmolLM2-135M-Instruct, whose weights went through GGUF's Q4_1 once: "full precision" means these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from measure import environment
from study.clock import Clock
from study.data import prepare
from study.onto import onto
from study.place import Place
from study.runner import run
from study.scales import SCALES
from study.summary import MACHINES, summarize

from qalof.files import read_json, write_json

SOURCE = "cache:SmolLM2-135M-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing, running = commands.add_parser("prepare"), commands.add_parser("run")
    summarizing = commands.add_parser("summarize")
    preparing.add_argument("--raw", type=Path, required=True)
    for command in (preparing, running, summarizing):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--model", default=SOURCE)
        command.add_argument("--scale", choices=sorted(SCALES), default="cpu")
    for command in (running, summarizing):
        command.add_argument("--state", type=Path, required=True)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    summarizing.add_argument("--onto", type=Path, help="an earlier summary, for what this state does not have")
    running.add_argument("--minutes", type=float, default=1e6)
    running.add_argument("--jobs", type=int, default=1)
    running.add_argument("--only", help="names of stages, or the beginnings of several, with commas between them")
    options = parser.parse_args()
    if options.command == "prepare":
        print(json.dumps(prepare(options.raw, options.data, options.model, SCALES[options.scale])))
        return
    device, minutes = torch.device(options.device), getattr(options, "minutes", 0.0)
    place = Place(options.model, SCALES[options.scale], options.data, options.state, device, Clock(minutes))
    if options.command == "summarize":
        summary = summarize(place, options.scale)
        if options.onto is not None:
            summary = onto(summary, read_json(options.onto, "an earlier summary"))
        print(json.dumps(summary, indent=1))
        return
    if device.type == "cpu":
        os.nice(10)
    else:
        torch.set_float32_matmul_precision("high")
    note_machine(options.state, device)
    done = run(place, options.jobs, options.only)
    print(f"{len(done)} stages are done", file=sys.stderr)


def note_machine(state: Path, device: torch.device) -> None:
    """Add this machine and commit to those that the state's results come from."""
    here = environment()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else here["cpu"]
    file = state / MACHINES
    known = read_json(file, "the machines of a study") if file.exists() else []
    row = {"device": name, "commit": here["commit"], "torch": here["torch"]}
    if row not in known:
        write_json(file, [*known, row])


if __name__ == "__main__":
    main()
