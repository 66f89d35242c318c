"""The commands that are jobs: each has a config, a run directory and a result."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrate.cli_options import (
    AddressOption,
    CheckpointOption,
    ConfigOption,
    JsonOption,
    OutputOption,
    Overrides,
    app,
    checkpoint_override,
    run_job,
)


@app.command()
def train(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Fine-tune by switchable precision, cascade distillation or cyclic precision on N workers."""
    run_job("train", config, overrides, output, as_json, address)


@app.command()
def evaluate(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
    bitmap: Annotated[
        list[str] | None, typer.Option("--bitmap", help="8, w4a8, 8,8,4,4, striped84, a .json file.")
    ] = None,
) -> None:
    """Score a checkpoint at bitmaps."""
    extra = [f"bitmaps=[{','.join(json.dumps(spec) for spec in bitmap)}]"] if bitmap else []
    run_job("evaluate", config, overrides, output, as_json, address, checkpoint_override(checkpoint) + extra)


@app.command()
def sensitivity(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Rank sites or blocks by what lowering each alone costs."""
    run_job("sensitivity", config, overrides, output, as_json, address, checkpoint_override(checkpoint))


@app.command()
def search(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Search per-layer bitmaps for the front of quality against cost."""
    run_job("search", config, overrides, output, as_json, address, checkpoint_override(checkpoint))


@app.command()
def attack(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Attack a classifier at several bitmaps; measure transfer and random precision inference."""
    run_job("attack", config, overrides, output, as_json, address, checkpoint_override(checkpoint))


@app.command()
def baselines(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Score quantization without training: rounding to nearest with any quantizer, and GPTQ."""
    run_job("baselines", config, overrides, output, as_json, address, checkpoint_override(checkpoint))


@app.command()
def footprint(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Measure what a checkpoint takes at bitmaps: bytes in four measures, memory, tokens a second."""
    run_job("footprint", config, overrides, output, as_json, address, checkpoint_override(checkpoint))


@app.command("generate-data")
def generate_data(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Let a model write its own training texts (LLM-QAT), or complete SQuAD prompts."""
    run_job("generate-data", config, overrides, output, as_json, address)


@app.command()
def sweep(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Train at many settings on Ray Tune and compare them; finished trials are kept through a kill."""
    run_job("sweep", config, overrides, output, as_json, address)


@app.command("range-test")
def range_test(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Find the widths between which cyclic precision training should run."""
    run_job("range-test", config, overrides, output, as_json, address)
