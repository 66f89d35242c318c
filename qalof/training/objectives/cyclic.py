"""CPT: one width a step by a schedule, a pure function of the step's number, so that all workers agree.

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
    """One width a step, up and down in cycles."""

    def __init__(
        self,
        sites: Sequence[Site],
        schedule: CyclicPrecision,
        gradient_bits: int | None = None,
        layer_bits: Callable[[int], LayerBits] = LayerBits.of,
    ) -> None:
        """``layer_bits``: what every site runs at in a step of a width; by default that width throughout."""
        if gradient_bits is not None:
            check_width(gradient_bits, "gradient_bits")
        self.gradient_bits = gradient_bits
        self.hooked = gradient_bits is not None
        names = [site.name for site in sites]
        self.schedule = schedule
        self._uniform = {bits: Bitmap.uniform(names, layer_bits(bits)) for bits in schedule.widths}

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """The one of this step."""
        return [self._uniform[self.schedule.bits(step)]]

    def labels(self, step: int) -> Sequence[str]:
        """Its width."""
        return [str(bitmap) for bitmap in self.bitmaps(step)]

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """See :class:`~qalof.training.objectives.base.Objective`."""
        (bitmap,) = self.bitmaps(step)
        loss = loss_sum(*rows(bitmap)) / units
        loss.backward()
        return Losses.of([loss], [loss])
