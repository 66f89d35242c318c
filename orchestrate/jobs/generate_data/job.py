"""``generate-data``: a model's own texts as training data, written by a pool of actors.

An item of work is a shard: a run of sample indices.  Every text is a function of its index (see
:mod:`qalof.training.synthetic_data`), so neither the number of actors nor the batch size changes a byte.  An actor
writes its shard under another name and renames it.  So a shard that is there is whole, and a run that was killed goes
on with those that are missing.  When all are there, the folder is counted and sealed, and is then training data for
``language-modeling``, or for ``squad-completion`` where it was made from ``prompts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import RenderableType

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.config.sections import JobConfig, SourceConfig
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.estimate import SEQUENCE_TOKENS, SQUAD_EXAMPLES, Estimate, bare_model, forward
from orchestrate.document.formats import mean_count
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.generate_data.findings import Generated, generated
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.digests import tokenizer_digest
from qalof.errors import BadInputError
from qalof.files import MANIFEST, read_json_lines, seal, write_text
from qalof.home import expanded
from qalof.laws import Count
from qalof.model.positions import positions_of
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
from qalof.tasks.generated_data import FORMAT_VERSION, SHARDS, to_line
from qalof.tasks.squad_data import load_squad
from qalof.training.synthetic_data import GenerationSettings, TextSource, generate, writer_for

DATA = "data"


class GenerateConfig(JobConfig):
    """The config of ``qalof generate-data``."""

    command: Literal["generate-data"] = "generate-data"
    """The command that reads this config."""
    model: SourceConfig = SourceConfig()
    """The pretrained model that writes the texts."""
    generation: GenerationSettings = GenerationSettings()
    """Which texts are written, and how."""
    shard_size: Count = 256
    """How many texts a file holds; a file is one item of work."""
    batch_size: Count = 32
    """How many texts an actor writes at once; no text depends on it."""


@dataclass(frozen=True)
class Shard:
    """The samples from ``first`` to before ``end``, and the file that they go to."""

    path: str
    first: int
    end: int


class GenerationActor:
    """Holds the model that writes."""

    def __init__(self, model: str, settings: GenerationSettings, batch_size: int, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._source, loaded = open_source(model, settings)
        self._writer = writer_for(loaded.to(device), self._source)
        self._batch_size = batch_size

    def do(self, shard: Shard) -> dict[str, int]:
        """Write a shard, and return its counts."""
        before = self._writer.decided_again
        rows = list(generate(self._writer, self._source, range(shard.first, shard.end), self._batch_size))
        write_text(Path(shard.path), "".join(to_line(row) for row in rows))
        tokens = sum(len(row["ids"]) for row in rows)
        return {"texts": len(rows), "tokens": tokens, "decided_again": self._writer.decided_again - before}


def open_source(model: str, settings: GenerationSettings) -> tuple[TextSource, Any]:
    """Open what the samples begin with, and the model that goes on from there.

    Raises:
        BadInputError: a model or data cannot be had, or texts are longer than the model's positions.
    """
    tokenizer = load_tokenizer(model)
    loaded = load_pretrained(model, HeadKind.CAUSAL_LM)
    return TextSource(settings, tokenizer, positions_of(loaded)), loaded


def check(config: GenerateConfig) -> TextSource:
    """Check what is to be written, before any actor starts.

    Raises:
        BadInputError: see :func:`open_source`.
    """
    source = open_source(config.model.source, config.generation)[0]
    source.plan(0)
    return source


def shards(config: GenerateConfig, source: TextSource, folder: Path) -> list[Shard]:
    """List all shards of a generation, in order."""
    starts = range(0, source.count, config.shard_size)
    ends = [min(start + config.shard_size, source.count) for start in starts]
    path = folder / DATA / SHARDS
    return [
        Shard(str(path / f"shard-{number:05d}.jsonl"), first, end)
        for number, (first, end) in enumerate(zip(starts, ends, strict=True))
    ]


def work(config: GenerateConfig, source: TextSource, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Write what is missing, then count and seal; Ray is connected already."""
    wanted = shards(config, source, directory.path)
    missing = [shard for shard in wanted if not Path(shard.path).is_file()]
    done = source.count - sum(shard.end - shard.first for shard in missing)
    with progress_bar("generate", source.count) as progress:

        def show(index: int, counts: Mapping[str, int]) -> None:
            nonlocal done
            done += counts["texts"]
            run.log_series([(done, {f"generate.{name}": value for name, value in counts.items()})])
            progress.update(done, f"{counts['tokens'] / counts['texts']:.0f} tokens per text")

        if missing:
            _write(config, missing, show)
    counts = count(wanted)
    found = {
        "start": config.generation.start,
        "kind": "completions" if config.generation.start == "prompts" else "texts",
        **counts,
        "shards": len(wanted),
        "mean_tokens": counts["tokens"] / counts["texts"],
        "question_too_long": source.left_out,
    }
    run.log_metrics({name: value for name, value in {**found, "generated": counts["texts"]}.items() if name in counts})
    header = {
        "format_version": FORMAT_VERSION,
        **found,
        "model": config.model.source,
        "tokenizer": tokenizer_digest(source.tokenizer),
        "settings": asdict(config.generation),
    }
    seal(directory.path / DATA, header)
    run.artifact(directory.path / DATA / MANIFEST)
    return {"data": str(directory.path / DATA), **found}


