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
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from attack_study.figures import table_of, tests_of, transfers_of
from claim_table import claims
from matplotlib.figure import Figure
from md_tables import rows, three

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "real_study.json"
ATTACKS = RESULT.with_name("attacks_real.json")
SEARCH = RESULT.with_name("search_real.json")
PICTURE = ROOT / "docs" / "front_real.svg"
PAGES = ("README.md", "docs/real_study.md", "docs/attack_study.md")
WIDTHS = ("32", "8", "6", "5", "4", "3")
NAMES = {
    "untrained": "not trained",
    "full_precision": "LoRA at full precision, then rounded",
    "static_8": "trained at 8 bits alone",
    "static_6": "trained at 6 bits alone",
    "static_5": "trained at 5 bits alone",
    "static_4": "trained at 4 bits alone",
    "static_4_again": "the same, another seed",
    "spnet": "SP at 8 and 4",
    "spnet_again": "the same, another seed",
    "cascade_two": "SP at 8 and 4, cascade distillation",
    "spnet_five": "SP at 16, 8, 6, 5 and 4",
    "cascade": "SP at 16, 8, 6, 5 and 4, cascade distillation",
    "cpt": "CPT, 4 to 8, one adapter",
    "layerwise": "SP at 8, and a width of its own per layer",
    "curriculum": "SP, 8 first, then 6, 5 and 4 too",
    "data_free_4": "4 bits, data-free distillation",
}
IN_README = ("untrained", "full_precision", "static_8", "static_4", "spnet", "cascade", "cpt")
METRICS = {"f1": ("F1", 1), "exact_match": ("exact match", 1), "loss": ("loss", 3), "perplexity": ("perplexity", 2)}
PLUS = ("f1", "exact_match", "loss")

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


def by_width(found: Found, metric: str, methods: Sequence[str], short: bool = False) -> str:
    """Method by width; an adapter of another width that stands in is marked."""
    name, digits = METRICS[metric]
    body = []
    methods = [method for method in methods if method in found["scores"]]
    widths = [bits for bits in WIDTHS if any(bits in found["scores"][method] for method in methods)]
    for method in methods:
        scored = found["scores"][method]
        adapters = found["trainings"].get(method, {"adapters": ["shared"]})["adapters"]
        cells = []
        for bits in widths:
            if bits not in scored:
                cells.append("not scored")
                continue
            values = scored[bits][metric]
            text = f"{values[0]:.{digits}f}" if short else three(values, digits)
            own = bits in adapters or "shared" in adapters
            few = "" if scored[bits]["questions"] == found["questions"] else " †"
            cells.append((text if own else f"*{text}*") + few)
        body.append([NAMES[method], *cells])
    return rows([f"{name} at weight bits", *widths], body)


def learned(found: Found) -> str:
    """Training losses by width at the end."""
    widths = ("32", "16", "8", "7", "6", "5", "4")
    body = []
    for method, training in found["trainings"].items():
        last = {re.sub(r"w(\d+)a8kv8", r"\1", spec): loss for spec, loss in training["last_losses"].items()}
        body.append([NAMES[method], str(training["steps"]), *(f"{last[b]:.3f}" if b in last else "" for b in widths)])
    return rows(["training loss, last tenth of the steps", "steps", *widths], body)


def compared(found: Found) -> str:
    """Paired differences at one width."""
    body = [
        [NAMES[row["of"]], f"{NAMES[row['over']]}{_other(row)}", str(row["at"]), str(row["questions"])]
        + [three(row[metric], METRICS[metric][1], signed=True) for metric in PLUS]
        for row in found["comparisons"]
    ]
    if not body:
        return "Not run."
    return rows(["method", "minus", "bits", "questions", *(METRICS[metric][0] for metric in PLUS)], body)


def _other(row: Found) -> str:
    """The bits of the second side, where they are others than the first's."""
    return "" if row["over_at"] == row["at"] else f", at {row['over_at']}"


