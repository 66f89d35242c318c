"""What the summary says of a search: how few bits are enough, and whether mixing widths gained anything."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.report.blocks import Statement
from orchestrate.report.compare import paired, references
from orchestrate.report.findings import Searched
from orchestrate.report.formats import bitmap_name, count_of, in_prose
from orchestrate.report.read import Record, Step
from orchestrate.report.search_blocks import front_order, full_precision, is_uniform
from orchestrate.report.wording import bits_of, cheapest, told


def search_statements(record: Record, step: Step) -> list[Statement]:
    """The front in a few sentences, and what limits them."""
    searched = step.searched
    if searched is None:
        return []
    points = searched.result.points
    order = front_order(searched)
    tried = f"{searched.result.strategy} evaluated {count_of(len(points), 'bitmap')}"
    if not order:
        return [Statement(f"{tried}; none has a finite score, so there is no front.", caution=True)]
    found = [Statement(f"{tried}; {len(order)} {'is' if len(order) == 1 else 'are'} on the front.")]
    front = [points[index] for index in order]
    sentences, chosen = cheapest(front, [searched.evaluations[index] for index in order], searched.quality.name)
    found += sentences
    if chosen is not None:
        found += _against_full(record, step, searched, order[chosen])
    found += _against_uniform(searched, order)
    warning = (
        f"The front was chosen and scored on the same {count_of(points[0].examples, 'example')}, so its estimates lean "
        "to the good side; score a chosen bitmap on other examples before relying on a small gain."
    )
    return [*found, Statement(warning, caution=True)]


def _against_full(record: Record, step: Step, searched: Searched, index: int) -> list[Statement]:
    """One bitmap against full precision, as training scored it on the same examples."""
    metric = searched.quality.name
    full = full_precision(references(record, step))
    gap = paired(searched.evaluations[index], full, metric)
    if full is None or gap is None:
        return []
    level = in_prose(full.interval(metric), metric)
    needs = bits_of(searched.result.points[index])
    return [
        Statement(f"Against full precision ({level} on these examples), the bitmap at {needs} is {told(gap, metric)}.")
    ]


def _against_uniform(searched: Searched, order: Sequence[int]) -> list[Statement]:
    """Whether mixing widths beats each uniform bitmap at no more cost."""
    points, metric, found = searched.result.points, searched.quality.name, []
    sign = 1 if searched.quality.direction == "max" else -1
    for index, uniform in enumerate(points):
        most = uniform.value(searched.price)
        rivals = [i for i in order if i != index and points[i].value(searched.price) <= most]
        if not is_uniform(uniform.bitmap) or not rivals:
            continue
        rival = max(rivals, key=lambda i: sign * points[i].metrics[metric].estimate)
        gap = paired(searched.evaluations[rival], searched.evaluations[index], metric)
        if gap is not None:
            name = bitmap_name(str(uniform.bitmap))
            text = f"Against uniform {name}, the best other bitmap that costs no more is {told(gap, metric)}."
            found.append(Statement(text))
    return found
