"""Tables of the study of a real model about schemes and layers: before training, of searches, and of speed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from md_tables import rows, three
from study_tables import METRICS, NAMES, PLUS

Found = Mapping[str, Any]


def searched(found: Found) -> str:
    """Bitmaps that were found before and after training."""
    search = found["search"]
    if search is None:
        return "Not run."
    order = ("after", "before", "uniform", "striped", "hybrid")
    body = [
        [name, f"{search['average_bits'][name]:.2f}", *(_asked(row, metric) for metric in PLUS)]
        for name, row in sorted(search["rows"].items(), key=lambda pair: order.index(re.split("[, ]", pair[0])[0]))
    ]
    pairs = [
        [pair["of"], pair["over"], *(_asked(pair, metric, signed=True) for metric in PLUS)] for pair in search["pairs"]
    ]
    named = [METRICS[metric][0] for metric in PLUS]
    searches = [
        f"{when} training with {one['evaluations']} bitmaps on {one['questions']} questions"
        for when, one in search["searches"].items()
    ]
    about = (
        f"In the adapters of {NAMES[search['in']]}, where nothing else is said. Found {' and '.join(searches)} by the "
        "strategy `guided`. The number of questions is in parentheses; † scored on another machine than the rest, ‡ "
        "the two sides were."
    )
    differ = [f"{name}: {three(row['interval'], 4, signed=True)}" for name, row in search["machines_differ"].items()]
    if differ:
        about += f" Equal bitmaps and questions, in other batches or on other machines, differ: {'; '.join(differ)}."
    return f"{about}\n\n{rows(['bitmap', 'average bits', *named], body)}\n\n{rows(['bitmap', 'minus', *named], pairs)}"


def _asked(row: Found, metric: str, signed: bool = False) -> str:
    """A metric, and on how many questions."""
    if metric not in row:
        return "not scored"
    one = row[metric]
    told = f"{three(one['interval'], METRICS[metric][1], signed=signed)} ({one['questions']})"
    if "machines" in one:
        return told + (" ‡" if len(set(one["machines"])) > 1 else "")
    return told + (" †" if one["machine"] is None else "")


def baselines(found: Found) -> str:
    """Schemes and bitmaps of the model as it is."""
    tasks = ("boolq", "hellaswag", "winogrande")
    body = [
        [scheme, f"`{spec}`", f"{row['weight_bytes'] / 2**20:.1f}"]
        + [_scored(row, name, digits) for name, digits in (("perplexity", 2), *((task, 1) for task in tasks))]
        for scheme, specs in found["baselines"].items()
        for spec, row in specs.items()
    ]
    if not body:
        return "Not run."
    table = rows(["scheme", "bitmap", "MiB", "perplexity", "BoolQ", "HellaSwag", "WinoGrande"], body)
    others = {machine for specs in found["baselines"].values() for row in specs.values() for machine in _others(row)}
    return f"{table}\n\n† on {' and '.join(sorted(others))}, in fp32" if others else table


def scheme_pairs(found: Found) -> str:
    """Which scheme is better at the same bitmap, and what two machines make of the same bitmap."""
    body = [
        [
            row["of"], row["over"], f"`{row['at']}`", "{:.2f} and {:.2f}".format(*row["perplexities"]),
            three(row["loss"], 3, signed=True) + (" ‡" if len(set(row["machines"])) > 1 else ""),
        ]
        for row in found["scheme_pairs"]
    ]  # fmt: skip
    table = rows(["scheme", "minus", "bitmap", "perplexities", "loss"], body)
    twice = [
        [
            f"{row['scheme']}, `{row['at']}`", "{:.3f} and {:.3f}".format(*row["perplexities"]),
            three(row["loss"], 4, signed=True),
        ]
        for row in found["machines_differ"]
    ]  # fmt: skip
    crossed = any(len(set(row["machines"])) > 1 for row in found["scheme_pairs"])
    told = "‡ the two sides come from two machines, of which one multiplies in fp32 and the other in TF32"
    if twice:
        differ = rows(["scored on the CPU, minus on the GPU", "perplexities", "loss"], twice)
        return f"{table}\n\n{told}; on the same bitmap they differ by:\n\n{differ}"
    return f"{table}\n\n{told}" if crossed else table


def _scored(row: Found, name: str, digits: int) -> str:
    """A score of the model as it is, marked where another machine scored it than the one without a mark."""
    if name not in row:
        return "not scored"
    task = "text" if name == "perplexity" else name
    return three(row[name], digits) + (" †" if task in row.get("machines", {}) else "")


def _others(row: Found) -> list[str]:
    return list(row.get("machines", {}).values())


def sensitivity(found: Found) -> str:
    """Where rounding hurts the model as it is."""
    told = found["sensitivity"]
    if told is None:
        return "Not run."
    about = f"Nats per token, {told['windows']} windows with {told['tokens']} tokens{_agreement(told, ('4', '3'))}."
    return f"{about}\n\n{_damages(told)}"


def sensitivity_trained(found: Found) -> str:
    """Where rounding hurts a trained model, by the table that the search began with."""
    told = found["sensitivity_trained"]
    return "Not run." if told is None else _damages(told)


def _damages(told: Found) -> str:
    """Damages by part of the network, and what of the references' claims holds."""
    widths = [bits for bits in ("6", "5", "4", "3") if bits in told]
    kinds = list(told[widths[0]]["by_kind"])
    shares = [
        [bits, *_thirds(told[bits]["by_block"]), *(f"{told[bits]['by_kind'][kind]:.2g}" for kind in kinds)]
        for bits in widths
    ]
    header = ["bits", *(f"{name} third of the blocks" for name in ("first", "middle", "last"))]
    header += [f"mean `{kind}`" for kind in kinds]
    names = told[widths[0]]["claims"]
    claims = [[name, *(three(told[bits]["claims"][name], 2) for bits in widths)] for name in names]
    most = [
        [bits, ", ".join(f"`{site}` {value:.2g}" for site, value in list(told[bits]["most"].items())[:5])]
        for bits in widths
    ]
    return "\n\n".join([
        rows(header, shares), rows(["", *(f"at {bits} bits" for bits in widths)], claims),
        rows(["bits", "most sensitive sites, and their damage in nats"], most),
    ])  # fmt: skip


