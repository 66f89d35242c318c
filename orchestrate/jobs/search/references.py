"""The scores of a training step with which a search is compared: of the same model, on the same examples."""

from __future__ import annotations

from orchestrate.document.record import Record, Step
from orchestrate.jobs.search.findings import searched_of
from orchestrate.jobs.shared.compare import first_examples, trained_by
from orchestrate.jobs.shared.findings import scored_of
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation


def references(record: Record, step: Step) -> dict[Bitmap, Evaluation]:
    """Return what the training step found for a search's model, cut to the examples that the search took.

    Both take the first ``limit`` examples of the split, so a training step with at least as many has scored all of the
    search's.  The result is empty where it has fewer, or is not part of the record.
    """
    trained, searched = trained_by(record, step), searched_of(step)
    scored = scored_of(trained) if trained else None
    if scored is None or searched is None:
        return {}
    count = searched.examples
    pairs = zip(scored.points, scored.evaluations, strict=True)
    return {point.bitmap: first_examples(e, count) for point, e in pairs if e.examples >= count}
