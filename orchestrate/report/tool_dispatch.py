"""Blocks and sentences of the commands around training and search."""

from __future__ import annotations

from orchestrate.document.blocks import Block, Statement
from orchestrate.document.record import Step
from orchestrate.jobs.generate_data.findings import Generated
from orchestrate.jobs.generate_data.view import generated_statement, generated_table
from orchestrate.jobs.profile.findings import Measured
from orchestrate.jobs.profile.view import footprint_statements, footprint_table
from orchestrate.jobs.ptq.findings import Baselines
from orchestrate.jobs.ptq.view import baseline_blocks, baseline_statements
from orchestrate.jobs.range_test.findings import RangeTested
from orchestrate.jobs.range_test.view import range_blocks, range_statements
from orchestrate.jobs.sweep.findings import Swept
from orchestrate.jobs.sweep.view import sweep_statements, sweep_table


def tool_blocks(step: Step, prefix: str) -> list[Block]:
    """What a step of any of these commands found."""
    found = step.findings
    if isinstance(found, Swept):
        return [sweep_table(found)]
    if isinstance(found, RangeTested):
        return range_blocks(found, prefix)
    if isinstance(found, Baselines):
        return baseline_blocks(found, prefix)
    if isinstance(found, Measured):
        return [footprint_table(found)]
    return [generated_table(found)] if isinstance(found, Generated) else []


def tool_statements(step: Step) -> list[Statement]:
    """What a step of any of these commands found."""
    found = step.findings
    if isinstance(found, Swept):
        return sweep_statements(found)
    if isinstance(found, RangeTested):
        return range_statements(found)
    if isinstance(found, Baselines):
        return baseline_statements(found)
    if isinstance(found, Measured):
        return footprint_statements(found)
    return [generated_statement(found)] if isinstance(found, Generated) else []
