"""The commands that are jobs: each has a config, a run directory and a result, and all have the same options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from orchestrate.cli.options import CheckpointOption, Common, app, checkpoint_given, run_job, with_common
from qalof.errors import BadInputError

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


def evaluate(
    common: Common,
    checkpoint: CheckpointOption = None,
    bitmap: Annotated[
        list[str] | None, typer.Option("--bitmap", help="8, w4a8, 8,8,4,4, striped84, a .json file.")
    ] = None,
    random_precision: Annotated[
        list[str] | None,
        typer.Option("--random-precision", help="A bitmap to draw from; give it once for each of them."),
    ] = None,
) -> None:
    """Score a checkpoint at bitmaps, on its own task or another."""
    bitmaps = {"bitmaps": list(bitmap)} if bitmap else {}
    drawn = {"random_precision.bitmaps": list(random_precision)} if random_precision else {}
    run_job("evaluate", common, checkpoint_given(checkpoint) | bitmaps | drawn)


def sensitivity(
    common: Common,
    checkpoint: CheckpointOption = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", help="metric, output_error, fisher, kl, ...; several are compared.")
    ] = None,
) -> None:
    """Rank sites or blocks by what is lost when each alone is reduced, or score them for a search."""
    scores = {"score": score[0] if len(score) == 1 else list(score)} if score else {}
    run_job("sensitivity", common, checkpoint_given(checkpoint) | scores)


def search(
    common: Common,
    checkpoint: CheckpointOption = None,
    budget: Annotated[
        list[float] | None, typer.Option("--budget", help="Average bits; the best bitmap of each is found (guided).")
    ] = None,
    resolve: Annotated[
        str | None, typer.Option("--resolve", help="2%: as many examples are scored as show such a difference.")
    ] = None,
) -> None:
    """Search per-layer bitmaps for the front of quality against cost."""
    guided = {"strategy": "guided", "strategy_options.budgets": list(budget)} if budget else {}
    share = {} if resolve is None else {"resolve": share_of(resolve)}
    run_job("search", common, checkpoint_given(checkpoint) | guided | share)


def share_of(text: str) -> float:
    """Return a share that is written as ``2%`` or ``0.02``.

    Raises:
        BadInputError: It is no number.
    """
    number, percent, rest = text.partition("%")
    try:
        return float(number) / (100 if percent else 1) if not rest.strip() else float(text)
    except ValueError:
        raise BadInputError(f"--resolve must be a share, such as 2% or 0.02: got {text!r}") from None


def _from_config(name: str) -> Callable[..., None]:
    def command(common: Common) -> None:
        run_job(name, common)

    return command


def _of_checkpoint(name: str) -> Callable[..., None]:
    def command(common: Common, checkpoint: CheckpointOption = None) -> None:
        run_job(name, common, checkpoint_given(checkpoint))

    return command


for _work in (evaluate, sensitivity, search):
    app.command(_work.__name__)(with_common(_work))
for _name, _what in FROM_CONFIG.items():
    app.command(_name, help=_what)(with_common(_from_config(_name)))
for _name, _what in OF_CHECKPOINT.items():
    app.command(_name, help=_what)(with_common(_of_checkpoint(_name)))