def mixed(found: Found) -> str:
    """Scores at mixed bitmaps."""
    methods = [method for method in NAMES if any(not spec.isdigit() for spec in found["scores"].get(method, {}))]
    if not methods:
        return "Not run."
    specs = [spec for spec in found["scores"][methods[0]] if not spec.isdigit()]
    body = []
    for spec in specs:
        cells = [found["scores"][method].get(spec) for method in methods]
        bits = next(cell["average_bits"] for cell in cells if cell)
        shown = ["not scored" if cell is None else three(cell["f1"], 1) for cell in cells]
        body.append([f"{spec} ({bits:.2f} bits)", *shown])
    table = rows(["F1 at 8/4 bits", *(NAMES[method] for method in methods)], body)
    means = [
        [NAMES[row["of"]], NAMES[row["over"]]]
        + [three(row[metric], METRICS[metric][1], signed=True) for metric in PLUS]
        for row in found["mixed"]
    ]
    header = ["mean over these bitmaps of", "minus", *(METRICS[metric][0] for metric in PLUS)]
    return f"{table}\n\n{rows(header, means)}" if means else table


def searched(found: Found) -> str:
    """Bitmaps that were found before and after training."""
    search = found["search"]
    if search is None:
        return "Not run."
    order = ("after", "before", "uniform", "striped", "hybrid")
    body = [
        [name, f"{search['average_bits'][name]:.2f}", *(_asked(row, metric) for metric in PLUS)]
        for name, row in sorted(search["rows"].items(), key=lambda pair: order.index(re.split("[, ]", pair[0])[0]))
    ]
    pairs = [
        [pair["of"], pair["over"], *(_asked(pair, metric, signed=True) for metric in PLUS)] for pair in search["pairs"]
    ]
    named = [METRICS[metric][0] for metric in PLUS]
    searches = [
        f"{when} training with {one['evaluations']} bitmaps on {one['questions']} questions"
        for when, one in search["searches"].items()
    ]
    about = (
        f"All in the adapters of {NAMES[search['in']]}. Found {' and '.join(searches)} by the strategy `guided`. The "
        "number of questions is in parentheses; † scored on another machine than the rest, ‡ the two sides were."
    )
    differ = [f"{name}: {three(row['interval'], 4, signed=True)}" for name, row in search["machines_differ"].items()]
    if differ:
        about += f" On equal bitmaps and questions these machines' losses differ by ({'; '.join(differ)})."
    return f"{about}\n\n{rows(['bitmap', 'average bits', *named], body)}\n\n{rows(['bitmap', 'minus', *named], pairs)}"


def _asked(row: Found, metric: str, signed: bool = False) -> str:
    """A metric, and on how many questions."""
    if metric not in row:
        return "not scored"
    one = row[metric]
    told = f"{three(one['interval'], METRICS[metric][1], signed=signed)} ({one['questions']})"
    if "machines" in one:
        return told + (" ‡" if len(set(one["machines"])) > 1 else "")
    return told + (" †" if one["machine"] is None else "")


def baselines(found: Found) -> str:
    """Schemes and bitmaps of the model as it is."""
    tasks = ("boolq", "hellaswag", "winogrande")
    body = [
        [scheme, f"`{spec}`", f"{row['weight_bytes'] / 2**20:.1f}"]
        + [_scored(row, name, digits) for name, digits in (("perplexity", 2), *((task, 1) for task in tasks))]
        for scheme, specs in found["baselines"].items()
        for spec, row in specs.items()
    ]
    if not body:
        return "Not run."
    table = rows(["scheme", "bitmap", "MiB", "perplexity", "BoolQ", "HellaSwag", "WinoGrande"], body)
    others = {machine for specs in found["baselines"].values() for row in specs.values() for machine in _others(row)}
    return f"{table}\n\n† on {' and '.join(sorted(others))}, in fp32" if others else table


