"""Which parts of the pretrained model bear rounding: what the references claim, with an interval each.

The damage of a site is the KL divergence from full precision, in nats per token, when its weight alone is rounded
(:func:`study.ranking.sensitivity`), in the mean over the measured windows of text.  Damages differ by factors, so kinds
of layers are compared by the geometric mean of their ratio within a block: the interval is a bootstrap over the
blocks, and the same ratio per weight is beside it, since an MLP's layers are larger than those of attention.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from qalof.bitmap_patterns import numbered_blocks
from qalof.evaluation.result import Evaluation
from qalof.statistics import Interval, bootstrap_mean, paired_difference

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
RATIOS = (
    ("MLP layers over attention layers", MLP, ATTENTION),
    ("attention's output over its queries, keys and values", ("o_proj",), ("q_proj", "k_proj", "v_proj")),
    ("the MLP's output over its inputs", ("down_proj",), ("gate_proj", "up_proj")),
)
"""(what is compared, kinds above, kinds below)."""
DRAWS = 2000

Damages = Mapping[str, Mapping[str, float]]


def sensitivities(windows: Sequence[Damages], weights: Mapping[str, int], tokens: int) -> dict[str, Any] | None:
    """Damages by block and kind of layer, and the claims about them.

    Args:
        windows: site -> width -> nats, per window.
        weights: site -> how many weights it has.
        tokens: how many tokens the windows have.
    """
    if not windows:
        return None
    mean = {
        site: {bits: statistics.fmean(window[site][bits] for window in windows) for bits in widths}
        for site, widths in windows[0].items()
    }
    found: dict[str, Any] = {"unit": "nats", "windows": len(windows), "tokens": tokens}
    for bits in next(iter(mean.values())):
        at = {site: widths[bits] for site, widths in mean.items()}
        found[bits] = {
            "by_block": _by_block(at), "by_kind": _by_kind(at), "claims": _claims(at, weights),
            "most": dict(sorted(at.items(), key=lambda pair: -pair[1])[:10]),
            "windows_agree": _agreement([[window[site][bits] for site in at] for window in windows]),
        }  # fmt: skip
    return found


def heads(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity with the head alone rounded, with everything else, and the rise of the loss, paired by window."""
    texts = {name: Evaluation.from_json(row["evaluations"]["text"]) for name, row in rows.items()}
    return {
        name: {
            "perplexity": _three(text.interval("perplexity")),
            "rise": _three(paired_difference(text.per_example["loss"], texts["none"].per_example["loss"])),
        }
        for name, text in texts.items()
        if name != "none"
    }


def _by_block(at: Mapping[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for site, block in zip(at, numbered_blocks(list(at)), strict=True):
        sums[str(block)] = sums.get(str(block), 0.0) + at[site]
    return sums


def _by_kind(at: Mapping[str, float]) -> dict[str, float]:
    kinds = dict.fromkeys(site.rpartition(".")[2] for site in at)
    return {kind: statistics.fmean(_of_kinds(at, (kind,)).values()) for kind in kinds}


def _of_kinds(at: Mapping[str, float], kinds: Iterable[str]) -> dict[str, float]:
    return {site: value for site, value in at.items() if site.rpartition(".")[2] in kinds}


def _claims(at: Mapping[str, float], weights: Mapping[str, int]) -> dict[str, Any]:
    per_weight = {site: value / weights[site] for site, value in at.items()}
    by_block = list(_by_block(at).values())
    ratios = [each for each in RATIOS if all(_of_kinds(at, kinds) for kinds in each[1:])]
    return {
        "rank correlation of a block's depth and damage": _depth(by_block),
        **{name: _ratio(at, above, below) for name, above, below in ratios},
        **{f"{name}, per weight": _ratio(per_weight, above, below) for name, above, below in ratios},
    }


def _depth(by_block: Sequence[float]) -> list[float]:
    """Spearman's rank correlation of depth and damage, with a bootstrap over the blocks."""
    values, draw = np.asarray(by_block), np.random.default_rng(0)
    picks = draw.integers(0, len(values), (DRAWS, len(values)))
    drawn = [float(spearmanr(pick, values[pick]).statistic) for pick in picks]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return _three(Interval(float(spearmanr(range(len(values)), values).statistic), float(low), float(high)))


def _ratio(at: Mapping[str, float], above: Iterable[str], below: Iterable[str]) -> list[float]:
    """The geometric mean over blocks of the ratio of two kinds' geometric means."""
    logs = [_logs_by_block(_of_kinds(at, kinds)) for kinds in (above, below)]
    found = bootstrap_mean([logs[0][block] - logs[1][block] for block in logs[0]])
    return _three(Interval(*(math.exp(value) for value in (found.estimate, found.low, found.high))))


def _logs_by_block(at: Mapping[str, float]) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for site, block in zip(at, numbered_blocks(list(at)), strict=True):
        found.setdefault(block, []).append(math.log(max(at[site], 1e-12)))
    return {block: statistics.fmean(values) for block, values in found.items()}


def _agreement(rows: Sequence[Sequence[float]]) -> float | None:
    """The mean rank correlation of two windows, over all pairs."""
    pairs = [(a, b) for index, a in enumerate(rows) for b in rows[index + 1 :]]
    return round(statistics.fmean(float(spearmanr(a, b).statistic) for a, b in pairs), 3) if pairs else None


def _three(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
