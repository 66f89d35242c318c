r"""QaLoF's search beside ModelOpt's ``auto_quantize`` and AutoRound's ``AutoScheme``: same model, text, menu and judge.

    make real-model
    python benchmarks/peers.py setup --tool modelopt
    python benchmarks/peers.py setup --tool autoround
    QALOF_DATA=../shared/data python benchmarks/peers.py run --judge 24 --ways knapsack gradient "delta loss" \
        > benchmarks/results/peers.json

Each tool works in a process of its own environment, on one thread, and gives back a recipe per budget (site -> bits)
and the CPU seconds to it, loading of the model apart.  All recipes are judged as bitmaps under QaLoF's default
quantizer (symmetric, per output channel, rounded to nearest, weights alone), so that only the allocation differs, on
text that no tool has seen.  A run that is cut off keeps its recipes and scores in ``--output``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
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
WAYS = ("knapsack", "gradient", "delta loss", "guided", "gradient, tied")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    setup = actions.add_parser("setup", help="install a tool into an environment of its own")
    setup.add_argument("--tool", choices=sorted(PINNED), required=True)
    run = actions.add_parser("run", help="recipes of all tools, judged: JSON")
    run.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    run.add_argument("--windows", type=int, nargs="+", default=[8], help="of 256 tokens, to calibrate on")
    run.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    run.add_argument("--judge", type=int, default=12, help="windows to judge on")
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


def plan(windows: Sequence[int], ways: Sequence[str] = WAYS) -> list[dict[str, Any]]:
    """Who is asked for recipes, in order; the longest ways are taken for the first number of windows alone."""
    few = windows[0]
    jobs: list[dict[str, Any]] = []
    for count in windows:
        jobs += [
            {"tool": "qalof", "way": "knapsack", "menu": FEW, "calibrate_windows": count},
            {"tool": "modelopt", "way": "gradient", "tied": False, "menu": FEW, "calibrate_windows": count},
            {"tool": "autoround", "way": "delta loss", "menu": FEW, "calibrate_windows": count},
            {"tool": "qalof", "way": "knapsack", "menu": WIDE, "calibrate_windows": count},
        ]
    jobs += [
        {"tool": "qalof", "way": "guided", "menu": FEW, "calibrate_windows": few},
        {"tool": "qalof", "way": "guided", "menu": WIDE, "calibrate_windows": few},
        {"tool": "modelopt", "way": "gradient, tied", "tied": True, "menu": FEW, "calibrate_windows": few},
    ]
    return [job for job in jobs if job["way"] in ways]


def name_of(job: dict[str, Any]) -> str:
    menu = "4 and 8" if tuple(job["menu"]) == FEW else "3 to 8"
    return f"{job['tool']}, {job['way']}, {menu}, {job['calibrate_windows']} windows"


def compare(options: argparse.Namespace) -> None:
    """Get all recipes, judge them, and print the comparison."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is imported, here and in every process below
    import torch

    torch.set_num_threads(THREADS)
    import qalof_judge

    shared = qalof_judge.prepared(options.data, options.output, max(16, *options.windows))
    found = []
    for job in plan(options.windows, options.ways):
        answer = answered(job, shared, options.output)
        if answer is None:
            say({"not run": name_of(job), "since": f"{job['tool']} is not set up"})
            continue
        found.append((job, answer))
    judge = qalof_judge.Judge(shared["model"], options.output, options.judge)
    rows = judged(judge, found)
    print(json.dumps(result(rows, judge, options), indent=2))


def answered(job: dict[str, Any], shared: dict[str, Any], output: Path) -> dict[str, Any] | None:
    """Return the recipes of a job, from its file or by running its tool; None where the tool is not set up."""
    place = output / "recipes" / name_of(job).replace(", ", "-").replace(" ", "_")
    answer = place.with_suffix(".json")
    if not answer.is_file():
        python = Path(sys.executable) if job["tool"] == "qalof" else output / job["tool"] / "venv" / "bin" / "python"
        if not python.is_file():
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        count = job["calibrate_windows"]
        asked = {**job, **shared, "budgets": BUDGETS, "answer": str(answer)}
        asked |= {name: shared[name][:count] for name in ("windows", "texts")}
        write_answer(place.with_suffix(".job"), asked)
        say({"asked": name_of(job)})
        script = TOOLS / f"with_{job['tool']}.py"
        with place.with_suffix(".log").open("w", encoding="utf-8") as log:
            subprocess.run([python, script, place.with_suffix(".job")], check=True, stdout=log, stderr=log)
    found = read_job(answer)
    for recipe in found["recipes"].values():
        recipe["bits"] = checked(recipe["bits"], shared["sites"], job["menu"])
    return found


def judged(judge: Any, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row per recipe, with the ratios of each of ours of the same menu and text over it."""
    rows = []
    for job, answer in found:
        for index, (budget, recipe) in enumerate(answer["recipes"].items()):
            row = {
                "name": name_of(job), "tool": job["tool"], "version": answer["version"], "way": job["way"],
                "menu": list(job["menu"]), "calibrate_windows": job["calibrate_windows"], "budget": float(budget),
                **judge.of(recipe["bits"]),
                "cpu_seconds": recipe["cpu_seconds"], "wall_seconds": recipe["wall_seconds"],
                "cpu_seconds_of_all_budgets": total(list(answer["recipes"].values()))["cpu_seconds"],
                "is_first": index == 0,
            }  # fmt: skip
            row["overshoots"] = row["average_bits"] > float(budget) + 1e-9
            if "evaluations" in recipe:
                row["evaluations"] = recipe["evaluations"]
            rows.append(row)
            say({name: row[name] for name in ("name", "budget", "average_bits", "perplexity")})
    bits = {(name_of(job), float(b)): r["bits"] for job, answer in found for b, r in answer["recipes"].items()}
    for row in rows:
        mine = bits[row["name"], row["budget"]]
        row["ratio_to"] = {
            f"uniform {width}": judge.ratio(mine, judge.uniform(width)) for width in (math.floor(row["budget"]),)
        }
        if row["tool"] == "qalof":
            row["ratio_to"] |= {
                other: judge.ratio(mine, theirs)
                for (other, budget), theirs in bits.items()
                if budget == row["budget"] and not other.startswith("qalof")
            }
    return rows


def result(rows: list[dict[str, Any]], judge: Any, options: argparse.Namespace) -> dict[str, Any]:
    from measure import environment

    return {
        "model": judge.source, "stored_as": "Q4_1", "data": "WikiText-2 raw validation, three parts",
        "quantizer": "symmetric, per output channel, rounded to nearest, weights alone",
        "judge_on_positions": options.judge * (WINDOW - 1), "calibrate_windows_of": WINDOW,
        "threads_of_each_tool": THREADS, "seed": 0,
        "full_precision": judge.full(), "uniform": {str(w): judge.of(judge.uniform(w))["perplexity"] for w in UNIFORM},
        "pinned": {tool: list(pins) for tool, pins in PINNED.items()},
        "rows": rows,
        **environment(),
    }  # fmt: skip


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
