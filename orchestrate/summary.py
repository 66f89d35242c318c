"""What a person reads in the terminal when a command is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(command: str, result: Mapping[str, Any], folder: Path) -> None:
    """Print a command's result as a table on standard output."""
    console = Console(highlight=False)
    if command == "baselines":
        console.print(baselines_table(result))
    elif "rows" in result:
        console.print(bitmap_table(result["rows"]))
        if ended := result.get("training_loss"):
            console.print(_training_loss(ended))
        for title, counts in (("training data", result.get("training_data", {})), ("scored", _counts(result["rows"]))):
            if told := ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count):
                console.print(f"{title}: {told}")
    elif command == "sensitivity":
        console.print(ranking_table(result["ranking"]))
    elif command == "search":
        console.print(front_table(result))
    elif command == "sweep":
        console.print(sweep_table(result))
    elif command == "range-test":
        console.print(range_table(result))
    elif command == "attack":
        console.print(robustness_table(result["robustness"]))
    elif command == "generate-data":
        counted = f"{result['texts']:,} {result['kind']} of {result['mean_tokens']:.0f} tokens on average"
        console.print(f"{counted}, {result['ended']:,} to their own end; data: {result['data']}")
    console.print(f"{folder}  ({result['seconds']:.0f} s)")


def show_table(table: Mapping[str, Any]) -> None:
    """Print a reference's table on standard output."""
    # brackets of intervals are no markup
    Console(highlight=False, markup=False).print(reference_table(table))


def bitmap_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Metrics with their 95 % intervals, and costs, by bitmap."""
    table = Table("bitmap", *rows[0]["metrics"], "average bits", "weight bytes")
    for row in rows:
        metrics = [_interval(*values) for values in row["metrics"].values()]
        cost = row["cost"]
        table.add_row(row["bitmap"], *metrics, f"{cost['average_bits']:.2f}", f"{cost['weight_bytes']:,}")
    return table


def baselines_table(result: Mapping[str, Any]) -> Table:
    """Metrics by method and bitmap, and how far each is from the reference method there."""
    rows = result["rows"]
    compared = list(dict.fromkeys(name for row in rows for name in row["difference"]))
    table = Table("method", "bitmap", *rows[0]["metrics"], *(f"{name} - {result['reference']}" for name in compared))
    table.add_column("weight bytes", justify="right")
    for row in rows:
        metrics = [_precise(values) for values in row["metrics"].values()]
        differences = [_precise(row["difference"][name]) if name in row["difference"] else "" for name in compared]
        table.add_row(row["method"], row["bitmap"], *metrics, *differences, f"{row['cost']['stored_weight_bytes']:,}")
    return table


def ranking_table(ranking: Sequence[Mapping[str, Any]]) -> Table:
    """Units from the least to the most sensitive."""
    columns = [name for name in (ranking[0] if ranking else {}) if not name.endswith(("_low", "_high"))]
    table = Table(*columns, title="Least sensitive first")
    for row in ranking:
        table.add_row(*(_number(row[name]) for name in columns))
    return table


def front_table(result: Mapping[str, Any]) -> Table:
    """The front's metrics with their intervals, and what its bitmaps cost."""
    front = result["front"]
    metrics = [name for name in (front[0] if front else {}) if f"{name}_low" in front[0]]
    table = Table("bitmap", *metrics, "average bits", "weight bytes", title=f"Front of {result['evaluations']}")
    table.columns[0].overflow = "fold"
    for row in front:
        intervals = [_interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in metrics]
        table.add_row(row["bitmap"], *intervals, f"{row['average_bits']:.2f}", f"{row['weight_bytes']:,}")
    return table


def sweep_table(result: Mapping[str, Any]) -> Table:
    """The trials of a sweep, the best first; of one that did not finish, the last score."""
    trials = result["trials"]
    table = Table("trial", *trials[0]["params"], result["metric"], "state", "steps")
    for row in trials:
        value = "not finite" if row["value"] is None else _number(row["value"])
        params = [str(setting) for setting in row["params"].values()]
        table.add_row(str(row["trial"]), *params, value, row["state"], str(row["step"]))
    return table


def range_table(result: Mapping[str, Any]) -> Table:
    """Loss of each width and its relative fall from the width below."""
    table = Table("bits", "loss", "improvement %", title=f"Recommended: {result['lowest']} to {result['highest']} bits")
    for row in result["widths"]:
        table.add_row(str(row["bits"]), f"{row['loss']:.4f}", f"{100 * row['improvement']:.2f}")
    return table


def robustness_table(report: Mapping[str, Any]) -> Table:
    """Success of the attack built at a row's bitmap against a column's."""
    table = Table("attacked at", "clean accuracy", *(f"against {name}" for name in report["bitmaps"]))
    for name, clean, row in zip(report["bitmaps"], report["clean_accuracy"], report["transfer"], strict=True):
        table.add_row(name, _rate(clean), *map(_rate, row))
    table.caption = "\n".join(
        f"random precision (p = {defence['defence']['probability']:g}): success {_rate(defence['success_mean'])}, "
        f"clean accuracy {_rate(defence['clean_accuracy'])}"
        for defence in report["random_precision"]
    )
    return table


def reference_table(table: Mapping[str, Any]) -> Table:
    """A reference's table: ours with its interval, theirs, and the difference."""
    title = (
        f"{table['title']} ({table['source']}, scale {table['scale']}): ours with its 95 % interval; theirs, difference"
    )
    shown = Table("", *(column["name"] for column in table["columns"]), title=title)
    for row in table["rows"]:
        shown.add_row(row["name"], *map(_table_cell, row["cells"]))
    if table["notes"]:
        shown.caption = " ".join(table["notes"])
    return shown


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


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "not finite"
    if low == high:
        return f"{value:,.1f}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _precise(values: Sequence[float | None]) -> str:
    estimate, low, high = values
    if estimate is None or low is None or high is None:
        return "not finite"
    return f"{estimate:.3f}" if low == high else f"{estimate:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["estimate"] is None:
        return "–"
    return f"{100 * rate['estimate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
