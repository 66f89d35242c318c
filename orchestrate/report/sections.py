"""One section a step: its heading, settings, files, and the blocks that show what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrate.document import formats
from orchestrate.document.blocks import Block, FileLink, Section
from orchestrate.document.record import Record, State, Step
from orchestrate.jobs.attack.view import attack_blocks
from orchestrate.jobs.search.view import search_blocks
from orchestrate.jobs.sensitivity.view import ranking_blocks
from orchestrate.jobs.shared.view import score_blocks
from orchestrate.jobs.train.loss_plot import loss_blocks
from orchestrate.report.settings import Places, command_line, key_settings, whole_config
from orchestrate.report.tool_dispatch import tool_blocks

_FILES = {
    "config.yaml": "resolved config; runs as it stands",
    "result.json": "the result",
    "checkpoint": "the trained adapters, with checksums",
    "losses.jsonl": "training loss of every step",
    "evaluations.json": "scores of every example",
    "evaluations.jsonl": "record of evaluations, with scores of every example",
    "front.json": "all evaluated bitmaps and the front",
    "front.csv": "the front as a table",
    "front.png": "the front as a picture",
    "trace.csv": "the strategy's own steps",
    "search.jsonl": "record of evaluations, with scores of every example",
    "robustness.json": "success, transfer, random precision",
    "attacks.jsonl": "every attacked text",
    "trials": "each trial's config, checkpoint, losses and scores",
    "methods": "each method's checkpoint and scores of every example",
    "data": "the generated data, with checksums",
    "environment.json": "commit, versions, hardware",
    "tracking.json": "the run in MLflow",
}
_BLOCKS: Mapping[str, Callable[[Record, Step, str], list[Block]]] = {
    "train": score_blocks,
    "evaluate": score_blocks,
    "sensitivity": lambda _, step, prefix: ranking_blocks(step, prefix),
    "search": search_blocks,
    "attack": lambda _, step, prefix: attack_blocks(step, prefix),
    **dict.fromkeys(
        ("sweep", "range-test", "baselines", "footprint", "generate-data"),
        lambda _, step, prefix: tool_blocks(step, prefix),
    ),
}
_RECORDED = {"search": "evaluation", "sensitivity": "evaluation", "attack": "attack"}


def anchor_of(number: int) -> str:
    """The identifier of a step's section."""
    return f"step-{number}"


def section(record: Record, step: Step, number: int, places: Places) -> Section:
    """The section of the step that is ``number``-th in the page, from 1 on."""
    finished = step.state is State.FINISHED
    anchor = anchor_of(number)
    show = _BLOCKS.get(step.command)
    return Section(
        number=number,
        name=step.name,
        command=step.command,
        anchor=anchor,
        state=str(step.state),
        finished=finished,
        seconds=formats.duration(step.seconds),
        lead=lead(step),
        repeat=command_line(step, places),
        settings=key_settings(record, step, places),
        config=whole_config(step, places) if step.config else "",
        blocks=[
            *loss_blocks(step.losses, anchor, finished),
            *(show(record, step, anchor) if show and finished else ()),
        ],
        files=_files(step, places),
    )


def lead(step: Step) -> str:
    """What the step is about, or how far it came, in a sentence or two."""
    if step.state is State.WAITING:
        return "This step has not begun."
    if step.state is State.MISSING:
        return "The pipeline names this step, but its folder is not there or holds no run: nothing can be shown of it."
    if step.state is State.UNFINISHED:
        noun = _RECORDED.get(step.command)
        kept = f" Its record holds {formats.count_of(step.recorded, noun)} so far." if noun else ""
        return f"This step has not finished: there is no result.json.{kept} The command below goes on with it."
    config: Any = step.config
    if step.command == "train":
        training, workers = config.get("training", {}), config.get("workers", {}).get("count", 1)
        return (
            f"Fine-tuning by {_OBJECTIVES.get(_objective(step), _objective(step))} on {step.scored.task}: "
            f"{formats.count_of(training.get('steps', 0), 'step')} of {training.get('batch_size')} sequences, "
            f"shared by {formats.count_of(workers, 'worker')}."
            if step.scored
            else ""
        )
    if step.command == "attack":
        method = str(config.get("method", {}).get("name"))
        return (
            f"{_METHODS.get(method, f'The attack {method}')} at each fixed precision, and the same texts against other "
            "precisions and against random precision inference."
        )
    return _LEADS.get(step.command, f"The result of `{step.command}`; its files are below.")


def _objective(step: Step) -> str:
    objective: Any = step.config.get("objective", {})
    return str(objective.get("name", "an unnamed objective"))


_OBJECTIVES = {
    "static": "plain quantization-aware training at one bitmap",
    "spnet": "switchable precision (all bitmaps on every batch)",
    "cascade": "switchable precision with cascade distillation",
    "cpt": "cyclic precision training (one width a step)",
}
_LEADS = {
    "evaluate": "A trained checkpoint, scored at several bitmaps on the same examples.",
    "sensitivity": "Each unit alone is lowered from the reference while all others stay; what the metric loses is how "
    "sensitive that unit is.",
    "search": "A search over bitmaps for the front of quality against cost.",
    "sweep": "Training settings tried against each other, scored on the same examples.",
    "range-test": "CPT's precision range test: between which widths the cycles of training should run.",
    "baselines": "Quantization without training, by several methods, scored on the same examples.",
    "footprint": "What a checkpoint takes at several bitmaps: bytes, memory and tokens a second.",
    "generate-data": "A model's own texts, written as training data for models that are to stay like it.",
}
_METHODS = {
    "gbda": "A gradient-based attack (GBDA)",
    "textfooler": "An attack by synonyms (TextFooler)",
    "bert-attack": "An attack by a language model's proposals for words (BERT-Attack)",
    "arca": "A search for prompts that make the model say a fixed output (ARCA)",
}


def _files(step: Step, places: Places) -> list[FileLink]:
    found = []
    for name, holds in _FILES.items():
        path = step.folder / name
        if path.exists():
            shown = f"{name}/" if path.is_dir() else name
            found.append(FileLink(places.link(path), shown, holds))
    return found