def scheme_pairs(found: Found) -> str:
    """Which scheme is better at the same bitmap, and what two machines make of the same bitmap."""
    body = [
        [
            row["of"], row["over"], f"`{row['at']}`", "{:.2f} and {:.2f}".format(*row["perplexities"]),
            three(row["loss"], 3, signed=True) + (" ‡" if len(set(row["machines"])) > 1 else ""),
        ]
        for row in found["scheme_pairs"]
    ]  # fmt: skip
    table = rows(["scheme", "minus", "bitmap", "perplexities", "loss"], body)
    twice = [
        [
            f"{row['scheme']}, `{row['at']}`", "{:.3f} and {:.3f}".format(*row["perplexities"]),
            three(row["loss"], 4, signed=True),
        ]
        for row in found["machines_differ"]
    ]  # fmt: skip
    if not twice:
        return table
    told = "‡ the two sides come from two machines, which differ on the same bitmap by:"
    return f"{table}\n\n{told}\n\n{rows(['scored on the CPU, minus on the GPU', 'perplexities', 'loss'], twice)}"


def _scored(row: Found, name: str, digits: int) -> str:
    """A score of the model as it is, marked where another machine scored it than the one without a mark."""
    if name not in row:
        return "not scored"
    task = "text" if name == "perplexity" else name
    return three(row[name], digits) + (" †" if task in row.get("machines", {}) else "")


def _others(row: Found) -> list[str]:
    return list(row.get("machines", {}).values())


def sensitivity(found: Found) -> str:
    """Where rounding hurts the model as it is."""
    told = found["sensitivity"]
    if told is None:
        return "Not run."
    about = f"Nats per token, {told['windows']} windows with {told['tokens']} tokens{_agreement(told, ('4', '3'))}."
    return f"{about}\n\n{_damages(told)}"


def sensitivity_trained(found: Found) -> str:
    """Where rounding hurts a trained model, by the table that the search began with."""
    told = found["sensitivity_trained"]
    return "Not run." if told is None else _damages(told)


def _damages(told: Found) -> str:
    """Damages by part of the network, and what of the references' claims holds."""
    widths = [bits for bits in ("6", "5", "4", "3") if bits in told]
    kinds = list(told[widths[0]]["by_kind"])
    shares = [
        [bits, *_thirds(told[bits]["by_block"]), *(f"{told[bits]['by_kind'][kind]:.2g}" for kind in kinds)]
        for bits in widths
    ]
    header = ["bits", *(f"{name} third of the blocks" for name in ("first", "middle", "last"))]
    header += [f"mean `{kind}`" for kind in kinds]
    names = told[widths[0]]["claims"]
    claims = [[name, *(three(told[bits]["claims"][name], 2) for bits in widths)] for name in names]
    most = [
        [bits, ", ".join(f"`{site}` {value:.2g}" for site, value in list(told[bits]["most"].items())[:5])]
        for bits in widths
    ]
    return "\n\n".join([
        rows(header, shares), rows(["", *(f"at {bits} bits" for bits in widths)], claims),
        rows(["bits", "most sensitive sites, and their damage in nats"], most),
    ])  # fmt: skip


def _thirds(by_block: Found) -> list[str]:
    """Shares of the damage."""
    damages = list(by_block.values())
    third = len(damages) // 3
    parts = damages[:third], damages[third:-third], damages[-third:]
    return [f"{100 * sum(part) / sum(damages):.0f} %" for part in parts]


def _agreement(told: Found, widths: Sequence[str]) -> str:
    """How well the ranks of sites agree between windows."""
    if told["windows"] < 2:
        return ""
    said = " and ".join(f"{told[bits]['windows_agree']:.2f} at {bits} bits" for bits in widths)
    return f", whose ranks of the sites correlate with {said}"


