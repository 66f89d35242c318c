"""What a person reads in the terminal: the result of a command, and what a config would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrate.assemble import parse_bitmaps
from orchestrate.config import SearchConfig, Section, TrainConfig
from orchestrate.config_file import load_config, read_yaml
from orchestrate.estimate import GPU, Estimate, estimate, sites_of
from orchestrate.generate_job import GenerateConfig
from orchestrate.jobs import JOBS
from orchestrate.plan import PipelineConfig, PlannedStep, load_pipeline, owner_of, plan
from orchestrate.report.formats import count_of
from orchestrate.sweep_plan import SweepConfig, SweepPlan, trial_config
from orchestrate.table_check import bitmap_specs, check_table
from qalof.errors import BadInputError, nearest_hint
from qalof.model.adapters import adapter_parameters


def show(command: str, result: Mapping[str, Any], folder: Path) -> None:
    """Print a command's result as a table on standard output."""
    console = Console(highlight=False)
    if command == "baselines":
        console.print(baselines_table(result))
    elif "rows" in result:
        console.print(bitmap_table(result["rows"]))
        for title, counts in (("training data", result.get("training_data", {})), ("scored", _counts(result["rows"]))):
            if told := ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count):
                console.print(f"{title}: {told}")
    elif command == "sensitivity":
        console.print(ranking_table(result["ranking"]))
    elif command == "search":
        console.print(front_table(result))
    elif command == "sweep":
        console.print(sweep_table(result))
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


def robustness_table(report: Mapping[str, Any]) -> Table:
    """Success of the attack built at a row's bitmap against a column's."""
    table = Table("attacked at", "clean accuracy", *(f"against {name}" for name in report["bitmaps"]))
    for name, clean, row in zip(report["bitmaps"], report["clean_accuracy"], report["transfer"], strict=True):
        table.add_row(name, _rate(clean), *map(_rate, row))
    defence = report["random_precision"]
    if defence:
        success = _rate(defence["success_mean"])
        table.caption = f"random precision: success {success}, clean accuracy {_rate(defence['clean_accuracy'])}"
    return table


def describe_config(path: Path, overrides: Sequence[str]) -> str:
    """What a config would run and what it would cost.

    Raises:
        BadInputError: whatever a run would refuse.
    """
    data = read_yaml(path)
    command = data.get("command", "run" if "steps" in data else None)
    if command == "run":
        return _describe_pipeline(load_pipeline(path, overrides), Path("runs").absolute() / path.stem)
    if command not in JOBS:
        raise BadInputError(
            f"{path} must say `command:`, got {command!r}; {nearest_hint(str(command), [*JOBS, 'run'])}"
        )
    return _describe(command, load_config(JOBS[command].config, path, overrides), check=True)


def _describe_pipeline(pipeline: PipelineConfig, output: Path) -> str:
    steps = plan(pipeline, output)
    if pipeline.table is not None:
        check_table(pipeline.table, steps)
    lines, total = [f"{pipeline.title}: {len(steps)} steps, scale {pipeline.scale}"], Estimate()
    for step in steps:
        lines.append(f"{step.name}: {_describe(step.command, step.config)}{' (shared)' if step.shared else ''}")
        cost = _cost_of(step, steps)
        if cost is not None:
            lines.append(f"  {cost.describe()}")
            total += cost
    lines.append(
        f"together: {total.describe()} on {GPU}; shared steps are trained once for all tables beside each other"
    )
    if pipeline.table is not None:
        lines.append(f"table: {pipeline.table.title}, {len(pipeline.table.rows)} rows by {len(pipeline.table.columns)}")
    return "\n".join(lines)


def _cost_of(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """A step's cost; its bitmaps are read on the model's sites first, for what a run would refuse."""
    owner = owner_of(step, steps)
    if owner is not None and isinstance(owner.config, TrainConfig):
        parse_bitmaps(bitmap_specs(step), sites_of(owner.config))
    return estimate(step, steps)


def _describe(command: str, config: Section, check: bool = False) -> str:
    if isinstance(config, TrainConfig):
        return _describe_training(config, check)
    if isinstance(config, GenerateConfig):
        how = config.generation
        count = f"{JOBS[command].check(config).count:,}" if check else how.count or "all"
        return f"{command}: {count} texts by {how.start}, up to {how.max_length} tokens, {config.workers.count} actors"
    if isinstance(config, SweepConfig):
        good = " (every value is good)" if check and JOBS[command].check(config) else ""
        trials = config.samples or len(SweepPlan(config).points)
        base = _describe_training(trial_config(config, {}), check=False)
        return f"sweep: {trials} trials by {config.strategy} on {config.workers.count} actors{good}, each {base}"
    checked = " (checkpoint and space are good)" if check and JOBS[command].check(config) else ""
    if isinstance(config, SearchConfig):
        most = "as many" if config.max_evaluations is None else f"up to {config.max_evaluations}"
        return f"search: {config.strategy}, {most} evaluations on {count_of(config.workers.count, 'actor')}{checked}"
    return f"{command}: on {count_of(config.workers.count, 'actor')}{checked}"  # type: ignore[attr-defined]


def _describe_training(config: TrainConfig, check: bool) -> str:
    training, workers = config.training, config.workers.count
    line = (
        f"train: {config.objective.name} on {config.task.name}, {training.steps} steps "
        f"of {training.batch_size} sequences on {count_of(workers, 'worker')}"
    )
    if not check:
        return line
    parts = JOBS["train"].check(config)
    runs = sum(len(parts.objective.bitmaps(step)) for step in range(training.steps))
    model = parts.model.model
    adapters = {name: sum(p.numel() for p in adapter_parameters(model, name).values()) for name in parts.model.adapters}
    return "\n".join(
        [
            line,
            f"  model {config.model.source}: {sum(p.numel() for p in model.parameters()):,} parameters with adapters, "
            f"{len(parts.model.sites)} sites",
            f"  adapters: {', '.join(f'{name} with {count:,} parameters' for name, count in adapters.items())}",
            f"  data: {len(parts.task.train_features()):,} training examples, "
            f"{training.steps * training.batch_size / len(parts.task.train_features()):.1f} passes",
            f"  cost: {runs:,} forward and backward passes of {training.batch_size} sequences, "
            f"{training.batch_size // workers} a worker",
        ]
    )


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
