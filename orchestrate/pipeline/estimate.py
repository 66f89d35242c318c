"""What each step of a pipeline would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrate.config.build import make_objective
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import (
    SEQUENCE_TOKENS,
    SQUAD_EXAMPLES,
    UNKNOWN_EXAMPLES,
    Estimate,
    answer_tokens,
    bare_model,
    examples_of,
    forward,
    sequence_tokens,
    sites_of,
    training_passes,
)
from orchestrate.document.planned_step import PlannedStep, bitmap_specs, owner_of
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.generate_data.job import GenerateConfig
from orchestrate.jobs.profile.job import FootprintConfig
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.sensitivity.output_error import EXAMPLES
from qalof.bitmap import block_of_sites
from qalof.home import expanded
from qalof.tasks.squad_data import load_squad
from search.space import DEFAULT_WIDTHS


def estimate(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """What a step would cost; None if it works on a checkpoint that no step trains."""
    if isinstance(step.config, GenerateConfig):
        return _generation(step.config)
    owner = owner_of(step, steps)
    if owner is None:
        return None
    trained = owner.config
    assert isinstance(trained, TrainConfig)
    parameters = sum(p.numel() for p in bare_model(trained.model.source).parameters())
    config: Any = step.config
    task = config.task if isinstance(config, EvaluateConfig) and config.task else trained.task
    tokens = sequence_tokens(task)
    if isinstance(config, TrainConfig):
        training = config.training
        objective = make_objective(config.objective, sites_of(config), training.steps, training.seed)
        sequences = training_passes(config, objective) * training.batch_size
        learnt = Estimate(trained=sequences, tokens=sequences * tokens, flops=6.0 * parameters * sequences * tokens)
        scored = examples_of(task, config.evaluation.limit) * (len(bitmap_specs(step)) or 1)
        return learnt + forward(scored, tokens + answer_tokens(task), parameters)
    if isinstance(config, AttackConfig):
        return _attack(config, tokens, parameters)
    if isinstance(config, FootprintConfig):
        if "speed" not in config.measures:
            return Estimate()
        runs = len(config.bitmaps) * (config.repeats + 1) * config.sequences
        return forward(2 * runs, config.tokens, parameters)
    if isinstance(config, SensitivityConfig) and config.score == "output_error":
        # one pass that captures, and the products of every width beside it
        return forward((config.limit or EXAMPLES) * (1 + len(config.lowered)), tokens, parameters)
    scored = examples_of(task, config.limit) * _evaluations(step, trained)
    return forward(scored, tokens + answer_tokens(task), parameters)


def _generation(config: GenerateConfig) -> Estimate:
    """A forward pass per text: with a cache, its tokens run once."""
    how = config.generation
    local = how.data == "tiny" or expanded(how.data).exists()
    prompts = len(load_squad(how.data, how.split)) if local else SQUAD_EXAMPLES["train"]
    known = bare_model(config.model.source)
    sweep = int(known.config.vocab_size) * how.greedy_choices
    texts = min(how.count or sweep, prompts if how.start == "prompts" else sweep)
    tokens = min(how.max_length, SEQUENCE_TOKENS + how.max_new_tokens) if how.start == "prompts" else how.max_length
    return forward(texts, tokens, sum(p.numel() for p in known.parameters()))


def _evaluations(step: PlannedStep, trained: TrainConfig) -> int:
    config: Any = step.config
    names = [site.name for site in sites_of(trained)]
    sites, blocks = len(names), max(block_of_sites(names)) + 1
    if isinstance(config, SensitivityConfig):
        return 1 + len(config.lowered) * (blocks if config.unit == "block" else sites)
    if isinstance(config, SearchConfig):
        units = blocks if config.space.group == "block" else sites
        # greedy measures every step down once, and then tries it once
        return config.max_evaluations or 1 + 2 * units * (len(config.space.weight or DEFAULT_WIDTHS) - 1)
    return len(bitmap_specs(step)) or 1


def _attack(config: AttackConfig, tokens: int, parameters: int) -> Estimate:
    texts = (config.limit or UNKNOWN_EXAMPLES) * len(config.bitmaps)
    settings = config.method.settings
    tokens = min(tokens, settings.max_length)  # longer texts are cut, and prompts are as long as they are made
    each = settings.work(tokens)
    stepped = texts * each.trained
    learnt = Estimate(trained=stepped, tokens=stepped * tokens, flops=6.0 * parameters * stepped * tokens)
    return learnt + forward(texts * each.forward, tokens, parameters)
