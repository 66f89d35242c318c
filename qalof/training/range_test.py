"""The precision range test finds the lowest width that training can use (CPT, arXiv 2101.09868; docs/methods/cpt.md).

Widths run from the lowest upward, one after the other on the same weights, with a few dozen steps each. A width that is
too low to learn leaves the loss where it was; the first width that lowers it by more than a threshold is the lower
bound of the cycles.  The paper judges by accuracy; a fine-tuned language model is judged by its loss, smoothed as the
mean of the last steps, and by its *relative* fall from one width to the next.  The last width with such a fall is the
upper bound.  The lowest width has none below it, so its fall is measured from its own first steps.

The test restores everything: weights, optimizer, state of quantizers, step and generator, also after an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from qalof.bitmap import Bitmap, check_width
from qalof.errors import BadInputError
from qalof.layer_bits import LayerBits
from qalof.model.quantizer_state import quantizers_of
from qalof.training.loop import Trainer
from qalof.training.objectives import SwitchablePrecision


@dataclass(frozen=True)
class RangeTest:
    """The result of the test.

    ``losses`` are smoothed, in nats per label row, by width; ``improvements`` are relative falls of the loss, by width;
    ``lowest`` is the lower bound, None where no width learns; ``highest`` is the upper one.
    """

    losses: dict[int, float]
    improvements: dict[int, float]
    lowest: int | None
    highest: int | None


def lower_bound(improvements: Mapping[int, float], threshold: float = 0.01) -> int | None:
    """Return the first width from below whose improvement exceeds ``threshold``; None if none does."""
    return next((bits for bits in sorted(improvements) if improvements[bits] > threshold), None)


def upper_bound(improvements: Mapping[int, float], threshold: float = 0.01) -> int | None:
    """Return the last width from below that improves by more than ``threshold``; None if none does."""
    return next((bits for bits in sorted(improvements, reverse=True) if improvements[bits] > threshold), None)


def relative_improvements(first: float, losses: Mapping[int, float]) -> dict[int, float]:
    """Return the fall of the loss per width, as a share of the loss at the width below; the lowest compares to
    ``first``.
    """
    improvements, before = {}, first
    for bits in sorted(losses):
        improvements[bits] = (before - losses[bits]) / before
        before = losses[bits]
    return improvements


def precision_range_test(
    trainer: Trainer,
    widths: Sequence[int],
    iterations: int = 100,
    threshold: float = 0.01,
    window: int = 10,
    layer_bits: Callable[[int], LayerBits] = LayerBits.of,
) -> RangeTest:
    """Run the test on ``trainer``'s model, data and batch size, at its peak learning rate.

    Args:
        trainer: a trainer, which is restored afterwards; its adapters must serve all ``widths``, as one shared adapter
            does.
        widths: different widths, which run from low to high.
        iterations: the steps per width.
        threshold: see :func:`lower_bound`.
        window: the loss of a width is the mean of this many last steps.
        layer_bits: a function from a width to the bits of every site.

    Raises:
        BadInputError: There are no widths or illegal ones, or the window does not fit into the steps.
        NonFiniteLossError: Training diverges at a width.
    """
    if not widths or len(set(widths)) != len(widths):
        raise BadInputError(f"a precision range test needs one or more different widths: got {list(widths)}")
    for bits in widths:
        check_width(bits, "widths")
    if not 1 <= window <= iterations:
        raise BadInputError(f"window must lie between 1 and iterations {iterations}: got {window}")
    ordered = sorted(widths)
    with _left_as_it_was(trainer):
        # under a schedule that decays, the later widths would seem to learn less
        trainer.settings = replace(trainer.settings, schedule="constant", warmup_steps=0)
        runs = {bits: _losses(trainer, layer_bits(bits), iterations) for bits in ordered}
    losses = {bits: fmean(run[-window:]) for bits, run in runs.items()}
    improvements = relative_improvements(fmean(runs[ordered[0]][:window]), losses)
    bounds = lower_bound(improvements, threshold), upper_bound(improvements, threshold)
    return RangeTest(losses, improvements, *bounds)


def _losses(trainer: Trainer, bits: LayerBits, iterations: int) -> list[float]:
    sites = trainer.model.sites
    trainer.objective = SwitchablePrecision([Bitmap.uniform(trainer.model.site_names, bits)], sites)
    return [loss for _ in range(iterations) for loss in trainer.train_step().losses.values()]


@contextmanager
def _left_as_it_was(trainer: Trainer) -> Iterator[None]:
    model = trainer.model
    parameters = [p for group in model.trainable_groups().values() for p in group.values()]
    weights = [parameter.detach().clone() for parameter in parameters]
    quantizers = {path: copy.deepcopy(module.state_dict()) for path, module in quantizers_of(model)}
    optimizer = copy.deepcopy(trainer.optimizer.state_dict())
    before = (trainer.objective, trainer.settings, trainer.step)
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        try:
            with model.at():
                yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(parameters, weights, strict=True):
                    parameter.copy_(weight)
            for path, module in quantizers_of(model):
                module.load_state_dict(quantizers[path])
            trainer.optimizer.load_state_dict(optimizer)
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.objective, trainer.settings, trainer.step = before
