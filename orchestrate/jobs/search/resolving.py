"""How many examples a search scores, chosen from the noise of the metric."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import RESOLUTION
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.files import read_json, write_json
from qalof.tasks.base import example_count
from search import BitmapSpace, resolve


def resolved(
    config: SearchConfig,
    opened: OpenCheckpoint,
    space: BitmapSpace,
    objectives: Sequence[str],
    directory: RunDirectory,
) -> dict[str, Any]:
    """Return the number of examples, ``limit`` or all of them at most, and what it was chosen from, as JSON.

    Raises:
        BadInputError: The noise of the first measured objective cannot be measured.
    """
    path = directory.path / RESOLUTION
    if path.is_file():
        known: dict[str, Any] = read_json(path, "resolution")
        return known
    assert config.resolve is not None
    most = min(example_count(opened.task), config.limit or example_count(opened.task))
    made = EvaluationPool(opened, space.sites, None, config.workers, robustness=config.robustness.settings)
    with closing(made) as pool:
        found = resolve(space, pool, objectives, config.resolve, most=most, seed=config.seed)
    content = found.to_json() | {"text": found.text}
    write_json(path, content)
    return content
