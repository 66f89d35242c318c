"""Tables of the trained models of the study of a real model, and the words that all of its tables share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from md_tables import rows, three

WIDTHS = ("32", "8", "6", "5", "4", "3")
NAMES = {
    "untrained": "not trained",
    "full_precision": "LoRA at full precision, then rounded",
    "static_8": "trained at 8 bits alone",
    "static_6": "trained at 6 bits alone",
    "static_5": "trained at 5 bits alone",
    "static_4": "trained at 4 bits alone",
    "static_4_again": "trained at 4 bits alone, second seed",
    "spnet": "SP at 8 and 4",
    "spnet_again": "SP at 8 and 4, second seed",
    "cascade_two": "SP at 8 and 4, cascade distillation",
    "spnet_five": "SP at 16, 8, 6, 5 and 4",
    "cascade": "SP at 16, 8, 6, 5 and 4, cascade distillation",
    "cpt": "CPT, 4 to 8, one adapter",
    "cpt_again": "CPT, 4 to 8, one adapter, second seed",
    "layerwise": "SP at 8, and a width of its own per layer",
    "curriculum": "SP, 8 first, then 6, 5 and 4 too",
    "data_free_4": "4 bits, data-free distillation",
}
METRICS = {"f1": ("F1", 1), "exact_match": ("exact match", 1), "loss": ("loss", 3), "perplexity": ("perplexity", 2)}
PLUS = ("f1", "exact_match", "loss")

Found = Mapping[str, Any]


def by_width(found: Found, metric: str, methods: Sequence[str]) -> str:
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
            text = three(values, digits)
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


def over_seeds(found: Found) -> str:
    """Paired differences of two methods, for each seed and for the mean over the seeds."""
    body = []
    for row in found.get("seeds", ()):
        at = row["bitmaps"][0] if len(row["bitmaps"]) == 1 else "mixed"
        cells = [
            three(values, METRICS[metric][1], signed=True)
            for metric in ("f1", "loss")
            for values in (*row[metric]["seeds"], row[metric]["mean"])
        ]
        body.append([NAMES[row["of"]], NAMES[row["over"]], at, *cells])
    heads = [f"{name}, {which}" for name in ("F1", "loss") for which in ("first seed", "second seed", "mean")]
    return rows(["method", "minus", "bits", *heads], body) if body else "Not run."


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


def data_free(found: Found) -> str:
    """Perplexity of WikiText-2 after data-free distillation, by width."""
    told = found["data_free_text"]
    body = [[bits, three(values, 2)] for bits, values in told.items()]
    return rows([f"weight bits, {NAMES['data_free_4']}", "perplexity"], body) if body else "Not run."


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
    whole = ", none of whose contexts was cut" if settings.get("whole") else ""
    return (
        f"{found['model']} (stored as {found['stored_as']}), scale `{found['scale']}`: {settings['passes']} forward "
        f"and backward passes of {settings['batch']} sequences of at most {settings['max_length']} tokens per method, "
        f"AdamW at {settings['learning_rate']:g}, rank 8, {settings['precision']}; {found['questions']} drawn dev "
        f"questions{whole}; on "
        f"{' and '.join(machines)}."
    )
