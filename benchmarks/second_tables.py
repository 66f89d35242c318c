"""Tables of the second model: how it was made, what searches find on it, and which of its sites bear rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from md_tables import rows, three

Found = Mapping[str, Any]
NAMES = {"guided by kl": "`guided`", "guided": "`guided`", "knapsack": "`knapsack`"}
SCORES = {
    "fisher": "Fisher", "taylor": "first order", "relative_mse": "relative output error", "mse": "output error",
}  # fmt: skip
WIDTHS = ("4", "3")


def second_origin(made: Found) -> str:
    """What the second model is."""
    recipe, texts = made["recipe"], made["held_out"]
    body = [
        [name, f"{text['perplexity']:.1f}", f"{text['loss']:.3f}", f"{text['bits_per_byte']:.3f}"]
        for name, text in texts.items()
    ]
    about = (
        f"{recipe['blocks']} blocks of width {recipe['width']}, {recipe['heads']} heads, context {recipe['context']}, "
        f"vocabulary {recipe['vocabulary']:,}, {made['parameters'] / 1e6:.1f} million parameters; {made['steps']:,} "
        f"steps of {recipe['batch']} windows, {made['tokens_seen'] / 1e6:.2f} million tokens, in {made['seconds']:,} "
        f"seconds on {made['threads']} thread of an {made['cpu']}; commit `{made['commit'][:7]}`."
    )
    return f"{about}\n\n{rows(['held-out text', 'perplexity', 'nats per token', 'bits per byte'], body)}"


def second_search(found: Found, first: Found) -> str:
    """Perplexities by budget, ratios to uniform by strategy, and the first model's ratios beside them."""
    full, *scored = found["rows"]
    strategies = list(dict.fromkeys(row["strategy"] for row in scored))
    header = ["average bits", "uniform", *(f"{NAMES.get(name, f'`{name}`')}, ratio" for name in strategies)]
    others = {row["budget"]: row for row in first["rows"][1:] if row["strategy"] == "guided"}
    body = []
    for budget in dict.fromkeys(row["budget"] for row in scored):
        by_name = {row["strategy"]: row for row in scored if row["budget"] == budget}
        uniform = next(iter(by_name.values()))["uniform"]
        ratios = [three(by_name[name]["ratio"], 3) if name in by_name else "" for name in strategies]
        body.append([f"{budget:.1f}", three(uniform, 1), *ratios, three(others[budget]["ratio"], 3)])
    about = (
        f"{found['sites']} sites; unquantized: {three(full['perplexity'], 1)}; chosen on "
        f"{found['choose_on_positions']:,} positions and judged on {found['judge_on_positions']:,}."
    )
    return f"{about}\n\n{rows([*header, '`guided` on SmolLM2-135M, ratio'], body)}"


def second_divergence(found: Found) -> str:
    """KL to full precision by budget."""
    known = found["beside"]["kl_on_the_text_to_choose_on"]
    body = []
    for name in (each for each in known if each.startswith("knapsack")):
        budget = float(name.split()[1])
        uniform, mine = known[f"uniform {int(budget)}"], known[name]
        body.append([f"{budget:.1f}", f"{uniform:.5f} ({int(budget)} bits)", f"{mine:.5f}", f"{mine / uniform:.2f}"])
    return rows(["average bits", "uniform, KL", "`knapsack`, KL", "ratio of the two"], body)


def second_damages(found: Found, first: Found) -> str:
    """Shares of the damage at 4 bits by kind of layer, in both models, and how scores agree in the second."""
    parts = [_kinds(found), _kinds(first), _places({"the second model": found, "SmolLM2-135M": first})]
    agreement = found["rank_correlation_with_kl"]
    ranks = [[SCORES[name], *(f"{agreement[name][bits]:.2f}" for bits in WIDTHS)] for name in agreement]
    parts.append(rows(["rank correlation with KL in the second model", "at 4 bits", "at 3 bits"], ranks))
    return "\n\n".join(parts)


def _kinds(found: Found) -> str:
    """Shares of the damage, with the share per weight in parentheses."""
    scores = [name for name in ("kl", "fisher") if name in found["scores"]]
    header = [f"{_model(found)}, share of the damage at 4 bits", *(_score(name) for name in scores)]
    tables = [found["scores"][name]["4"]["by_kind"] for name in scores]
    body = [[f"`{kind}`", *(_share(table[kind]) for table in tables)] for kind in tables[0]]
    thirds = found.get("thirds_of_c_attn", {}).get("4", {})
    if thirds:
        whole = tables[0]["attn.c_attn"]
        for name, part in thirds.items():
            row = {"share": part * whole["share"], "per_weight": 3 * part * whole["per_weight"]}
            body.append([f"of `attn.c_attn`: its {name}", _share(row), *("" for _ in scores[1:])])
    return rows(header, body)


def _places(models: Mapping[str, Found]) -> str:
    """Where in the depth the damage lies, and how much of it the largest sites have."""
    body = []
    for name, found in models.items():
        for score in [each for each in ("kl", "fisher") if each in found["scores"]]:
            at = found["scores"][score]["4"]
            blocks, largest = list(at["by_block"].values()), at["largest"]
            third = len(blocks) / 3
            depth = [blocks[round(index * third) : round((index + 1) * third)] for index in range(3)]
            top, share = next(iter(largest.items()))
            body.append([
                name, _score(score), *(f"{100 * sum(part):.0f} %" for part in depth),
                f"`{top}` {100 * share:.0f} %, {share * at['sites']:.1f} times the mean",
                f"{100 * sum(list(largest.values())[:3]):.0f} %",
            ])  # fmt: skip
    thirds = [f"{name} third of the blocks" for name in ("first", "middle", "last")]
    return rows(["damage at 4 bits", "by", *thirds, "the largest site", "the largest three"], body)


def _share(row: Found) -> str:
    return f"{100 * row['share']:.0f} % ({row['per_weight']:.2f})"


def _score(name: str) -> str:
    return "KL, one site at a time" if name == "kl" else "Fisher"


def _model(found: Found) -> str:
    return "SmolLM2-135M" if "SmolLM2" in found["model"] else "second model"
