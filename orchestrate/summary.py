"""What a person reads in the terminal when a command is done.

Every result fits 80 columns, whatever the size of the model: bitmaps have short names with a line on what each stands
for (:mod:`qalof.bitmap_names`), sizes are in MiB, and what does not fit side by side stands row by row
(:mod:`orchestrate.sheet`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from orchestrate.sheet import Sheet
from qalof.bitmap_names import short_name
from qalof.metrics import DROP, described
from qalof.statistics import Interval

MIB = 2**20


def show(command: str, result: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a command's result on standard output, or on ``console``."""
    console = console or Console(highlight=False, markup=False)
    for part in parts_of(command, result, folder):
        console.print(part)


def parts_of(command: str, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
    """What is printed of a command's result, from top to bottom."""
    parts: list[RenderableType] = []
    if command == "baselines":
        parts.append(baselines_table(result))
    elif "rows" in result:
        parts.append(bitmap_table(result["rows"]))
        if ended := result.get("training_loss"):
            parts.append(_training_loss(ended))
        for title, counts in (("training data", result.get("training_data", {})), ("scored", _counts(result["rows"]))):
            if told := ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count):
                parts.append(f"{title}: {told}")
    elif command == "sensitivity":
        errors = result.get("score") == "output_error"
        parts.append(errors_table(result) if errors else ranking_table(result, folder))
    elif command == "search":
        parts.append(front_table(result, folder))
    elif command == "sweep":
        parts.append(sweep_table(result))
    elif command == "range-test":
        parts.append(range_table(result))
    elif command == "attack":
        parts.append(robustness_table(result["robustness"]))
    elif command == "generate-data":
        counted = f"{result['texts']:,} {result['kind']} of {result['mean_tokens']:.0f} tokens on average"
        parts.append(f"{counted}, {result['ended']:,} to their own end; data: {result['data']}")
    return [*parts, f"{folder}  ({result['seconds']:.0f} s)"]


