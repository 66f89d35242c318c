"""Sweeps in a report."""

from __future__ import annotations

from collections import Counter

from orchestrate.document import formats
from orchestrate.document.blocks import Statement, Table, cells
from orchestrate.document.formats import count_of, listed, name_of
from orchestrate.jobs.sweep.findings import Swept
from qalof.metrics import is_percent


def sweep_table(found: Swept) -> Table:
    """Show one row per trial, the best first."""
    params = list(found.trials[0].params)
    metric = found.objective.name
    rows = [
        cells(
            str(trial.number),
            *(formats.setting(trial.params[name]) for name in params),
            formats.level(trial.value, metric),
            trial.state,
            f"{trial.step:,}",
        )
        for trial in found.trials
    ]
    note = (
        "Finished trials first. The score of a trial that was stopped is of fewer steps. Scores have no intervals: "
        "they rank trials, but show no difference between them."
    )
    caption = f"{formats.count_of(len(rows), 'trial')}, by {formats.name_of(metric)}"
    return Table(caption, ["Trial", *params, formats.heading(metric), "State", "Steps"], rows, note)


def sweep_statements(found: Swept) -> list[Statement]:
    """Say how the trials ended, and name the best one."""
    states = Counter(trial.state for trial in found.trials)
    ended = listed([f"{count} {state}" for state, count in states.items()])
    head = f"Of {count_of(len(found.trials), 'trial')}, {ended}"
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    if best is None:
        return [Statement(f"{head}. No finished trial has a finite score, so none is the best.", caution=True)]
    metric = found.objective.name
    unit = f"{formats.NBSP}%" if is_percent(metric) else ""
    settings = listed([f"{name} {formats.setting(value)}" for name, value in best.params.items()])
    level = f"{name_of(metric)} {formats.level(best.value, metric)}{unit}"
    text = f"{head}. The best finished one is trial {best.number} ({settings}): {level} after {best.step:,} steps."
    warning = "The best of several scores is too good on average: score it again on examples that chose nothing."
    return [Statement(text), *([Statement(warning, caution=True)] if len(found.trials) > 1 else [])]
