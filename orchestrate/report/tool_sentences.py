"""What the summary says of sweeps, range tests, baselines, footprints and generated data."""

from __future__ import annotations

import math
from collections import Counter

from orchestrate.report import formats
from orchestrate.report.blocks import Statement
from orchestrate.report.compare import is_shown
from orchestrate.report.formats import bitmap_name, count_of, in_prose, listed, name_of
from orchestrate.report.read import Step
from orchestrate.report.tool_findings import Baselines, Generated, Measured, RangeTested, Swept
from orchestrate.report.wording import apart
from qalof.metrics import is_percent, spoken_of


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


def sweep_statements(found: Swept) -> list[Statement]:
    """How the trials ended, and the best one."""
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
    warning = "The best of several scores is too good on average: to be scored anew on examples that chose nothing."
    return [Statement(text), *([Statement(warning, caution=True)] if len(found.trials) > 1 else [])]


def range_statements(found: RangeTested) -> list[Statement]:
    """Between which widths cycles should run."""
    least, share = f"{found.widths[0].bits} to {found.widths[-1].bits} bits", f"{100 * found.threshold:g} %"
    if found.lowest is None:
        return [Statement(f"No width from {least} lowers the loss by more than {share}: no bounds are recommended.")]
    text = (
        f"Of {least}, widths from {found.lowest} to {found.highest} bits are recommended: the first and the last that "
        f"lower the loss by more than {share} from the width below."
    )
    return [Statement(text), Statement("Each width ran once: another seed may move the bounds.", caution=True)]


def baseline_statements(found: Baselines) -> list[Statement]:
    """Levels by method at each bitmap, and which differ from the reference method."""
    metric = spoken_of(found.scores[0].metrics)
    statements = []
    for bitmap in dict.fromkeys(score.bitmap for score in found.scores):
        levels = [(s.method, s.metrics[metric]) for s in found.scores if s.bitmap == bitmap]
        text = listed([f"{in_prose(level, metric)} by {method}" for method, level in levels])
        statements.append(Statement(f"{formats.capital(name_of(metric))} at {bitmap_name(bitmap)}: {text}."))
    compared = [(score, score.differences[metric]) for score in found.scores if metric in score.differences]
    shown = [f"{apart(d, metric)} by {s.method} at {bitmap_name(s.bitmap)}" for s, d in compared if is_shown(d)]
    alike = len(compared) - len(shown)
    parts = [f"{name_of(metric)} is {listed(shown)}"] if shown else []
    parts += [f"no difference is shown in {count_of(alike, 'comparison')}"] if alike else []
    if parts:
        statements.append(Statement(f"Paired over the same examples with {found.reference}: {'; '.join(parts)}."))
    return statements


def footprint_statements(found: Measured) -> list[Statement]:
    """How small, and how fast."""
    statements = []
    for name, what, unit in (
        ("packed_percent", "Packed, in percent of the fp32 model", f"{formats.NBSP}%"),
        ("prefill_tokens_per_second", f"Prefill on {found.device}", " tokens/s"),
        ("decode_tokens_per_second", f"Decoding on {found.device}", " tokens/s"),
    ):
        known = [
            (bitmap, metrics[name]) for bitmap, metrics in found.rows if math.isfinite(metrics.get(name, math.nan))
        ]
        if known:
            values = [f"{value:,.1f}{unit}" if "percent" in name else f"{value:,.0f}{unit}" for _, value in known]
            statements.append(Statement(f"{what}: {formats.by_bitmap([bitmap for bitmap, _ in known], values)}."))
    return statements


def generated_statement(found: Generated) -> Statement:
    """How much was written."""
    ended = f"{found.ended:,} to their own end" + (f", {found.empty:,} of them empty" if found.empty else "")
    mean = f"{found.tokens / found.texts:.1f} tokens on average ({found.tokens:,} tokens)"
    return Statement(f"The model wrote {found.texts:,} {found.kind} of {mean}, {ended}.")