def _write(config: GenerateConfig, missing: list[Shard], show: Any) -> None:
    workers = config.workers
    arguments = (config.model.source, config.generation, config.batch_size, threads_of(workers), workers.device)
    pool = pool_of(GenerationActor, workers, *arguments, size=min(workers.count, len(missing)))
    with closing(pool):
        pool.map(missing, show)


def count(wanted: list[Shard]) -> dict[str, int]:
    """Count texts and tokens, those that ``ended`` where the model ended them, and those that are ``empty``.

    Raises:
        BadInputError: a shard does not hold the samples that it should.
    """
    counts = dict.fromkeys(("texts", "tokens", "ended", "empty"), 0)
    for shard in wanted:
        rows = [row for _, row in read_json_lines(Path(shard.path), "generated shard")]
        indices = [row.get("index") for row in rows]
        if indices != list(range(shard.first, shard.end)):
            raise BadInputError(
                f"generated shard {shard.path} must hold samples {shard.first} to {shard.end - 1}: "
                f"it holds {len(rows)} lines; delete it and run the same command again"
            )
        counts["texts"] += len(rows)
        counts["tokens"] += sum(len(row["ids"]) for row in rows)
        counts["ended"] += sum(row["ended"] for row in rows)
        counts["empty"] += sum(not row["ids"] for row in rows)
    return counts


class GenerateJob(Job[GenerateConfig, TextSource]):
    """``qalof generate-data``."""

    name = "generate-data"
    config = GenerateConfig
    shareable = True
    settings = (("Model", "model.source"), ("Generation", "generation"))
    is_about = "A model's own texts, written as training data for models that are to stay like it."

    def check(self, config: GenerateConfig) -> TextSource:
        """Open the model, and what the texts begin with."""
        return check(config)

    def work(self, config: GenerateConfig, checked: TextSource, directory: RunDirectory, run: Run) -> Result:
        """Write what is missing."""
        return work(config, checked, directory, run)

    def method(self, config: GenerateConfig) -> str:
        """Name what texts begin with."""
        return config.generation.start

    def describe(self, config: GenerateConfig, check: bool) -> str:
        """Say how many texts are written, and of what length."""
        how = config.generation
        count = f"{self.check(config).count:,}" if check else how.count or "all"
        begun = f"{count} texts by {how.start}, up to {how.max_length} tokens"
        return f"{self.name}: {begun}, {config.workers.count} actors"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate:
        """Count one forward pass per text: with a cache, each of its tokens runs once."""
        config: Any = step.config
        how = config.generation
        local = how.data == "tiny" or expanded(how.data).exists()
        prompts = len(load_squad(how.data, how.split)) if local else SQUAD_EXAMPLES["train"]
        known: Any = bare_model(config.model.source)
        starts = int(known.config.vocab_size) * how.greedy_choices
        texts = min(how.count or starts, prompts if how.start == "prompts" else starts)
        longest = SEQUENCE_TOKENS + how.max_new_tokens
        tokens = min(how.max_length, longest) if how.start == "prompts" else how.max_length
        return forward(texts, tokens, sum(p.numel() for p in known.parameters()))

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Generated:
        """Read what was counted."""
        return generated(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the counts as a table."""
        from orchestrate.jobs.generate_data.view import generated_table

        return [generated_table(step.findings)] if isinstance(step.findings, Generated) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Say how much was written."""
        from orchestrate.jobs.generate_data.view import generated_statement

        return [generated_statement(step.findings)] if isinstance(step.findings, Generated) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show how much was written, and where."""
        counted = f"{result['texts']:,} {result['kind']} of {mean_count(result['mean_tokens'])} tokens on average"
        return [f"{counted}, {result['ended']:,} to their own end; data: {result['data']}"]
