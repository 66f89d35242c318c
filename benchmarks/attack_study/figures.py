"""The figures of a study, from its records alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from md_tables import rows, three

from attack_study.scales import DRAWN, SOURCES, Group
from attack_study.work import ADAPTIVE, Records, targets_of
from qalof.attacks.meaning import success_by_similarity
from qalof.attacks.rates import Rate
from qalof.attacks.result import summarize
from qalof.attacks.robustness.attackers import attackers_of, comparisons_of, misread
from qalof.attacks.robustness.transfer import DrawTable, Population, PredictionTable, transfer_matrix


def figures_of(group: Group, records: Records) -> dict[str, Any] | None:
    """Return what a group's finished texts say; None where none is finished."""
    done = sorted(example for name, example in records.judged if name == group.name)
    if not done:
        return None
    rows = [records.judged[group.name, example] for example in done]
    results = {t: [records.attacks[group.name, t, e] for e in done] for t in targets_of(group.victim)}
    sources = SOURCES[group.victim]
    table = PredictionTable.of_rows(
        sources, [result.label for result in results[sources[0]]],
        [row["clean"] for row in rows], [row["fixed"] for row in rows],
    )  # fmt: skip
    found: dict[str, Any] = {
        "texts": len(done), "asked": group.texts,
        "skipped": {e: why for (name, e), why in sorted(records.skipped.items()) if name == group.name},
        "substitutes": dict(results[sources[0]][0].substitutes),
        "drawn_from": DRAWN[group.victim],
        "fixed": {source: _at(results[source], table, i) for i, source in enumerate(sources)},
        "adaptive": {target: _summary(results[target]) for target in ADAPTIVE},
        "transfer": _matrix(table, Population.RIGHT_AT_BOTH),
        "transfer_of_successes": _matrix(table, Population.BROKEN_AT_SOURCE),
        "random_precision": {},
    }  # fmt: skip
    for target, grain in ADAPTIVE.items():
        drawn = DrawTable.of_rows(*([row["drawn"][grain][part] for row in rows] for part in ("clean", "texts")))
        own = list(results).index(target)
        used = DrawTable(drawn.clean, drawn.adversarial[[*range(len(sources)), own]])
        attackers = attackers_of([results[source] for source in sources], results[target], used)
        found["random_precision"][grain] = {
            "draws": drawn.clean.shape[1],
            "clean_accuracy": asdict(Rate.of(drawn.clean == table.labels[:, None])),
            "attackers": [asdict(attacker) for attacker in attackers],
            "comparisons": [each.to_json() for each in comparisons_of(misread(table, used))],
        }
    return found


def _summary(results: Any) -> dict[str, Any]:
    summary = summarize(results)
    success = {f"{least:g}": each.to_json() for least, each in success_by_similarity(results).items()}
    return {
        "success": summary.success_rate.to_json(), "perturbation": summary.perturbation, "queries": summary.queries,
        "success_by_similarity": success,
    }  # fmt: skip


def _at(results: Any, table: PredictionTable, index: int) -> dict[str, Any]:
    return {
        "clean_accuracy": asdict(Rate.of(table.clean_right[:, index])),
        "adversarial_accuracy": asdict(Rate.of(~table.adversarial_wrong[index, :, index])),
        **_summary(results),
    }


def _matrix(table: PredictionTable, among: Population) -> list[list[dict[str, Any]]]:
    return [[asdict(rate) for rate in row] for row in transfer_matrix(table, among)]


def overview_of(result: dict[str, Any]) -> str:
    """One row per group, as markdown: the share of texts that are misread, at each fixed precision and under each
    defense, by the attacker who does not know of it and by those who do.
    """
    header = ["attack, data, victim", "texts", "fixed at its own precision, read again"]
    header += [f"{grain}: {who}" for grain in ("request", "layer") for who in ("plain", "adaptive", "retrying")]
    body = []
    for name, group in result["groups"].items():
        fixed = [f"{source.split('a')[0]}: {_rate(group['transfer'][i][i])}" for i, source in enumerate(group["fixed"])]
        row = [name, str(group["texts"]), "; ".join(fixed)]
        for block in group["random_precision"].values():
            success = {each["attacker"]: each["success"] for each in block["attackers"]}
            row += [_rate(success[who]) for who in ("non_adaptive", "adaptive", "retrying")]
        body.append(row)
    return rows(header, body)


def table_of(result: dict[str, Any]) -> str:
    """The four attackers of every group, as markdown.

    An attack at a fixed precision has two rows: what the attacker saw, and what the same precision says when the text
    is read again in another batch. Where activations are rounded the two differ.
    """
    header = [
        "attack, data, victim", "texts", "defense", "clean accuracy", "attacker", "success", "control",
        "at similarity 0.8", "queries",
    ]  # fmt: skip
    body = []
    for name, group in result["groups"].items():
        start = [name, str(group["texts"])]
        for index, (source, row) in enumerate(group["fixed"].items()):
            clean, again = _rate(row["clean_accuracy"]), _rate(group["transfer"][index][index])
            similar = _three(row["success_by_similarity"].get("0.8"))
            fixed = [*start, f"fixed {source}", clean]
            body.append([*fixed, "as found", _three(row["success"]), "", similar, _number(row["queries"])])
            body.append([*fixed, "read again", again, "", "", ""])
        for grain, block in group["random_precision"].items():
            for row in block["attackers"]:
                body.append(
                    [
                        *start, f"random by {grain}", _rate(block["clean_accuracy"]),
                        row["attacker"].replace("_", " "), _rate(row["success"]), _rate(row["control"]),
                        _rate(row["similar"].get("0.8")), _number(row["queries"]),
                    ]
                )  # fmt: skip
    return rows(header, body)


def tests_of(result: dict[str, Any]) -> str:
    """The paired tests between defenses and attackers, as markdown, corrected per group and granularity (Holm)."""
    header = ["attack, data, victim", "random by", "attacker", "minus", "difference in points", "p", "p, corrected"]
    body = []
    for name, group in result["groups"].items():
        for grain, block in group["random_precision"].items():
            for row in block["comparisons"]:
                difference = three([100 * value for value in row["difference"]], 1, signed=True)
                named = [row[side].replace("_", " ") for side in ("first", "second")]
                body.append([name, grain, *named, difference, f"{row['p']:.4f}", f"{row['adjusted_p']:.3f}"])
    return rows(header, body)


def transfers_of(result: dict[str, Any]) -> str:
    """The transfer matrices, as markdown: attacked at a row's precision, read at a column's."""
    parts = []
    for name, group in result["groups"].items():
        sources = list(group["fixed"])
        body = [[source, *map(_rate, line)] for source, line in zip(sources, group["transfer"], strict=True)]
        parts.append(rows([f"{name}: found at", *(f"read at {source}" for source in sources)], body))
    return "\n\n".join(parts)


def _rate(rate: dict[str, Any] | None) -> str:
    return _three(None if rate is None or rate["estimate"] is None else [rate[k] for k in ("estimate", "low", "high")])


def _three(values: Any) -> str:
    if not values or values[0] is None:
        return "–"
    return f"{100 * values[0]:.0f} % [{100 * values[1]:.0f}, {100 * values[2]:.0f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