def head(found: Found) -> str:
    """Perplexity with the head alone rounded."""
    body = [
        [name, three(row["perplexity"], 2), three(row["rise"], 3, signed=True)] for name, row in found["head"].items()
    ]
    return rows(["rounded", "perplexity", "rise of the loss"], body) if body else "Not run."


def cost(found: Found) -> str:
    """Steps and forward passes."""
    told = found["cost"]
    if told is None:
        return "Not run."
    steps = [
        [name, f"{row['seconds']:.3f} ({row['least']:.3f} to {row['most']:.3f})", _peak(row)]
        for name, row in told["steps"].items()
    ]
    forward = [[f"`{spec}`", f"{row['tokens_per_second']:,}", _peak(row)] for spec, row in told["forward"].items()]
    return "\n\n".join([
        rows([f"a step of {told['batch']} sequences", "seconds (median, least, most)", "peak GiB"], steps),
        rows(["forward pass at", "tokens per second", "peak GiB"], forward),
    ])  # fmt: skip


def speed(found: Found) -> str:
    """Tokens per second on one thread of a CPU."""
    told = found["speed"]
    if told is None:
        return "Not run."
    full = told["tokens_per_second"]["not rounded"]
    body = [
        [name]
        + [
            f"{parts[part][0]:.1f} ({parts[part][1]:.1f} to {parts[part][2]:.1f})"
            + ("" if parts is full else f", {parts[part][0] / full[part][0]:.2f} times")
            for part in ("prompt", "generation")
        ]
        for name, parts in told["tokens_per_second"].items()
    ]
    header = ["weights", f"prompt of {told['prompt']} tokens", f"{told['generated']} tokens behind it, one by one"]
    about = (
        f"Tokens per second of processor time, one thread of {told['machine']}: median (least to most) of "
        f"{told['rounds']} rounds."
    )
    return f"{about}\n\n{rows(header, body)}"


def _peak(row: Found) -> str:
    """The peak of memory in GiB, where it was measured."""
    return "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"


def origin(found: Found) -> str:
    """What the numbers depend on."""
    settings = found["settings"]
    commits: dict[str, list[str]] = {}
    for one in found["machines"]:
        commits.setdefault(one["device"], []).append(f"`{one['commit'][:7]}`")
    machines = [f"{device} (commit {', '.join(dict.fromkeys(known))})" for device, known in commits.items()]
    return (
        f"{found['model']} (stored as {found['stored_as']}), scale `{found['scale']}`: {settings['passes']} forward "
        f"and backward passes of {settings['batch']} sequences of at most {settings['max_length']} tokens per method, "
        f"AdamW at {settings['learning_rate']:g}, rank 8; {found['questions']} drawn dev questions; on "
        f"{' and '.join(machines)}."
    )


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


def _attacks() -> Found:
    found: Found = json.loads(ATTACKS.read_text(encoding="utf-8"))
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


TABLES: dict[str, Callable[[Found], str]] = {
    "origin": origin,
    "readme": lambda found: by_width(found, "f1", IN_README),
    "exact match": lambda found: by_width(found, "exact_match", list(NAMES)),
    "f1": lambda found: by_width(found, "f1", list(NAMES)),
    "loss": lambda found: by_width(found, "loss", list(NAMES), short=True),
    "learned": learned,
    "comparisons": compared,
    "mixed": mixed,
    "search": searched,
    "baselines": baselines,
    "scheme pairs": scheme_pairs,
    "sensitivity": sensitivity,
    "sensitivity in training": sensitivity_trained,
    "head": head,
    "claims": claims,
    "cost": cost,
    "speed": speed,
    "attacks": lambda _: table_of(_attacks()),
    "attack tests": lambda _: tests_of(_attacks()),
    "attack transfer": lambda _: transfers_of(_attacks()),
    "attack victims": lambda _: attack_victims(_attacks()),
    "attack origin": lambda _: attack_origin(_attacks()),
}

if __name__ == "__main__":
    main()
