"""Writes the tables of the studies of a real model into README.md and docs/, and a picture, from benchmarks/results/.

    python benchmarks/tables.py            # or: make results
    python benchmarks/tables.py --check    # says whether the pages agree with the file, and changes nothing

A page marks the place of a table by ``<!-- results: NAME -->`` and ``<!-- end of results -->``; what stands between
them is replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from attack_study.figures import overview_of, table_of, tests_of, transfers_of
from claim_table import claims
from cost_tables import attack_speed, products, start, step
from layer_tables import baselines, head, scheme_pairs, searched, sensitivity, sensitivity_trained, speed
from matplotlib.figure import Figure
from md_tables import rows, three
from peer_tables import peer_quantizers, peer_ratios, peers
from reference_tables import reference_tables
from second_tables import second_damages, second_divergence, second_origin, second_search
from study_tables import NAMES, by_width, compared, cost, data_free, learned, mixed, origin, over_seeds

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "real_study.json"
CPU_STUDY = RESULT.with_name("real_study_cpu.json")
ATTACKS, CPU_ATTACKS = RESULT.with_name("attacks_real.json"), RESULT.with_name("attacks_real_cpu.json")
SEARCH = RESULT.with_name("search_real.json")
PEERS = RESULT.with_name("peers.json")
SECOND = RESULT.with_name("second_model.json")
SECOND_SEARCH = RESULT.with_name("search_second.json")
DAMAGES = RESULT.with_name("site_damages.json")
SECOND_DAMAGES = RESULT.with_name("site_damages_second.json")
STEP, START = RESULT.with_name("train_step_real.json"), RESULT.with_name("start_up.json")
ATTACK_SPEED = RESULT.with_name("attacks.json")
PICTURE = ROOT / "docs" / "front_real.svg"
PAGES = ("README.md", "docs/real_study.md", "docs/attack_study.md", "docs/real_tables.md", "docs/experiments.md")
IN_README = ("untrained", "full_precision", "static_8", "static_4", "spnet", "cascade", "cpt")

Found = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    stale = []
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = filled(before, found)
        if after != before:
            stale.append(page)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    if not options.check:
        PICTURE.write_text(front(json.loads(SEARCH.read_text(encoding="utf-8"))), encoding="utf-8")
    print(json.dumps({"pages": list(PAGES), "stale" if options.check else "written": stale}))
    sys.exit(1 if options.check and stale else 0)


def filled(text: str, found: Found) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- results: {match[1]} -->\n{TABLES[match[1]](found)}\n<!-- end of results -->"

    return re.sub(r"<!-- results: ([a-z0-9 ]+) -->\n.*?<!-- end of results -->", table, text, flags=re.S)


def attack_victims(found: Found) -> str:
    """Clean accuracy of the victims by precision."""
    body = [
        [name, str(row["steps"]), spec, three(values, 1)]
        for name, row in found["victims"].items()
        for spec, values in row["accuracy"].items()
    ]
    return rows(["victim", "steps", "bitmap", "accuracy"], body)


def attack_origin(found: Found) -> str:
    """What the attacks' numbers depend on."""
    about = found["environment"]
    return f"{about['device']}, torch {about['torch']}, commit `{about['commit'][:7]}`; {found['command']}."


def _read(path: Path) -> Found:
    found: Found = json.loads(path.read_text(encoding="utf-8"))
    return found