def show_table(table: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a reference's table on standard output, or on ``console``."""
    # brackets of intervals are no markup
    (console or Console(highlight=False, markup=False)).print(reference_table(table))


def bitmap_table(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Metrics with their 95 % intervals, and costs, by bitmap."""
    headings = ["bitmap", *map(heading, rows[0]["metrics"]), "average bits", "weights"]
    shown = []
    for row in rows:
        metrics = [_interval(name, Interval.from_json(values)) for name, values in row["metrics"].items()]
        cost = row["cost"]
        shown.append([short_name(row["bitmap"]), *metrics, f"{cost['average_bits']:.2f}", mib(cost["weight_bytes"])])
    return Sheet(headings, shown, notes=_summaries(rows))


def baselines_table(result: Mapping[str, Any]) -> Sheet:
    """Metrics by method and bitmap, and how far each is from the reference method there."""
    rows = result["rows"]
    shown = []
    for row in rows:
        apart = {
            name: f" ({_interval(name, Interval.from_json(values))})" for name, values in row["difference"].items()
        }
        metrics = [
            f"{_interval(name, Interval.from_json(values))}{apart.get(name, '')}"
            for name, values in row["metrics"].items()
        ]
        size = mib(row["cost"]["stored_weight_bytes"])
        shown.append([row["method"], short_name(row["bitmap"]), *metrics, size])
    caption = [f"{name}: {note}" for name, note in _summaries(rows).items()]
    if any(row["difference"] for row in rows):
        caption.append(f"In parentheses: the paired difference from {result['reference']} at the same bitmap.")
    return Sheet(["method", "bitmap", *map(heading, rows[0]["metrics"]), "weights"], shown, caption=caption)


def ranking_table(result: Mapping[str, Any], folder: Path) -> Sheet:
    """Units from the least to the most sensitive, with what lowering each alone costs."""
    ranking, name = result["ranking"], f"{result['metric']}{DROP}"
    headings = ["unit", "to", f"{described(result['metric']).label} worse by", "average bits", "weights"]
    shown = []
    for row in ranking:
        drop = _interval(result["metric"], Interval.from_columns(row, name))
        shown.append([row["unit"], str(row["bits"]), drop, f"{row['average_bits']:.2f}", mib(row["weight_bytes"])])
    return Sheet(headings, shown, title="Least sensitive first", whole=str(folder / "result.json"))


def errors_table(result: Mapping[str, Any]) -> Sheet:
    """Output errors of sites, from the least mean squared error on."""
    rows = [
        [row["unit"], row["bits"], *(f"{row[name]:.3g}" for name in ("mse", "mae", "rel"))] for row in result["ranking"]
    ]
    headings = ["site", "to", "MSE", "MAE", "relative MSE"]
    return Sheet(headings, rows, title="Least output error first", whole=result["file"])


def front_table(result: Mapping[str, Any], folder: Path) -> Sheet:
    """The front's metrics with their intervals, and what its bitmaps cost; numbered as ``front.json#3`` counts."""
    front = result["front"]
    metrics = [name for name in (front[0] if front else {}) if f"{name}_low" in front[0]]
    headings = ["bitmap", "no.", *map(heading, metrics), "average bits", "weights"]
    shown = []
    for number, row in enumerate(front, start=1):
        intervals = [_interval(name, Interval.from_columns(row, name)) for name in metrics]
        bits, size = f"{row['average_bits']:.2f}", mib(row["weight_bytes"])
        shown.append([short_name(row["bitmap"]), str(number), *intervals, bits, size])
    place = str(folder / "front.json")
    example = f"; evaluate or export one with --bitmap {place}#{front[0].get('id', 1)}" if front else ""
    title = f"Front of {result['evaluations']} evaluations{example}"
    return Sheet(headings, shown, title=title, notes=_summaries(front), whole=place)


def sweep_table(result: Mapping[str, Any]) -> Sheet:
    """The trials of a sweep, the best first; of one that did not finish, the last score."""
    trials = result["trials"]
    headings = ["trial", *trials[0]["params"], result["metric"], "state", "steps"]
    shown = []
    for row in trials:
        value = "not finite" if row["value"] is None else f"{row['value']:.{described(result['metric']).decimals}f}"
        params = [str(setting) for setting in row["params"].values()]
        shown.append([str(row["trial"]), *params, value, row["state"], str(row["step"])])
    return Sheet(headings, shown)


def range_table(result: Mapping[str, Any]) -> Sheet:
    """Loss of each width and its relative fall from the width below."""
    shown = [[str(row["bits"]), f"{row['loss']:.4f}", f"{100 * row['improvement']:.2f}"] for row in result["widths"]]
    title = f"Recommended: {result['lowest']} to {result['highest']} bits"
    return Sheet(["bits", "loss", "improvement (%)"], shown, title=title)


def robustness_table(report: Mapping[str, Any]) -> Sheet:
    """Success of the attack built at a row's bitmap against a column's."""
    names = [short_name(name) for name in report["bitmaps"]]
    headings = ["attacked at", "clean accuracy", *(f"against {name}" for name in names)]
    shown = [
        [name, _rate(clean), *map(_rate, row)]
        for name, clean, row in zip(names, report["clean_accuracy"], report["transfer"], strict=True)
    ]
    caption = [
        f"random precision (p = {defence['defence']['probability']:g}): success {_rate(defence['success_mean'])}, "
        f"clean accuracy {_rate(defence['clean_accuracy'])}"
        for defence in report["random_precision"]
    ]
    return Sheet(headings, shown, caption=caption)


def reference_table(table: Mapping[str, Any]) -> Sheet:
    """A reference's table: ours with its interval, theirs, and the difference."""
    title = (
        f"{table['title']} ({table['source']}, scale {table['scale']}): ours with its 95 % interval; theirs, difference"
    )
    headings = ["", *(column["name"] for column in table["columns"])]
    shown = [[row["name"], *map(_table_cell, row["cells"])] for row in table["rows"]]
    return Sheet(headings, shown, title=title, caption=[" ".join(table["notes"])] if table["notes"] else [])


def _table_cell(cell: Mapping[str, Any]) -> str:
    theirs = "" if cell["reference"] is None else f"\ntheirs {cell['reference']:,.10g}"
    if cell["value"] is None:
        return f"{cell['reason']}{theirs}"
    ours = _level(cell["value"])
    if cell["low"] < cell["high"]:
        ours += f" [{_level(cell['low'])}, {_level(cell['high'])}]"
    difference = f", {_level(cell['difference'], '+')}" if "difference" in cell else ""
    return f"{ours}{theirs}{difference}"


def _level(value: float, sign: str = "") -> str:
    """Three decimals for losses, one for percents, none for counts."""
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:{sign},.{decimals}f}"


def _training_loss(ended: Mapping[str, Any]) -> str:
    optimized = "" if ended["objective"] is None else f"{ended['objective']:.3f} optimized, "
    steps = "the last step" if ended["over"] == 1 else f"the last {ended['over']} steps"
    return f"training loss over {steps}: {optimized}{ended['cross_entropy']:.3f} cross entropy (nats)"


def _counts(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
    """What was cut, alike at every bitmap; empty in a result of before there were counts."""
    counts: Mapping[str, int] = rows[0].get("counts", {})
    return counts


def _interval(metric: str, interval: Interval) -> str:
    """``83.2 [80.1, 86.0]`` in the metric's decimals; bare where there is no interval."""
    value, low, high = interval.estimate, interval.low, interval.high
    if not all(map(math.isfinite, (value, low, high))):
        return "not finite"
    if metric.endswith("_bytes"):
        return mib(value)
    decimals = described(metric).decimals
    if low == high:
        return f"{value:,.{decimals}f}"
    return f"{value:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def heading(metric: str) -> str:
    """Label and unit; bytes are shown in MiB and say so themselves."""
    known = described(metric)
    return f"{known.label} ({known.unit})" if known.unit and not metric.endswith("_bytes") else known.label


def mib(count: float) -> str:
    """Bytes in MiB, with at least three digits."""
    size = count / MIB
    return f"{size:,.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3}f} MiB"


def _summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Short name -> summary, of the bitmaps that have an id in place of their text."""
    named = {short_name(row["bitmap"]): row.get("summary", "") for row in rows}
    return {name: note for name, note in named.items() if name.startswith("#") and note}


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["estimate"] is None:
        return "–"
    return f"{100 * rate['estimate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
