"""A job: everything that the house asks of a command.

One class per command, in the command's own folder, and one line per command in :mod:`orchestrate.jobs.registry`.  What
runs commands (:mod:`orchestrate.jobs.run`, :mod:`orchestrate.pipeline`), shows results (:mod:`orchestrate.cli`) and
writes reports (:mod:`orchestrate.report`) asks the job, and knows no command by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import RenderableType

from orchestrate.config.base import BaseConfig
from orchestrate.config.sections import JobConfig
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate
from orchestrate.document.formats import count_of, duration
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.inputs import input_digests
from orchestrate.runs.mlflow_tracker import Run
from qalof.cost import COST_NAMES

Result = dict[str, Any]
Offer = tuple[list[str] | None, Sequence[str]]
"""What may stand in the middle of a table's cell (None: anything), and the metrics that go with it."""


Config = TypeVar("Config", bound=JobConfig)
Checked = TypeVar("Checked")
"""What the check of a config finds out, for the work."""


class Job(ABC, Generic[Config, Checked]):
    """One command; what it does not say otherwise has a default that fits most."""

    name: ClassVar[str]
    """The command, such as ``range-test``."""
    config: type[Config]
    """The class of its config."""
    shareable: ClassVar[bool] = False
    """Whether pipelines beside each other may share a run of it."""
    shares_work: ClassVar[bool] = True
    """Whether several workers may share its work; otherwise a least number of them has no meaning."""
    settings: ClassVar[Sequence[tuple[str, str]]] = ()
    """What a report shows of its config: a heading, and a dotted key."""
    record: ClassVar[tuple[str, str] | None] = None
    """A file in its run directory that grows line by line, and what a line is."""
    is_about: ClassVar[str] = ""
    """A sentence at the head of its section in a report."""

    @abstractmethod
    def check(self, config: Config) -> Checked:
        """Find everything that can be refused before any worker starts.

        Raises:
            BadInputError: names the law, the value that broke it, and the way out.
        """

    @abstractmethod
    def work(self, config: Config, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Do the work; the result is JSON-able.  Ray is connected already, unless the workers are this process."""

    def stands_for(self, config: Config) -> Mapping[str, BaseConfig]:
        """The configs whose inputs the result depends on, by the beginning of their keys."""
        return {"": config}

    def inputs(self, config: Config) -> dict[str, str]:
        """Digests, by key, of the files and folders that the result depends on."""
        return input_digests(self.stands_for(config))

    def describe(self, config: Config, check: bool) -> str:
        """What a run would do, in a line or more; ``check``: whether to check the config, too."""
        checked = " (checkpoint and space are good)" if check and self.check(config) else ""
        return f"{self.name}: on {count_of(config.workers.count, 'actor')}{checked}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """What a step would cost.

        Args:
            step: of this command.
            trained: the config that its checkpoint is trained by; None if no step of the pipeline trains it.

        Returns:
            None where that cannot be known.
        """
        return None

    def so_far(self, folder: Path) -> Any:
        """What a run directory holds, finished or not, that a report shows; None if nothing."""
        return None

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Any:
        """The result of a finished run as typed values.

        Raises:
            BadInputError: a file is missing, damaged, or does not fit the result.
        """
        return None

    def lead(self, step: Step) -> str:
        """What a finished step is about, in a sentence or two."""
        return self.is_about

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """What a report shows of a step; ``prefix``: of the identifiers of its figures."""
        return []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """What the summary of a report says of a finished step."""
        return [Statement(f"{self.name} finished in {duration(step.seconds)}.")]

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """What is printed of a result, from top to bottom, within 80 columns."""
        return []

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """What a table's cell may name of a step.

        Args:
            step: of this command.
            of: what the cell has in the middle.
            metrics: of the task that the step scores; raises where no step of the pipeline trains its checkpoint.
        """
        return [str(spec) for spec in bitmap_specs(step)], (*metrics(), *COST_NAMES)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """The number at ``place`` in a finished step."""
        raise KeyError(f"a table takes no number from {self.name}")
