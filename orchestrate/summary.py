"""What a person reads in the terminal: the result of a command, and what a config would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrate.config import SearchConfig, Section, TrainConfig
from orchestrate.config_file import load_config, read_yaml
from orchestrate.jobs import JOBS
from orchestrate.pipeline import PipelineConfig, step_configs
from qalof.errors import BadInputError, nearest_hint
from qalof.model.adapters import adapter_parameters


def show(command: str, result: Mapping[str, Any], folder: Path) -> None:
    """Print a command's result as a table on standard output."""
    console = Console(highlight=False)
    if "rows" in result:
        console.print(bitmap_table(result["rows"]))
    elif command == "sensitivity":
        console.print(ranking_table(result["ranking"]))
    elif command == "search":
        console.print(front_table(result))
    elif command == "range-test":
        console.print(range_table(result))
    elif command == "attack":
        console.print(robustness_table(result["robustness"]))
    console.print(f"{folder}  ({result['seconds']:.0f} s)")


def bitmap_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Metrics with their 95 % intervals, and costs, by bitmap."""
    table = Table("bitmap", *rows[0]["metrics"], "average bits", "weight bytes")
    for row in rows:
        metrics = [_interval(*values) for values in row["metrics"].values()]
        cost = row["cost"]
        table.add_row(row["bitmap"], *metrics, f"{cost['average_bits']:.2f}", f"{cost['weight_bytes']:,}")
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
        pipeline = load_config(PipelineConfig, path, overrides)
        configs = step_configs(pipeline, Path("runs") / path.stem)
        lines = [f"{s.name}: {_describe(s.command, c)}" for s, c in zip(pipeline.steps, configs, strict=True)]
        return "\n".join([f"{pipeline.title}: {len(lines)} steps", *lines])
    if command not in JOBS:
        raise BadInputError(
            f"{path} must say `command:`, got {command!r}; {nearest_hint(str(command), [*JOBS, 'run'])}"
        )
    return _describe(command, load_config(JOBS[command].config, path, overrides), check=True)


def _describe(command: str, config: Section, check: bool = False) -> str:
    if isinstance(config, TrainConfig) and command == "train":
        return _describe_training(config, check)
    checked = " (checkpoint and space are good)" if check and JOBS[command].check(config) else ""
    if isinstance(config, SearchConfig):
        most = "as many" if config.max_evaluations is None else f"up to {config.max_evaluations}"
        return f"search: {config.strategy}, {most} evaluations on {config.workers.count} actors{checked}"
    if command == "range-test":
        return f"range-test: widths one after the other in one worker{checked.replace('checkpoint', 'config')}"
    return f"{command}: on {config.workers.count} actors{checked}"  # type: ignore[attr-defined]


def _describe_training(config: TrainConfig, check: bool) -> str:
    training, workers = config.training, config.workers.count
    line = (
        f"train: {config.objective.name} on {config.task.name}, {training.steps} steps "
        f"of {training.batch_size} sequences on {workers} workers"
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


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "not finite"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["estimate"] is None:
        return "–"
    return f"{100 * rate['estimate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
