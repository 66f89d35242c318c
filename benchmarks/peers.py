r"""QaLoF's search beside ModelOpt's ``auto_quantize`` and AutoRound's ``AutoScheme``: same model, text, menu and judge.

    make real-model
    python benchmarks/peers.py setup --tool modelopt
    python benchmarks/peers.py setup --tool autoround
    QALOF_DATA=../shared/data python benchmarks/peers.py run > benchmarks/results/peers.json

Each tool works in a process of its own environment, on one thread, and gives back a recipe per budget (site -> bits)
and the CPU seconds to it, loading of the model apart.  All recipes are judged as bitmaps under QaLoF's default
quantizer (symmetric, per output channel, rounded to nearest, weights alone), so that only the allocation differs, on
text that no tool has seen.  Ours and theirs of the same menu are judged under that tool's own quantizer too.  In a
*tied* recipe layers that a runtime fuses have one width, which is ModelOpt's default: query, key and value of a block,
and the gate and up projections.  A run that is cut off keeps its recipes and scores in ``--output``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(__file__).resolve().parent / "peer_tools"
sys.path.insert(0, str(TOOLS))
from exchange import THREADS, WINDOW, checked, read_job, total, write_answer  # noqa: E402

PINNED = {
    "modelopt": (
        "nvidia-modelopt==0.47.0",
        "requests==2.34.2",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "safetensors==0.8.0",
    ),
    "autoround": ("auto-round==0.16.1", "transformers==5.23.0", "accelerate==1.15.0", "safetensors==0.8.0"),
}
BUDGETS = (4.5, 5.0, 6.0)
FEW, WIDE = (4, 8), (3, 4, 5, 6, 7, 8)
UNIFORM = (4, 5, 6)
AT_ONCE = 2
"""So many tools work beside one another, each on its own thread."""

Job = dict[str, Any]
"""What a tool is asked for."""
Bits = dict[tuple[str, float], dict[str, int]]
"""Recipes by the name of their job and their budget."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    setup = actions.add_parser("setup", help="install a tool into an environment of its own")
    setup.add_argument("--tool", choices=sorted(PINNED), required=True)
    run = actions.add_parser("run", help="recipes of all tools, judged: JSON")
    run.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    run.add_argument("--windows", type=int, default=8, help="of 256 tokens, to calibrate on")
    run.add_argument("--judge", type=int, default=24, help="windows to judge on")
    for each in (setup, run):
        each.add_argument("--output", type=Path, default=ROOT / "build" / "peers")
    options = parser.parse_args()
    options.output = options.output.resolve()
    if options.action == "setup":
        install(options.tool, options.output)
    else:
        compare(options)


def install(tool: str, output: Path) -> None:
    """Make the environment of a tool, with exact versions; torch first, since a range takes a CUDA build of GBs."""
    folder = output / tool / "venv"
    constraints = ROOT / "constraints.txt"
    torch = next(line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "--constraint", constraints, *PINNED[tool]], check=True)


def plan() -> list[Job]:
    """Return who is asked for recipes, in order."""
    few = {"menu": FEW, "tied": False}
    tied = few | {"tied": True}
    return [
        {"tool": "qalof", "way": "knapsack", **few},
        {"tool": "qalof", "way": "guided", **few},
        {"tool": "modelopt", "way": "gradient", **few},
        {"tool": "autoround", "way": "delta loss", **few},
        {"tool": "qalof", "way": "knapsack", **few, "menu": WIDE},
        {"tool": "qalof", "way": "guided", **few, "menu": WIDE},
        {"tool": "qalof", "way": "knapsack", **tied},
        {"tool": "qalof", "way": "guided", **tied},
        {"tool": "modelopt", "way": "gradient", **tied},
    ]


def name_of(job: Job) -> str:
    menu = "4 and 8" if tuple(job["menu"]) == FEW else "3 to 8"
    return f"{job['tool']}, {job['way']}, {menu}{', tied' if job['tied'] else ''}"


def pairs(jobs: Sequence[Job]) -> list[tuple[Job, Job]]:
    """Return ours beside each of the others' that is tied alike."""
    ours, theirs = [[job for job in jobs if (job["tool"] == "qalof") is own] for own in (True, False)]
    return [(mine, other) for mine in ours for other in theirs if mine["tied"] == other["tied"]]


def compare(options: argparse.Namespace) -> None:
    """Get all recipes, judge them, and print the comparison."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is imported, here and in every process below
    import torch

    torch.set_num_threads(THREADS)
    import qalof_judge

    shared = qalof_judge.prepared(options.data, options.output, options.windows)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda job: (job, recipes(job, shared, options.output)), plan()))
    bits = {
        (name_of(job), float(b)): recipe["bits"] for job, answer in found for b, recipe in answer["recipes"].items()
    }
    judge = qalof_judge.Judge(options.output, options.judge)
    with ThreadPoolExecutor(1) as pool:  # beside the judge here
        own = pool.map(lambda tool: judged_by(tool, judge, bits, shared, options.output), PINNED)
        rows = judged(judge, found, bits)
        print(json.dumps(result(rows, list(chain.from_iterable(own)), judge, options), indent=2))


def recipes(job: Job, shared: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Return the recipes of a job, from its file or by running its tool."""
    found = answered(f"with_{job['tool']}.py", job["tool"], name_of(job), job | shared | {"budgets": BUDGETS}, output)
    for recipe in found["recipes"].values():
        recipe["bits"] = checked(recipe["bits"], shared["sites"], job["menu"])
    return found


