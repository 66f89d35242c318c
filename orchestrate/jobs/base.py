"""A job: everything that the house asks of a command.

One class per command, in the command's own folder, and one line per command in :mod:`orchestrate.jobs.registry`.  What
runs commands (:mod:`orchestrate.jobs.run`, :mod:`orchestrate.pipeline`), shows results (:mod:`orchestrate.cli`) and
writes reports (:mod:`orchestrate.report`) asks the job; none of them knows a command by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import RenderableType

from orchestrate.config.base import BaseConfig
from orchestrate.config.sections import JobConfig, OneWorkerConfig
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Plot, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate
from orchestrate.document.formats import count_of, duration
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.inputs import input_digests
from orchestrate.runs.mlflow_tracker import Run
from qalof.cost import MODEL_COSTS

Result = dict[str, Any]
Offer = tuple[list[str] | None, Sequence[str]]
"""What may stand in the middle of a table's cell (None stands for anything), and the metrics that go with it."""


Config = TypeVar("Config", bound=JobConfig)
Checked = TypeVar("Checked")
"""What the check of a config finds out, which the work then uses."""


class Job(ABC, Generic[Config, Checked]):
    """One command; each method has a default that fits most commands, unless it is abstract."""

    name: ClassVar[str]
    """The command, such as ``range-test``."""
    config: type[Config]
    """The class of its config."""
    shareable: ClassVar[bool] = False
    """Whether pipelines that write into neighboring folders may share a run of it."""
    settings: ClassVar[Sequence[tuple[str, str]]] = ()
    """What a report shows of its config: pairs of a heading and a dotted key."""
    record: ClassVar[tuple[str, str] | None] = None
    """A file in its run directory that grows line by line, and the word for what a line holds."""
    carried: ClassVar[Sequence[str]] = ()
    """The files whose lines say themselves what they belong to, so a run of another config takes them over from the run
    that it replaces in its folder."""
    is_about: ClassVar[str] = ""
    """A sentence at the head of its section in a report."""

    @property
    def shares_work(self) -> bool:
        """Whether several workers may share its work; otherwise a least number of them has no meaning."""
        return not isinstance(self.config.model_fields["workers"].default, OneWorkerConfig)

    @abstractmethod
    def check(self, config: Config) -> Checked:
        """Find everything that can be refused before any worker starts.

        Raises:
            BadInputError: the config cannot be run; the error names the law, the value that broke it, and the way out.
        """

    @abstractmethod
    def work(self, config: Config, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Do the work, and return a result that JSON can hold.  Ray is connected already, unless the workers are this
        process.
        """

    def stands_for(self, config: Config) -> Mapping[str, BaseConfig]:
        """Return the configs whose inputs the result depends on, by the beginning of their keys."""
        return {"": config}

    def inputs(self, config: Config) -> dict[str, str]:
        """Return the digests, by key, of the files and folders that the result depends on."""
        return input_digests(self.stands_for(config))

    def method(self, config: Config) -> str:
        """Name what the command does it by, such as an objective, a strategy or an attack; runs are found by it.  It is
        empty where there is nothing to choose.
        """
        return ""

    def describe(self, config: Config, check: bool) -> str:
        """Say in one or more lines what a run would do; ``check`` says whether the config is checked too."""
        checked = " (checkpoint and space are good)" if check and self.check(config) else ""
        return f"{self.name}: on {count_of(config.workers.count, 'actor')}{checked}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Estimate what a step would cost.

        Args:
            step: a step of this command.
            trained: the config by which its checkpoint is trained; None if no step of the pipeline trains it.

        Returns:
            The estimate, or None where it cannot be known.
        """
        return None

    def so_far(self, folder: Path) -> Any:
        """Read what a report shows of a run directory, finished or not; None if it shows nothing."""
        return None

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Any:
        """Read the result of a finished run as typed values.

        Raises:
            BadInputError: a file is missing, damaged, or does not fit the result.
        """
        return None

    def pictures(self, folder: Path, result: Mapping[str, Any]) -> list[Plot]:
        """Draw the figures of a report that are kept as files of a run, too; a figure's name is that of its file."""
        return []

    def lead(self, step: Step) -> str:
        """Say in a sentence or two what a finished step is about."""
        return self.is_about

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Make what a report shows of a step; the identifiers of its figures begin with ``prefix``."""
        return []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Make the sentences that the summary of a report has on a finished step."""
        return [Statement(f"{self.name} finished in {duration(step.seconds)}.")]

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Make what is printed of a result, from top to bottom, within 80 columns."""
        return []

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Say what a table's cell may name of a step.

        Args:
            step: a step of this command.
            of: what the cell has in the middle.
            metrics: returns the metrics of the task that the step scores; it raises an error where no step of the
                pipeline trains its checkpoint.
        """
        return [str(spec) for spec in bitmap_specs(step)], (*metrics(), *MODEL_COSTS)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read the number at ``place`` in a finished step."""
        raise KeyError(f"a table takes no number from {self.name}")
