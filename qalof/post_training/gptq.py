"""GPTQ on a switchable model finds fixed codes per width on calibration text (docs/methods/post_training.md, "GPTQ").

Blocks are taken from the input to the output.  For each block, the model runs the calibration batches with everything
before it rounded at the same width, the inputs of the block's layers are gathered as X^T X, and the layers are rounded
with error compensation (:mod:`qalof.post_training.error_compensation`).  A pass begins behind the last block that is
done and ends within this one (:mod:`qalof.post_training.carried_batches`), so the time grows with the number of blocks.
Activations and cache stay in full precision meanwhile, as in the paper, and the adapter of the width is active.

The codes are stored in the layers, and so in checkpoints and packed files: everything that sets bitmaps (search,
sensitivity, export) uses them without further work. The codes of a width are found with all earlier sites at the same
width. A mixed bitmap uses the same codes, though its inputs differ a little from those on which they were found.

Libraries for GPTQ make a model of one width, in layers and a format of their own. Here one model has the codes of
several widths, each found with the quantizer, the adapter and the bitmap that it will run with, so the method is
written here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.bitmap_patterns import block_name
from qalof.errors import BadInputError
from qalof.layer_bits import GroupedWidth, LayerBits, WeightWidth, bits_of
from qalof.model.at_bitmap import layers_of
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.real_tokens import RealTokens, watching
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.switchable import SwitchableModel
from qalof.post_training.carried_batches import CarriedBatches
from qalof.post_training.error_compensation import Compensated, GptqSettings, InputMoments, compensate_weight
from qalof.tasks.base import Batch, Task

Batches = Sequence[Mapping[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SiteError:
    """The squared output error per token on the calibration inputs, of the codes found and of rounding to nearest.

    ``bits`` is a number, or a text such as ``4g32`` where the width has a group size.
    """

    site: str
    bits: int | str
    error: float
    nearest_error: float


class _Seen(Exception):
    """Ends a pass once all layers of interest have seen their inputs."""


@torch.no_grad()
def compensate(
    model: SwitchableModel,
    batches: Batches,
    widths: Sequence[int | GroupedWidth],
    settings: GptqSettings | None = None,
    progress: Progress | None = None,
) -> list[SiteError]:
    """Give every site of ``model`` fixed codes at each of ``widths``.

    Args:
        model: a model, which returns to its bitmap and mode; on an error it keeps the codes that it had.
        batches: keyword arguments of the model; with an ``attention_mask``, padding does not count.
        widths: widths below full precision, with or without a group size.
        settings: the settings of the compensation.
        progress: a function that is called with (groups of layers done, all groups).

    Returns:
        One entry per width and site.

    Raises:
        BadInputError: There is no batch, the weight's quantizer does not have a width, the merge order is
            ``merge_then_quantize``, an input is not finite, or a Hessian does not factorize.
    """
    settings = settings or GptqSettings()
    _check(model, batches, widths)
    groups = _groups(model, settings)
    before = _fixed(model)
    errors: list[SiteError] = []
    try:
        with model.at(eval=True):
            for width in widths:
                done: list[str] = []
                carried = CarriedBatches(model, batches)
                for group in groups:
                    _run_at(model, width, done)
                    errors += _compensate_group(model, group, carried, width, settings)
                    done += group
                    if progress:
                        progress(len(errors), len(widths) * len(model.sites))
    except BaseException:
        for name, codes in before.items():
            _linear(model, name).fix_codes(codes)
        raise
    return errors


def calibration_batches(task: Task, examples: int, *, batch_size: int = 8, seed: int = 0) -> list[Batch]:
    """Return the inputs of ``examples`` training examples of ``task``, drawn without replacement from ``seed``.

    Raises:
        BadInputError: ``examples`` is below 1.
    """
    if examples < 1:
        raise BadInputError(f"calibration needs at least one example: got {examples}; 32 to 128 are usual")
    features = task.train_features()
    chosen = random.Random(seed).sample(range(len(features)), min(examples, len(features)))
    picked = [features[index] for index in chosen]
    return [task.model_inputs(task.collate(picked[at : at + batch_size])) for at in range(0, len(picked), batch_size)]


def _check(model: SwitchableModel, batches: Batches, widths: Sequence[int | GroupedWidth]) -> None:
    if not batches:
        raise BadInputError("calibration needs at least one batch: got none; give examples of the training split")
    if model.adapters and model.settings.merge is MergeOrder.MERGE_THEN_QUANTIZE:
        raise BadInputError(
            "fixed codes are those of one weight: merge merge_then_quantize rounds another one for each adapter; "
            "take merge branch"
        )
    for width in widths:
        quantizer = model.settings.quantization.weight.at(width)
        if bits_of(width) >= quantizer.full_precision_bits:
            raise BadInputError(f"widths must have codes to compensate: got full precision {width}; take less")
        quantizer.check_bits(bits_of(width))


def _groups(model: SwitchableModel, settings: GptqSettings) -> list[list[str]]:
    """Return the names of the sites that share a pass; an embedding has no inputs, so it is rounded to nearest."""
    names = [site.name for site in model.sites if not site.is_embedding]
    if settings.sequence == "site":
        return [[name] for name in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(block_name(name), []).append(name)
    return list(groups.values())


def _run_at(model: SwitchableModel, width: int | GroupedWidth, done: Sequence[str]) -> None:
    """Run the weights of ``done`` at ``width``, all others in full precision, and the adapter of its bits at every
    site.
    """
    free, rounded = LayerBits.of(FULL_PRECISION), LayerBits.parse(f"w{width}")
    model.set_bitmap(Bitmap({name: rounded if name in done else free for name in model.site_names}))
    model.use_adapter(model.adapter_at(rounded.weight))


def _compensate_group(
    model: SwitchableModel,
    group: Sequence[str],
    batches: CarriedBatches,
    width: int | GroupedWidth,
    settings: GptqSettings,
) -> list[SiteError]:
    linears = {name: _linear(model, name) for name in group}
    moments = _gather(model, linears, batches)
    errors = []
    for name, linear in linears.items():
        found = _compensate_site(linear, moments[name].hessian(), width, settings)
        linear.fix_codes(linear.fixed_codes | {width: found.quantized})
        shown = str(width) if isinstance(width, GroupedWidth) else width
        errors.append(SiteError(name, shown, found.error, found.nearest_error))
    return errors


def _compensate_site(
    linear: SwitchableLinear, hessian: torch.Tensor, width: int | GroupedWidth, settings: GptqSettings
) -> Compensated:
    quantizer = linear.scheme.weight.at(width)
    qparams = linear.weight_quantizer.qparams(linear.weight, width, quantizer)
    try:
        return compensate_weight(linear.weight, hessian, quantizer, int(bits_of(width)), settings, qparams)
    except BadInputError as error:
        raise BadInputError(f"{linear.place} at {width} bits: {error}") from None


def _gather(
    model: SwitchableModel, linears: Mapping[str, SwitchableLinear], batches: CarriedBatches
) -> dict[str, InputMoments]:
    """Return X^T X of each layer over all batches; a pass ends when all layers have seen their inputs."""
    moments = {name: InputMoments(linear.in_features, name, model.device) for name, linear in linears.items()}
    with watching(model.model) as tokens:
        for run in batches.passes_to(list(linears.values())):
            with _gathering(linears, moments, tokens), suppress(_Seen):
                run()
    return moments


@contextmanager
def _gathering(
    linears: Mapping[str, SwitchableLinear], moments: Mapping[str, InputMoments], tokens: RealTokens
) -> Iterator[None]:
    waiting = set(linears)

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            moments[name].add(tokens.real(inputs[0]))
            waiting.discard(name)
            if not waiting:
                raise _Seen

        return see

    handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fixed(model: SwitchableModel) -> dict[str, dict[WeightWidth, Any]]:
    return {name: _linear(model, name).fixed_codes for name in model.site_names}


def _linear(model: SwitchableModel, name: str) -> SwitchableLinear:
    site = model.sites[model.site_names.index(name)]
    return layers_of(model, site)[0]