def answered(script: str, tool: str, name: str, job: Job, output: Path) -> dict[str, Any]:
    """Return the answer of a tool's script to a job, from its file or by running it in the tool's environment."""
    place = output / "answers" / name.replace(", ", "-").replace(" ", "_")
    answer = place.with_suffix(".json")
    if not answer.is_file():
        python = Path(sys.executable) if tool == "qalof" else output / tool / "venv" / "bin" / "python"
        if not python.is_file():
            raise SystemExit(f"{tool} is not there: set it up with `python benchmarks/peers.py setup --tool {tool}`")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_answer(place.with_suffix(".job"), job | {"answer": str(answer)})
        say({"asked": name})
        with place.with_suffix(".log").open("w", encoding="utf-8") as log:
            subprocess.run([python, TOOLS / script, place.with_suffix(".job")], check=True, stdout=log, stderr=log)
    return read_job(answer)


def judged(judge: Any, found: Sequence[tuple[Job, dict[str, Any]]], bits: Bits) -> list[dict[str, Any]]:
    """Return a row per recipe, with the paired ratios of each of ours over the others'."""
    from qalof_judge import perplexity, ratio

    rows = []
    for job, answer in found:
        others = [name_of(other) for mine, other in pairs([job for job, _ in found]) if mine == job]
        for index, (budget, recipe) in enumerate(answer["recipes"].items()):
            losses, within = judge.losses(recipe["bits"]), math.floor(float(budget))
            row = {
                "name": name_of(job), "tool": job["tool"], "version": answer["version"], "way": job["way"],
                "menu": list(job["menu"]), "tied": job["tied"], "budget": float(budget),
                "average_bits": judge.average_bits(recipe["bits"]), "perplexity": perplexity(losses),
                "cpu_seconds": recipe["cpu_seconds"], "wall_seconds": recipe["wall_seconds"],
                "cpu_seconds_of_all_budgets": total(list(answer["recipes"].values()))["cpu_seconds"],
                "is_first": index == 0,
            }  # fmt: skip
            row["overshoots"] = row["average_bits"] > float(budget) + 1e-9
            if "evaluations" in recipe:
                row["evaluations"] = recipe["evaluations"]
            over = {other: bits[other, float(budget)] for other in others}
            over = {f"uniform {within}": dict.fromkeys(judge.sites, within)} | over
            row["ratio_to"] = {other: ratio(losses, judge.losses(theirs)) for other, theirs in over.items()}
            rows.append(row)
            say({name: row[name] for name in ("name", "budget", "average_bits", "perplexity")})
    return rows


def judged_by(tool: str, judge: Any, bits: Bits, shared: Mapping[str, Any], output: Path) -> list[dict[str, Any]]:
    """Return a row per pair of a recipe of ours and one of the tool, of the same menu, under the tool's quantizers."""
    from qalof_judge import perplexity, ratio

    found = [(a, b) for a, b in pairs(plan()) if b["tool"] == tool and a["menu"] == b["menu"]]
    names = dict.fromkeys(name_of(job) for pair in found for job in pair)
    asked = {f"{name}, {budget}": bits[name, budget] for name in names for budget in BUDGETS}
    job = {"model": shared["model"], "sites": shared["sites"], "menu": FEW, "windows": judge.windows, "recipes": asked}
    answer = answered(f"judged_by_{tool}.py", tool, f"judged by {tool}", job, output)
    rows = []
    for quantizer, given in answer.items():
        for (mine, theirs), budget in product(found, BUDGETS):
            pair = [given["losses"][f"{name_of(job)}, {budget}"] for job in (mine, theirs)]
            rows.append(
                {
                    "quantizer": quantizer, "ours": name_of(mine), "theirs": name_of(theirs), "budget": budget,
                    "perplexity": [perplexity(losses) for losses in pair], "ratio": ratio(*pair),
                    "cpu_seconds_to_round": given["cpu_seconds"],
                }
            )  # fmt: skip
    return rows


def result(
    rows: list[dict[str, Any]], own: list[dict[str, Any]], judge: Any, options: argparse.Namespace
) -> dict[str, Any]:
    from measure import environment
    from qalof_judge import SOURCE, perplexity

    uniform = {str(width): perplexity(judge.losses(dict.fromkeys(judge.sites, width))) for width in UNIFORM}
    return {
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "model": SOURCE, "stored_as": "Q4_1", "data": "WikiText-2 raw validation, three parts",
        "quantizer": "symmetric, per output channel, rounded to nearest, weights alone",
        "judge_on_positions": options.judge * (WINDOW - 1), "calibrate_windows": options.windows,
        "calibrate_windows_of": WINDOW, "threads_of_each_tool": THREADS, "seed": 0,
        "full_precision": perplexity(judge.losses({})), "uniform": uniform,
        "pinned": {tool: list(pins) for tool, pins in PINNED.items()},
        "rows": rows, "own_quantizers": own,
        **environment(),
    }  # fmt: skip


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