def front(found: Found) -> str:
    """The bitmaps that a search found, beside uniform ones: an SVG of perplexity by average bits."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    full, *found_rows = found["rows"]
    uniform = {math.floor(row["average_bits"]): row["uniform"] for row in found_rows}
    series = {
        "the best uniform bitmap within the budget": ("#0072b2", "o", uniform),
        "found by the search": ("#d55e00", "s", {row["average_bits"]: row["perplexity"] for row in found_rows}),
    }
    for label, (color, marker, points) in series.items():
        values = [points[bits] for bits in sorted(points)]
        spread = [[v[0] - v[1] for v in values], [v[2] - v[0] for v in values]]
        axes.errorbar(
            sorted(points),
            [v[0] for v in values],
            spread,
            color=color,
            marker=marker,
            capsize=3,
            label=label,
            drawstyle="steps-post" if points is uniform else "default",
        )
    axes.axhline(full["perplexity"][0], color="#616263", linestyle=":", label="nothing rounded")
    low, high = 0.9 * full["perplexity"][0], 1.3 * max(row["perplexity"][2] for row in found_rows)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [round(low, -1), *(tick for tick in (50, 70, 100, 150, 200, 300) if tick < high)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    lost = [f"{bits} bits: {points[0]:,.0f}" for bits, points in sorted(uniform.items()) if points[0] > high]
    if lost:
        axes.set_title(f"not in the picture, uniform {', '.join(lost)}", fontsize=9, color="#616263")
    axes.set_xlabel("average bits per weight")
    axes.set_ylabel("perplexity, with 95 % intervals")
    axes.grid(alpha=0.3)
    axes.legend()
    out = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "front", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"[ \t]+$", "", out.getvalue(), flags=re.M)


def tables_of(
    path: Path, made: Mapping[str, Callable[[Any], str]], prefix: str = ""
) -> dict[str, Callable[[Found], str]]:
    """The tables of one result, by their names after ``prefix``."""
    return {f"{prefix}{name}": lambda _, make=make: make(_read(path)) for name, make in made.items()}


TRAINED: dict[str, Callable[[Found], str]] = {
    "origin": origin,
    "exact match": lambda found: by_width(found, "exact_match", list(NAMES)),
    "f1": lambda found: by_width(found, "f1", list(NAMES)),
    "loss": lambda found: by_width(found, "loss", list(NAMES)),
    "learned": learned,
    "comparisons": compared,
    "mixed": mixed,
    "seeds": over_seeds,
    "search": searched,
    "data free": data_free,
}
"""The tables of trained models, which both runs of the study have."""

ATTACKED: dict[str, Callable[[Any], str]] = {
    "attacks": table_of, "attack tests": tests_of, "attack transfer": transfers_of,
    "attack victims": attack_victims, "attack origin": attack_origin, "attack overview": overview_of,
}  # fmt: skip
"""The tables of attacks, which both runs of that study have."""

TABLES: dict[str, Callable[[Found], str]] = {
    **TRAINED,
    **tables_of(CPU_STUDY, TRAINED, "cpu "),
    "readme": lambda found: by_width(found, "f1", IN_README),
    "baselines": baselines,
    "scheme pairs": scheme_pairs,
    "sensitivity": sensitivity,
    "sensitivity in training": sensitivity_trained,
    "head": head,
    "claims": claims,
    "cost": cost,
    "speed": speed,
    **tables_of(ATTACKS, ATTACKED),
    **tables_of(CPU_ATTACKS, ATTACKED, "cpu "),
    "step": lambda _: step(_read(STEP)),
    "products": lambda _: products(_read(STEP)),
    "start": lambda _: start(_read(START)),
    "attack speed": lambda _: attack_speed(_read(ATTACK_SPEED)),
    "peers": lambda _: peers(_read(PEERS)),
    "peer ratios": lambda _: peer_ratios(_read(PEERS)),
    "second model": lambda _: second_origin(_read(SECOND)),
    "second search": lambda _: second_search(_read(SECOND_SEARCH), _read(SEARCH)),
    "second divergence": lambda _: second_divergence(_read(SECOND_SEARCH)),
    "second damages": lambda _: second_damages(_read(SECOND_DAMAGES), _read(DAMAGES)),
    "peer quantizers": lambda _: peer_quantizers(_read(PEERS)),
    "tables of s1": lambda _: reference_tables("s1"),
    "tables of s3": lambda _: reference_tables("s3"),
    "tables of s4": lambda _: reference_tables("s4"),
}

if __name__ == "__main__":
    main()
