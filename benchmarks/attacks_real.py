"""What random precision is worth: attacks on a real language model's classifiers, and on random precision itself.

    make real-model
    python benchmarks/attacks_real.py prepare --raw ../shared/data --data build/attacks/data
    python benchmarks/attacks_real.py run --data build/attacks/data --state build/attacks/state > attacks.json
    python benchmarks/attacks_real.py table attacks.json

``run`` trains the victims, attacks every text at each of its precisions and in the mean over them, and reads what was
found at all precisions and under random precision.  It goes on from its state until its minutes are over, and can be
called again until ``finished`` is true; ``--processes`` share out trainings and texts.  ``--attacks bert-attack,gbda``
takes these methods alone, ``--attacks gbda/sst2/sp`` one group, and ``--texts`` at most so many texts of each group, so
a run on two cores can be cut to what it has time for; every finished text is kept.  ``--masked-lm`` is the folder of
BERT-Attack's masked language model, whose stand-in is the left context of the causal one.  The study needs torch,
transformers, peft and scipy alone.  ``--scale`` is ``gpu`` (200 texts per victim and method), ``cpu`` (the same on
cores with bf16 instructions, with smaller budgets) or ``mini`` (every stage once).  The model is SmolLM2-135M, whose
weights went through GGUF's Q4_1 once: "32" means dequantized Q4_1 with nothing rounded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from attack_study.bundle import prepare, unpacked
from attack_study.figures import figures_of, table_of
from attack_study.place import TRAINED, Place, victim_folder
from attack_study.scales import SCALES, Scale
from attack_study.work import Records, attack_all, train_all
from measure import environment
from study.clock import Clock

from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT
from qalof.files import read_json

MODEL, ENCODER = "cache:SmolLM2-135M-Instruct", "cache:all-MiniLM-L6-v2"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare")
    preparing.add_argument("--raw", type=Path, required=True)
    preparing.add_argument("--data", type=Path, required=True)
    preparing.add_argument("--model", default=MODEL, help="of a GGUF file")
    preparing.add_argument("--encoder", default=ENCODER)
    running = commands.add_parser("run")
    running.add_argument("--data", type=Path, required=True)
    running.add_argument("--state", type=Path, required=True)
    running.add_argument("--model", type=Path, help="folder of the model; that of --data where none is given")
    running.add_argument("--encoder", help="folder of the sentence encoder; likewise")
    running.add_argument("--minutes", type=float, default=9.0)
    running.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    running.add_argument("--scale", choices=sorted(SCALES), default="gpu")
    running.add_argument("--attacks", help="methods and groups, with commas between; by default all")
    running.add_argument("--texts", type=int, help="the most texts of a group")
    running.add_argument("--masked-lm", default=LEFT_CONTEXT, help="folder of BERT-Attack's masked language model")
    running.add_argument("--processes", type=int, default=1)
    running.add_argument("--threads", type=int, default=1, help="of each process, on the CPU")
    running.add_argument("--only", choices=("train", "attack"), help="one stage, as a process of several does")
    running.add_argument("--shard", type=int, default=0)
    commands.add_parser("table").add_argument("result", type=Path)
    options = parser.parse_args()
    if options.command == "prepare":
        print(json.dumps(prepare(options.raw, options.data, options.model, options.encoder), indent=2))
        return 0
    if options.command == "table":
        print(table_of(json.loads(options.result.read_text(encoding="utf-8"))))
        return 0
    if options.only:
        return _one_stage(options)
    print(json.dumps(run(options), indent=2))
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every stage by as many processes as were asked for, while there is time; then the figures of what is there."""
    clock, scale = Clock(options.minutes), _scale(options)
    options.model = unpacked(options.model or options.data / "model", options.state / "model")
    options.encoder = options.encoder or str(options.data / "encoder")
    finished = all(_stage(stage, options, clock) for stage in ("train", "attack"))
    records = Records(options.state, 0, 1)
    figures = {group.name: figures_of(group, records) for group in scale.of_groups()}
    return {
        "benchmark": "attacks_real", "command": _command(options), "scale": options.scale,
        "precision": scale.precision, "finished": finished,
        "environment": _environment(torch.device(options.device)), "victims": _victims(options.state, scale),
        "groups": {name: group for name, group in figures.items() if group},
    }  # fmt: skip


def _stage(stage: str, options: argparse.Namespace, clock: Clock) -> bool:
    """Run one stage in processes of its own, and say whether it is done."""
    left = (clock.end - _now()) / 60
    if left <= 0:
        return False
    given = ("data", "state", "model", "encoder", "device", "scale", "processes", "threads", "attacks", "texts")
    named = {name: getattr(options, name) for name in given} | {"masked-lm": options.masked_lm}
    shared = [text for name, value in named.items() if value is not None for text in (f"--{name}", str(value))]
    command = [sys.executable, __file__, "run", *shared, "--minutes", f"{left:.3f}", "--only", stage]
    running = [subprocess.Popen([*command, "--shard", str(shard)]) for shard in range(options.processes)]
    codes = [process.wait() for process in running]
    if any(code not in (0, 3) for code in codes):
        raise SystemExit(f"a process of stage {stage} failed: exit codes {codes}; run again to go on")
    return not any(codes)


def _scale(options: argparse.Namespace) -> Scale:
    methods = None if options.attacks is None else [each.strip() for each in options.attacks.split(",")]
    return SCALES[options.scale].only(methods, options.texts)


def _one_stage(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    place = Place(
        options.data, options.model, options.encoder, options.state, _scale(options),
        torch.device(options.device), options.shard, options.processes, options.masked_lm,
    )  # fmt: skip
    done = {"train": train_all, "attack": attack_all}[options.only](place, Clock(options.minutes))
    return 0 if done else 3


def _command(options: argparse.Namespace) -> str:
    """What bears on the numbers; folders are this machine's own."""
    named = {"scale": options.scale, "attacks": options.attacks, "texts": options.texts}
    words = [f"--{name} {value}" for name, value in named.items() if value is not None]
    return " ".join(["python benchmarks/attacks_real.py run", *words])


def _victims(state: Path, scale: Scale) -> dict[str, Any]:
    folders = [victim_folder(state, data, victim) for data, victim in scale.trainings()]
    return {each.name: read_json(each / TRAINED, "training") for each in folders if (each / TRAINED).is_file()}


def _now() -> float:
    import time

    return time.monotonic()


def _environment(device: torch.device) -> dict[str, Any]:
    found = environment()
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else found["cpu"]
    return found


if __name__ == "__main__":
    sys.exit(main())