def _thirds(by_block: Found) -> list[str]:
    """Shares of the damage."""
    damages = list(by_block.values())
    third = len(damages) // 3
    parts = damages[:third], damages[third:-third], damages[-third:]
    return [f"{100 * sum(part) / sum(damages):.0f} %" for part in parts]


def _agreement(told: Found, widths: Sequence[str]) -> str:
    """How well the ranks of sites agree between windows."""
    if told["windows"] < 2:
        return ""
    said = " and ".join(f"{told[bits]['windows_agree']:.2f} at {bits} bits" for bits in widths)
    return f", whose ranks of the sites correlate with {said}"


def head(found: Found) -> str:
    """Perplexity with the head alone rounded."""
    body = [
        [name, three(row["perplexity"], 2), three(row["rise"], 3, signed=True)] for name, row in found["head"].items()
    ]
    return rows(["rounded", "perplexity", "rise of the loss"], body) if body else "Not run."


def speed(found: Found) -> str:
    """Tokens per second on one thread of a CPU."""
    told = found["speed"]
    if told is None:
        return "Not run."
    full = told["tokens_per_second"]["not rounded"]
    body = [
        [name]
        + [
            f"{parts[part][0]:.1f} ({parts[part][1]:.1f} to {parts[part][2]:.1f})"
            + ("" if parts is full else f", {parts[part][0] / full[part][0]:.2f} times")
            for part in ("prompt", "generation")
        ]
        for name, parts in told["tokens_per_second"].items()
    ]
    header = ["weights", f"prompt of {told['prompt']} tokens", f"{told['generated']} tokens behind it, one by one"]
    about = (
        f"Tokens per second of processor time, one thread of {told['machine']}: median (least to most) of "
        f"{told['rounds']} rounds."
    )
    return f"{about}\n\n{rows(header, body)}"
