"""Static ranges and initial step sizes are found by running a switchable model on batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.quantizer_state import quantizers_of
from qalof.model.switchable import SwitchableModel


@torch.no_grad()
def calibrate(
    model: SwitchableModel,
    batches: Iterable[Mapping[str, Any]],
    bitmaps: Sequence[Bitmap | str | int] | None = None,
    *,
    reset: bool = True,
) -> int:
    """Find all static ranges and set all unset steps from ``batches``, each run at every bitmap; then freeze them.

    Under ``torch.distributed`` every rank must call this, with as many batches as the others.

    Args:
        model: a switchable model; it returns to its bitmap and mode.
        batches: keyword arguments of the model, such as ``{"input_ids": ..., "attention_mask": ...}``.
        bitmaps: the bitmaps to observe at, since the input of a site depends on what runs before it; None takes each of
            the scheme's widths, without any each adapter's width, and without any the present bitmap.
        reset: whether ranges that were found before are dropped.

    Returns:
        The number of batches.

    Raises:
        BadInputError: There is no batch, or a value is not finite.
    """
    modules = [module for _, module in quantizers_of(model)]
    parsed = [Bitmap.parse(one, model.site_names) for one in bitmaps] if bitmaps else _own_bitmaps(model)
    for module in modules:
        if reset and module.ranges is not None:
            module.ranges.reset()
        module.calibrate(True)
    count = 0
    try:
        with model.at(eval=True):
            for batch in batches:
                count += 1
                for bitmap in parsed:
                    model.set_bitmap(bitmap)
                    model(**batch)
    finally:
        for module in modules:
            module.calibrate(False)
    if not count:
        raise BadInputError("calibration needs at least one batch: got none")
    return count


def _own_bitmaps(model: SwitchableModel) -> list[Bitmap]:
    widths = model.settings.quantization.widths or tuple(int(name) for name in model.adapters if name.isdigit())
    return [Bitmap.uniform(model.site_names, bits) for bits in widths] or [model.bitmap]
