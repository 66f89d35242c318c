"""CPT runs one width per step by a schedule, a pure function of the step number, so all workers agree.

The source is arXiv 2101.09868; see docs/methods/cpt.md.

Weights and activations cycle; ``gradient_bits`` is the constant width of the gradients with respect to sites'
outputs, 8 in the paper, None (off) by default as for its fine-tuning (:mod:`qalof.training.gradient_rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qalof.bitmap import Bitmap, check_width
from qalof.layer_bits import LayerBits
from qalof.site import Site
from qalof.tasks.base import loss_sum
from qalof.training.objectives.base import Losses, Rows
from qalof.training.objectives.precision_schedule import CyclicPrecision


class CyclicPrecisionTraining:
    """One width runs per step, up and down in cycles."""

    def __init__(
        self,
        sites: Sequence[Site],
        schedule: CyclicPrecision,
        gradient_bits: int | None = None,
        layer_bits: Callable[[int], LayerBits] = LayerBits.of,
    ) -> None:
        """``layer_bits`` maps a width to the bits of every site; by default all of them have that width."""
        if gradient_bits is not None:
            check_width(gradient_bits, "gradient_bits")
        self.gradient_bits = gradient_bits
        self.hooked = gradient_bits is not None
        names = [site.name for site in sites]
        self.schedule = schedule
        self._uniform = {bits: Bitmap.uniform(names, layer_bits(bits)) for bits in schedule.widths}

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """Return the only bitmap of this step."""
        return [self._uniform[self.schedule.bits(step)]]

    def labels(self, step: int) -> Sequence[str]:
        """Return the text of its width."""
        return [str(bitmap) for bitmap in self.bitmaps(step)]

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """See :class:`~qalof.training.objectives.base.Objective`."""
        (bitmap,) = self.bitmaps(step)
        loss = loss_sum(*rows(bitmap)) / units
        loss.backward()
        return Losses.of([loss], [loss])
