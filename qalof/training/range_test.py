"""The precision range test: which width is the lowest that training can use (CPT, arXiv 2101.09868; algorithms.md 4).

Widths run from the lowest upward, one after the other on the same weights, a few dozen steps each.  A width too
low to learn leaves the loss where it was; the first width that lowers it by more than a threshold is the lower bound
of the cycles.  The paper judges by accuracy; a fine-tuned language model is judged by its loss, smoothed as the mean of
the last steps, and by its *relative* fall from one width to the next.  The last width with such a fall is the upper
bound.  The lowest width has none below it, so that its
fall is measured from its own first steps.

The test leaves no trace: weights, optimizer, quantizers' state, step and generator are as before, also after an error.
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
    """What the test found.

    ``losses``: smoothed, in nats a label row, by width; ``improvements``: relative fall of the loss, by width;
    ``lowest``: the lower bound, None where no width learns; ``highest``: the upper one.
    """

    losses: dict[int, float]
    improvements: dict[int, float]
    lowest: int | None
    highest: int | None


def lower_bound(improvements: Mapping[int, float], threshold: float = 0.01) -> int | None:
    """The first width from below whose improvement exceeds ``threshold``; None if none does."""
    return next((bits for bits in sorted(improvements) if improvements[bits] > threshold), None)


def upper_bound(improvements: Mapping[int, float], threshold: float = 0.01) -> int | None:
    """The last width from below that improves by more than ``threshold``: none above it pays; None if none does."""
    return next((bits for bits in sorted(improvements, reverse=True) if improvements[bits] > threshold), None)


def relative_improvements(first: float, losses: Mapping[int, float]) -> dict[int, float]:
    """Fall of the loss at each width as a share of the loss at the width below; of ``first`` at the lowest."""
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
        trainer: left as it was; its adapters must serve all ``widths``, which one shared adapter does.
        widths: different widths; run from low to high.
        iterations: steps at each.
        threshold: see :func:`lower_bound`.
        window: last steps of a width whose mean is its loss.
        layer_bits: what every site runs at in the steps of a width.

    Raises:
        BadInputError: no or illegal widths, or a window that does not fit into the steps.
        NonFiniteLossError: a width at which training diverges.
    """
    if not widths or len(set(widths)) != len(widths):
        raise BadInputError(f"a precision range test needs one or more different widths: got {list(widths)}")
    for bits in widths:
        check_width(bits, "widths")
    if not 1 <= window <= iterations:
        raise BadInputError(f"window must lie between 1 and iterations {iterations}: got {window}")
    ordered = sorted(widths)
    with _left_as_it_was(trainer):
        # a schedule that decays would make the later widths seem to learn less
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
    before = (trainer.objective, trainer.settings, trainer.step, model.bitmap, model.training)
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(parameters, weights, strict=True):
                    parameter.copy_(weight)
            for path, module in quantizers_of(model):
                module.load_state_dict(quantizers[path])
            trainer.optimizer.load_state_dict(optimizer)
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.objective, trainer.settings, trainer.step, bitmap, training = before
            model.set_bitmap(bitmap)
            model.train(training)
