"""What an estimate of work is made of: sequences, tokens and FLOP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel

from orchestrate.config.objective import CurriculumObjective
from orchestrate.config.train import TrainConfig, TrainingConfig
from orchestrate.document.formats import size
from qalof.bitmap import block_of_sites
from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.model.pretrained import resolve_source
from qalof.site import Site
from qalof.tasks.squad_data import load_squad, parse_split
from qalof.training.objectives import Objective

GPU = "one A100 in fp32 (19.5 TFLOP/s, assumed to be used at 30 %)"

FLOPS_A_SECOND = 19.5e12 * 0.3

BYTES_A_SECOND = 200e6
"""How many bytes per second a disk that is not fast reads and writes."""

SEQUENCE_TOKENS = 180
"""The mean length of SQuAD's question and context in GPT-2's tokens, rounded up; a batch is padded to its longest."""

SQUAD_EXAMPLES = {"train": 87_599, "validation": 10_570}

WIKITEXT_TOKENS = 250_000
"""How many tokens WikiText-2 and -103 have for validation, in GPT-2's vocabulary, roughly."""

UNKNOWN_EXAMPLES = 1_000

_GPT2 = {"gpt2": {}, "gpt2-medium": {"n_layer": 24, "n_embd": 1024, "n_head": 16}}


@dataclass(frozen=True)
class Estimate:
    """Work: the sequences that run with (``trained``) and without (``forward``) a backward pass, and the ``tokens`` of
    both; and the bytes that are ``read`` and ``written`` where that takes most of the time.
    """

    trained: int = 0
    forward: int = 0
    tokens: int = 0
    flops: float = 0.0
    read: int = 0
    written: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.trained + other.trained,
            self.forward + other.forward,
            self.tokens + other.tokens,
            self.flops + other.flops,
            self.read + other.read,
            self.written + other.written,
        )

    def times(self, factor: float) -> Estimate:
        """Return so many times the work."""
        trained, runs, tokens, read, written = (
            round(value * factor) for value in (self.trained, self.forward, self.tokens, self.read, self.written)
        )
        return Estimate(trained, runs, tokens, self.flops * factor, read, written)

    @property
    def hours(self) -> float:
        """The hours that it takes on :data:`GPU`, with :data:`BYTES_A_SECOND`."""
        return (self.flops / FLOPS_A_SECOND + (self.read + self.written) / BYTES_A_SECOND) / 3600

    def describe(self) -> str:
        """Describe the work in a line."""
        if self == Estimate():
            return "no sequence runs through a model"
        passes = [f"{self.trained:,} sequences forward and backward"] if self.trained else []
        passes += [f"{self.forward:,} {'' if self.trained else 'sequences '}forward"] if self.forward else []
        parts = [f"{', '.join(passes)}; {self.tokens:,} tokens, {self.flops:.1e} FLOP"] if passes else []
        parts += [f"{size(self.read)} read and {size(self.written)} written"] if self.read or self.written else []
        return f"{', '.join(parts)}, {duration(self.hours)}"


def duration(hours: float) -> str:
    """Write hours roughly."""
    return f"about {hours:.1f} h" if hours >= 1 else f"about {60 * hours:.0f} min" if hours >= 1 / 60 else "under 1 min"


def training_passes(config: TrainConfig, objective: Objective) -> int:
    """Count how often a batch goes forward and backward in the whole training: once per bitmap and step."""
    steps = config.training.steps
    if isinstance(config.objective, CurriculumObjective):
        return sum(len(objective.bitmaps(step)) for step in range(steps))
    # all others run as many bitmaps at every step, whichever they draw
    return steps * len(objective.bitmaps(0))


def sites_of(config: TrainingConfig) -> tuple[Site, ...]:
    """Find the sites of a training run's model.

    Raises:
        BadInputError: only the hub knows the source, or patterns match nothing.
    """
    return config.switch.sites_of(bare_model(config.model.source))


@lru_cache(maxsize=8)
def bare_model(source: str) -> PreTrainedModel:
    """Make a language model of a source's sizes, without numbers.

    Raises:
        BadInputError: the source is neither a local folder nor a GPT-2 whose sizes are known here.
    """
    known = source.removeprefix("openai-community/")
    if known in _GPT2:
        config: Any = GPT2Config(**_GPT2[known])
    elif Path(resolve_source(source)).is_dir():
        config = AutoConfig.from_pretrained(resolve_source(source))
    else:
        raise BadInputError(
            f"sizes of model {source!r} are not known without the hub: give a local folder, or one of "
            f"{', '.join(_GPT2)}"
        )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model


def sequence_tokens(task: Any) -> int:
    """Return the tokens of a sequence on average: whole windows for language modeling, otherwise as many as
    ``max_length`` lets pass.
    """
    longest = int(getattr(task.settings, "max_length", None) or SEQUENCE_TOKENS)
    return longest if task.name == "language-modeling" else min(longest, SEQUENCE_TOKENS)


def answer_tokens(task: Any) -> int:
    """Return the most tokens that are generated for an example."""
    return int(getattr(task.settings, "max_new_tokens", 0))


def examples_of(task: Any, limit: int | None) -> int:
    """Return how many validation examples an evaluation takes: known, counted in a local file, or assumed."""
    settings = task.settings
    if task.name == "language-modeling":
        found: int = -(-WIKITEXT_TOKENS // int(settings.stride))
    elif task.name.startswith("squad"):
        name, cut = parse_split(settings.validation_split)
        source = getattr(settings, "validation_data", None) or settings.data
        local = source == "tiny" or expanded(source).exists()
        found = len(load_squad(source, name)) if local else SQUAD_EXAMPLES[name]
        found = min(found, cut or found)
    else:
        found = UNKNOWN_EXAMPLES
    return found if limit is None else min(found, limit)


def learned(sequences: int, config: TrainingConfig) -> Estimate:
    """Return the work of sequences that run forward and backward in a training of this model and task."""
    tokens = sequences * sequence_tokens(config.task)
    return Estimate(trained=sequences, tokens=tokens, flops=6.0 * parameters_of(config) * tokens)


def forward(sequences: int, tokens: int, parameters: int) -> Estimate:
    """Return the work of sequences of ``tokens`` tokens through a model of so many parameters, forward alone."""
    return Estimate(forward=sequences, tokens=sequences * tokens, flops=2.0 * parameters * sequences * tokens)


def parameters_of(config: TrainingConfig) -> int:
    """Return how many parameters a training run's model has, without adapters."""
    return sum(p.numel() for p in bare_model(config.model.source).parameters())


def blocks_of(config: TrainConfig) -> int:
    """Return how many blocks a training run's model has."""
    return int(max(block_of_sites([site.name for site in sites_of(config)]))) + 1


def scored_at(trained: TrainConfig, task: Any, limit: int | None, times: int) -> Estimate:
    """Return the work of so many evaluations of a trained model on a task, of ``limit`` examples each."""
    tokens = sequence_tokens(task) + answer_tokens(task)
    return forward(examples_of(task, limit) * times, tokens, parameters_of(trained))
