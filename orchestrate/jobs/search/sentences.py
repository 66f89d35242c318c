"""What the summary says of a search: how few bits are enough, and whether mixing widths gained anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrate.document.blocks import Statement
from orchestrate.document.formats import bitmap_name, count_of, in_prose, listed
from orchestrate.document.record import Record, Step
from orchestrate.jobs.search.findings import Searched, searched_of
from orchestrate.jobs.search.references import references
from orchestrate.jobs.search.view import front_order, full_precision, is_uniform, outside
from orchestrate.jobs.shared.compare import is_shown, paired
from orchestrate.jobs.shared.wording import cheapest, shown_or_not, with_size
from qalof.bitmap_names import short_name


def search_statements(record: Record, step: Step) -> list[Statement]:
    """Describe the front in a few sentences, and say what limits them."""
    searched = searched_of(step)
    if searched is None:
        return []
    points = searched.result.points
    order = front_order(searched)
    tried = f"{searched.result.strategy} evaluated {count_of(len(points), 'bitmap')}"
    failed = _failed(searched)
    if not order:
        return [Statement(f"{tried}; none has a finite score, so there is no front.", caution=True), *failed]
    front = [points[index] for index in order]
    even = sum(is_uniform(point.bitmap) for point in front)
    which = f", {even} of them uniform" if even else ""
    found = [Statement(f"{tried}; {len(order)} {'is' if len(order) == 1 else 'are'} on the front{which}.")]
    sentences, chosen = cheapest(front, [searched.evaluations[index] for index in order], searched.quality.name)
    found += sentences
    if chosen is not None:
        found += _against_full(record, step, searched, order[chosen])
    found += _against_uniform(searched) + _untried(record, step, searched, order)
    if searched.judgement is not None:
        return [Statement(searched.judgement["answer"]), *found, *failed]
    warning = (
        f"The front was chosen and scored on the same {count_of(searched.examples, 'example')}, so its estimates lean "
        "to the good side; score a chosen bitmap on other examples before relying on a small gain."
    )
    return [*found, *failed, Statement(warning, caution=True)]


def _failed(searched: Searched) -> list[Statement]:
    """Say how many bitmaps could not be evaluated, and why the first one could not."""
    failures = searched.result.failures
    if not failures:
        return []
    first = f"the first, {short_name(failures[0].bitmap)}, because of: {failures[0].failure}"
    return [Statement(f"{count_of(len(failures), 'bitmap')} could not be evaluated, {first}.", caution=True)]


def _against_full(record: Record, step: Step, searched: Searched, index: int) -> list[Statement]:
    """Compare one bitmap with full precision, as training scored it on the same examples."""
    metric = searched.quality.name
    full = full_precision(references(record, step))
    gap = paired(searched.evaluations[index], full, metric)
    if full is None or gap is None:
        return []
    level = in_prose(full.interval(metric), metric)
    needs = with_size(searched.result.points[index])
    return [Statement(f"Against full precision ({level} on these examples), {needs} is {shown_or_not(gap, metric)}.")]


def _against_uniform(searched: Searched) -> list[Statement]:
    """Say whether mixing widths beats each uniform bitmap at no more cost; the rivals need not be on the front."""
    points, metric, found = searched.result.points, searched.quality.name, []
    sign = searched.quality.sign
    for index, uniform in enumerate(points):
        most = uniform.value(searched.price)
        rivals = [
            i
            for i, point in enumerate(points)
            if not is_uniform(point.bitmap)
            and point.value(searched.price) <= most
            and math.isfinite(point.metrics[metric].estimate)
        ]
        if not is_uniform(uniform.bitmap) or not rivals:
            continue
        rival = max(rivals, key=lambda i: sign * points[i].metrics[metric].estimate)
        gap = paired(searched.evaluations[rival], searched.evaluations[index], metric)
        if gap is not None:
            name = bitmap_name(str(uniform.bitmap))
            text = f"Against uniform {name}, the best mixed bitmap that costs no more is {shown_or_not(gap, metric)}."
            found.append(Statement(text))
    return found


def _untried(record: Record, step: Step, searched: Searched, order: Sequence[int]) -> list[Statement]:
    """Name uniform bitmaps outside the search that are shown to beat some of its front at no more cost."""
    points, metric, found = searched.result.points, searched.quality.name, []
    sign = searched.quality.sign
    for bitmap, (price, level, evaluation) in outside(record, step, searched).items():
        beaten = []
        for number, index in enumerate(order, start=1):
            gap = paired(searched.evaluations[index], evaluation, metric)
            if gap is not None and points[index].value(searched.price) >= price and is_shown(gap):
                beaten += [f"№ {number}"] if sign * gap.estimate < 0 else []
        if beaten:
            what = f"Uniform {bitmap_name(str(bitmap))} ({in_prose(level, metric)} as training scored it)"
            text = f"{what} was not tried here; it costs no more than {listed(beaten)} of the front and is shown to be"
            found.append(Statement(f"{text} better.", caution=True))
    return found
