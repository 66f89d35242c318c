"""The commands that are jobs: each has a config, a run directory and a result, and all have the same options."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrate.cli.options import (
    AddressOption,
    CheckpointOption,
    ConfigOption,
    JsonOption,
    OutputOption,
    Overrides,
    app,
    checkpoint_given,
    run_job,
)

FROM_CONFIG = {
    "train": "Fine-tune by switchable precision, cascade distillation or cyclic precision on N workers.",
    "sweep": "Train at many settings on Ray Tune and compare them; finished trials are kept through a kill.",
    "range-test": "Find the widths between which cyclic precision training should run.",
    "generate-data": "Let a model write its own training texts (LLM-QAT), or complete SQuAD prompts.",
}
OF_CHECKPOINT = {
    "attack": "Attack a model at several bitmaps; measure transfer and random precision inference.",
    "ptq": "Score quantization without training: rounding to nearest with any quantizer, and GPTQ.",
    "profile": "Measure what a checkpoint takes at each bitmap: bytes in four measures, memory, and tokens per second.",
}


@app.command(help="Score a checkpoint at bitmaps, on its own task or another.")
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
    random_precision: Annotated[
        list[str] | None,
        typer.Option("--random-precision", help="A bitmap to draw from; give it once for each of them."),
    ] = None,
) -> None:
    """``qalof evaluate``."""
    bitmaps = {"bitmaps": list(bitmap)} if bitmap else {}
    drawn = {"random_precision.bitmaps": list(random_precision)} if random_precision else {}
    given = checkpoint_given(checkpoint) | bitmaps | drawn
    run_job("evaluate", config, overrides, output, as_json, address, given)


@app.command(help="Rank sites or blocks by what is lost when each alone is reduced, or score them for a search.")
def sensitivity(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", help="metric, output_error, fisher, kl, ...; several are compared.")
    ] = None,
) -> None:
    """``qalof sensitivity``."""
    scores = {"score": score[0] if len(score) == 1 else list(score)} if score else {}
    run_job("sensitivity", config, overrides, output, as_json, address, checkpoint_given(checkpoint) | scores)


@app.command(help="Search per-layer bitmaps for the front of quality against cost.")
def search(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Average bits; the best bitmap of each is found (guided).")
    ] = None,
) -> None:
    """``qalof search``."""
    guided = {"strategy": "guided", "strategy_options.budgets": list(budget)} if budget else {}
    run_job("search", config, overrides, output, as_json, address, checkpoint_given(checkpoint) | guided)


def _add_from_config(name: str, what: str) -> None:
    @app.command(name, help=what)
    def command(
        overrides: Overrides = None,
        config: ConfigOption = None,
        output: OutputOption = None,
        as_json: JsonOption = False,
        address: AddressOption = None,
    ) -> None:
        run_job(name, config, overrides, output, as_json, address)


def _add_of_checkpoint(name: str, what: str) -> None:
    @app.command(name, help=what)
    def command(
        overrides: Overrides = None,
        config: ConfigOption = None,
        output: OutputOption = None,
        as_json: JsonOption = False,
        address: AddressOption = None,
        checkpoint: CheckpointOption = None,
    ) -> None:
        run_job(name, config, overrides, output, as_json, address, checkpoint_given(checkpoint))


for _name, _what in FROM_CONFIG.items():
    _add_from_config(_name, _what)
for _name, _what in OF_CHECKPOINT.items():
    _add_of_checkpoint(_name, _what)
