"""Whether an attacked text still means what it did; a success that does not counts for nothing.

Two judges say so.  A *similarity* (a sentence encoder, or its stand-in) compares the text that was found with the
original by a cosine, whatever the attack's own filter was.  No cosine separates what kept its meaning from what did
not, so success is stated at several thresholds (:data:`THRESHOLDS`), at each of which only successes at least so
similar count.  An *oracle* knows the true label of any text, as the generator of the tiny reviews does. A success whose
new text truly has another label fooled nobody: it becomes :attr:`~qalof.attacks.result.AttackStatus.LABEL_CHANGED`,
apart from success, and tables of transfer and random precision read the original in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from qalof.attacks.result import SIMILARITY, TRUE_LABEL_CHANGED, AttackResult, AttackStatus
from qalof.statistics import Interval, wilson

THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95)
"""The least cosines at which success is stated."""

Oracle = Callable[[str], int | None]
"""The true label of a text; None where it has none."""


class Similarity(Protocol):
    """A judge of how close in meaning two texts are; see :mod:`qalof.attacks.substitutes`."""

    name: str

    def of(self, reference: str, texts: Sequence[str]) -> list[float]:
        """Return the similarity of each text to ``reference``."""
        ...


@dataclass(frozen=True)
class Meaning:
    """The judges of what attacks found."""

    similarity: Similarity | None = None
    """What compares texts by a cosine; None leaves similarity out."""
    oracle: Oracle | None = None
    """What knows true labels; None where nobody does."""

    def judged(self, result: AttackResult) -> AttackResult:
        """Return ``result`` with ``similarity`` and ``true_label_changed`` among its measures, and its status by them.

        A skipped text was not attacked and stays as it is.
        """
        if result.status is AttackStatus.SKIPPED:
            return result
        measures, names, status = dict(result.measures), dict(result.substitutes), result.status
        if self.similarity is not None:
            (measures[SIMILARITY],) = self.similarity.of(result.original_text, [result.adversarial_text])
            names["meaning"] = self.similarity.name
        if self.oracle is not None:
            changed = self.oracle(result.adversarial_text) != result.label
            measures[TRUE_LABEL_CHANGED] = float(changed)
            names["true label"] = "the generator's rule"
            if changed and status is AttackStatus.SUCCESS:
                status = AttackStatus.LABEL_CHANGED
        return replace(result, status=status, measures=measures, substitutes=names)


def success_by_similarity(results: Sequence[AttackResult]) -> Mapping[float, Interval]:
    """Return, by least similarity, the share of attacked texts that an attack broke with a text at least so similar.

    It is empty where no attacked text has a similarity.
    """
    attacked = [result for result in results if result.status is not AttackStatus.SKIPPED]
    if not any(SIMILARITY in result.measures for result in attacked):
        return {}
    won = [r.measures.get(SIMILARITY, -1.0) for r in attacked if r.status is AttackStatus.SUCCESS]
    return {least: wilson(sum(value >= least for value in won), len(attacked)) for least in THRESHOLDS}
