"""Tables and figures of ``attack``.

Rates are Wilson's intervals over texts.  Fixed precision and random precision are measured on the same texts, but
their files keep the rates only, so no paired interval can be made: two rates are said to differ if their intervals do
not meet, which asks for more than a test of the difference would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Examples, Pair, Plot, Table
from orchestrate.document.figures import Bars, grouped_bars
from orchestrate.document.heat import Panel, heat_map
from orchestrate.document.record import Step
from orchestrate.jobs.attack.attackers_view import attackers_table, comparisons_table, meaning_table
from orchestrate.jobs.attack.findings import Attacked, attacked_of
from orchestrate.jobs.attack.shown import cell, defense_name, drawn_from, rate
from orchestrate.jobs.attack.wording import CLASSIFIER, mean_measure, substitutes_named, wording
from qalof.attacks.rates import Rate
from qalof.attacks.result import AttackResult, AttackStatus, summarize
from qalof.attacks.robustness.report import RandomPrecisionReport
from qalof.statistics import Interval

EXAMPLES = 3


def attack_blocks(step: Step, prefix: str) -> list[Block]:
    """Show success at fixed and at random precision, clean accuracy, transfer, and some of the texts."""
    attacked = attacked_of(step)
    if attacked is None:
        return []
    robustness = attacked.robustness
    blocks: list[Block] = [_success_plot(attacked, f"{prefix}-success"), _fixed_table(attacked)]
    if robustness.similar and any(robustness.similar):
        blocks.append(meaning_table(attacked))
    for defense in robustness.random_precision:
        blocks.append(_random_table(attacked, defense))
        if defense.attackers:
            blocks += [attackers_table(attacked, defense), comparisons_table(defense)]
    if wording(attacked) is CLASSIFIER:
        blocks.append(_accuracy_plot(attacked, f"{prefix}-clean"))
    return [*blocks, *transfer_plot(attacked, f"{prefix}-transfer"), _transfer_table(attacked), *_examples(attacked)]


def _interval(value: Rate) -> Interval | None:
    return None if value.estimate is None else Interval(value.estimate, value.low, value.high)


def _success_plot(attacked: Attacked, name: str) -> Plot:
    robustness = attacked.robustness
    groups = [Bars("fixed precision", [_interval(value) for value in robustness.attack_success])]
    for defense in robustness.random_precision:
        groups.append(Bars(defense_name(defense), [_interval(source.success_mean) for source in defense.sources]))
    if len(robustness.random_precision) == 1:  # the tables have the controls of all
        (defense,) = robustness.random_precision
        control = [_interval(source.control_mean) for source in defense.sources]
        groups.append(Bars("control: unattacked, random precision", control))
    places = [formats.shorter(formats.bitmap_name(bitmap), 18) for bitmap in robustness.bitmaps]
    shares = "; ".join(
        f"{place}: " + ", ".join(f"{group.name} {_shown(group.values[index])}" for group in groups)
        for index, place in enumerate(places)
    )
    words = wording(attacked)
    svg = grouped_bars(
        places,
        groups,
        f"{formats.capital(words.broken)} (%)",
        name,
        f"Share of {words.noun}s {words.broken}, by where they were attacked. {shares}.",
    )
    return Plot(
        svg,
        f"How often {words.noun}s are {words.broken}, by the precision they were attacked at, with 95 % Wilson "
        "intervals; lower is more robust",
        "success",
    )


def _accuracy_plot(attacked: Attacked, name: str) -> Plot:
    robustness = attacked.robustness
    named = dict(zip(robustness.bitmaps, robustness.clean_accuracy, strict=True))
    named |= {defense_name(defense): defense.clean_accuracy for defense in robustness.random_precision}
    places = [formats.shorter(formats.bitmap_name(bitmap), 18) for bitmap in named]
    shares = ", ".join(f"{place} {rate(value)}" for place, value in named.items())
    bars = Bars("clean accuracy", [_interval(value) for value in named.values()])
    svg = grouped_bars(places, [bars], "Clean accuracy (%)", name, f"Accuracy on unattacked texts: {shares}.", 2.6)
    return Plot(svg, "Accuracy on the unattacked texts, with 95 % Wilson intervals", "clean")


def _shown(interval: Interval | None) -> str:
    return (
        formats.DASH
        if interval is None
        else formats.share_with_interval(interval.estimate, interval.low, interval.high)
    )


def _fixed_table(attacked: Attacked) -> Table:
    robustness, words = attacked.robustness, wording(attacked)
    rows = []
    for index, bitmap in enumerate(robustness.bitmaps):
        results = attacked.results.get(bitmap, ())
        summary = summarize(results)
        changed, queries = summary.perturbation, summary.queries
        # a language model is right about no text, but about a share of its next tokens
        before, after = (
            [Cell(formats.share(mean_measure(results, name))) for name in ("accuracy_before", "accuracy_after")]
            if words.next_tokens
            else [cell(robustness.clean_accuracy[index]), cell(robustness.transfer_unconditional[index][index])]
        )
        rows.append(
            [
                Cell(formats.bitmap_heading(bitmap), bitmap),
                before,
                cell(robustness.attack_success[index]),
                after,
                *((Cell(formats.share(changed)),) if words.rewords else ()),
                Cell(formats.DASH if queries is None else formats.count(queries)),
            ]
        )
    changed_head = ("Words changed",) if words.rewords else ()
    changed_note = " Words changed: mean over successful attacks." if words.rewords else ""
    queries_head = f"Queries per {words.noun}"
    return Table(
        f"Fixed precision, on {formats.count_of(robustness.examples, words.noun)}",
        ["Attacked at", words.columns[0], "Attack success", words.columns[1], *changed_head, queries_head],
        rows,
        f"{words.note}{changed_note} In brackets: 95 % Wilson intervals.{substitutes_named(attacked)}",
    )


def _random_table(attacked: Attacked, defense: RandomPrecisionReport) -> Table:
    # transfer predicts random precision only where one width is drawn for the whole model
    foretold = any(source.predicted is not None for source in defense.sources)
    rows = [
        [
            Cell(formats.bitmap_heading(source.bitmap), source.bitmap),
            cell(source.success_mean),
            *((Cell(formats.share(source.predicted)),) if foretold else ()),
            cell(source.control_mean),
            cell(source.success_any),
            cell(source.control_any),
            cell(source.recovered),
            cell(source.accuracy),
        ]
        for source in defense.sources
    ]
    return Table(
        f"Random precision: {drawn_from(defense)}",
        ["Attacked at", "Success, mean draw", *(("Predicted by transfer",) if foretold else ()), "Control, mean draw",
         "Success, any draw", "Control, any draw", "Texts recovered", "Accuracy under attack"],
        rows,
        f"{wording(attacked).control} “Any draw” is an attacker who may retry. Several draws of a text are not "
        "independent, so intervals count texts, not draws.",
    )  # fmt: skip


def transfer_plot(attacked: Attacked, name: str) -> list[Plot]:
    """Draw the transfer matrix; of one precision there is no transfer."""
    robustness = attacked.robustness
    names = [formats.shorter(formats.bitmap_name(bitmap), 18) for bitmap in robustness.bitmaps]
    shares = [[math.nan if one.estimate is None else 100 * one.estimate for one in row] for row in robustness.transfer]
    if len(names) < 2 or not any(math.isfinite(share) for row in shares for share in row):
        return []
    texts = [[formats.share(one.estimate) for one in row] for row in robustness.transfer]
    words = wording(attacked)
    alt = "; ".join(
        f"attacked at {source}: " + ", ".join(f"{text} at {target}" for target, text in zip(names, row, strict=True))
        for source, row in zip(names, texts, strict=True)
    )
    label = f"{formats.capital(words.broken)} (%)"
    svg = heat_map([Panel("", names, names, shares, texts)], label, name, f"Transfer, {alt}.", most=100.0)
    caption = f"Transfer: {words.noun}s attacked at the row's precision, read at the column's; the table has intervals"
    return [Plot(svg, caption, "transfer")]


def _transfer_table(attacked: Attacked) -> Table:
    robustness = attacked.robustness
    rows = [
        [Cell(formats.bitmap_heading(bitmap), bitmap), *(cell(value, heat=True) for value in row)]
        for bitmap, row in zip(robustness.bitmaps, robustness.transfer, strict=True)
    ]
    return Table(
        f"Transfer: {wording(attacked).noun}s attacked at the row's precision, read at the column's",
        ["Attacked at", *(f"read at {formats.bitmap_heading(bitmap)}" for bitmap in robustness.bitmaps)],
        rows,
        f"Share {wording(attacked).broken}, of the {wording(attacked).noun}s {wording(attacked).transfer}; 95 % Wilson "
        "intervals. The stronger the shade, the more succeed.",
        look="heat",
    )


def _examples(attacked: Attacked) -> list[Block]:
    """Show some successful attacks: those with the fewest words changed, or prompts with what they elicit."""
    if not wording(attacked).rewords:
        return _elicited(attacked)
    won = [r for results in attacked.results.values() for r in results if r.status is AttackStatus.SUCCESS]
    won.sort(key=_visible_change)
    pairs = [
        Pair(
            f"Attacked at {formats.bitmap_name(r.bitmap)}, {r.words_changed} of {r.words_total} words changed",
            r.original_text,
            r.adversarial_text,
        )
        for r in _different(won)
    ]
    return [Examples("Successful attacks that change the fewest words", pairs)] if pairs else []


def _elicited(attacked: Attacked) -> list[Block]:
    won = [r for results in attacked.results.values() for r in results if r.status is AttackStatus.SUCCESS]
    pairs = [
        Pair(
            f"Searched at {formats.bitmap_name(r.bitmap)}, to be followed by “{r.target.strip()}”",
            r.original_text,
            r.adversarial_text,
        )
        for r in _different(won)
    ]
    return [Examples("Random prompts, and what the search made of them", pairs)] if pairs else []


def _visible_change(result: AttackResult) -> tuple[float, int]:
    return result.words_changed / max(1, result.words_total), result.example_id


def _different(results: Sequence[AttackResult]) -> list[AttackResult]:
    by_text = {result.original_text: result for result in reversed(results)}
    return [by_text[text] for text in dict.fromkeys(result.original_text for result in results)][:EXAMPLES]
