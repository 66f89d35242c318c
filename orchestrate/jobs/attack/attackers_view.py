"""Tables of kept meaning, and of attackers who know that the precision is drawn."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import Cell, Table
from orchestrate.jobs.attack.findings import Attacked
from orchestrate.jobs.attack.shown import cell, drawn_from, rate
from orchestrate.jobs.attack.wording import wording
from qalof.attacks.robustness.report import RandomPrecisionReport


def meaning_table(attacked: Attacked) -> Table:
    """Show success at several least similarities, and what changed its true label."""
    robustness = attacked.robustness
    thresholds = list(next(row for row in robustness.similar if row))
    rows = [
        [
            Cell(formats.bitmap_heading(bitmap), bitmap),
            cell(robustness.attack_success[index]),
            *(cell(row[least]) if row else Cell(formats.DASH) for least in thresholds),
            cell(robustness.label_changed[index]),
        ]
        for index, (bitmap, row) in enumerate(zip(robustness.bitmaps, robustness.similar, strict=True))
    ]
    named = [r.substitutes.get("meaning") for results in attacked.results.values() for r in results]
    judge = next((name for name in named if name is not None), "nobody")
    return Table(
        "Success by how similar the text still is",
        ["Attacked at", "Any similarity", *(f"at least {least}" for least in thresholds), "True label changed"],
        rows,
        "Of the texts that were attacked; a text less similar than the column says counts as no success. Similarity: "
        f"{judge}. Where the true label of any text is known, a success whose true label changed is none, and counts "
        "in the last column alone.",
    )


ATTACKER_NAMES = {
    "non_adaptive": "draws its precision, knows no defense",
    "worst_source": "the worst single precision",
    "adaptive": "knows the defense: attacks the mean",
    "retrying": "knows it, and tries until a draw misreads",
}


def attackers_table(attacked: Attacked, defense: RandomPrecisionReport) -> Table:
    """Show four attackers against one defense, with their control and their price."""
    words = wording(attacked)
    rows = [
        [
            Cell(ATTACKER_NAMES[each.attacker], each.source),
            cell(each.success),
            cell(each.control),
            cell(each.similar["0.8"]) if "0.8" in each.similar else Cell(formats.DASH),
            cell(each.accuracy),
            Cell(formats.DASH if each.queries is None else formats.count(each.queries)),
        ]
        for each in defense.attackers
    ]
    return Table(
        f"Four attackers against random precision: {drawn_from(defense)}",
        ["Attacker", "Success", "Clean control", "Success at similarity 0.8", "Accuracy under attack",
         f"Queries per {words.noun}"],
        rows,
        f"Clean accuracy under the same defense: {rate(defense.clean_accuracy)}. The retrying attacker succeeds on "
        f"{words.noun}s that any draw misreads, and so does that row's control without an attack. Every draw that an "
        "attacker asks for is a query.",
    )  # fmt: skip


def comparisons_table(defense: RandomPrecisionReport) -> Table:
    """Show the paired tests between attackers and fixed precisions."""
    rows = [
        [
            Cell(f"{_way(each.first)} against {_way(each.second)}"),
            Cell(f"{change[0]:+.0f} [{change[1]:+.0f}, {change[2]:+.0f}]"),
            Cell(formats.three_digits(each.p)),
            Cell(formats.three_digits(each.adjusted_p)),
            Cell(each.test),
        ]
        for each in defense.comparisons
        for change in [[100 * value for value in (each.difference.estimate, each.difference.low, each.difference.high)]]
    ]
    return Table(
        "Differences in how often texts are misread, paired by text",
        ["Compared", "Difference (points)", "p", "p, corrected (Holm)", "Test"],
        rows,
        "Over all texts; a text is one cluster, however many draws it has. In brackets: 95 % paired bootstraps. The "
        f"correction is for the {len(rows)} comparisons of this table.",
    )


def _way(name: str) -> str:
    names = {**ATTACKER_NAMES, "clean": "no attack"}
    return names.get(name, f"{name.removeprefix('fixed ')} bits, fixed" if name.startswith("fixed ") else name)
