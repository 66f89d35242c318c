"""The state that quantizers have in a model, static ranges and learned steps: finding, saving, calibrating it.

It is written as one safetensors file beside the adapters, and only where there is any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.fixed_codes import load_fixed_codes, save_fixed_codes
from qalof.model.tensor_quantizer import TensorQuantizer

if TYPE_CHECKING:
    from qalof.model.switchable import SwitchableModel

STATE_FILE = "quantizers.safetensors"
STEPS = "steps"
"""Name of the group of trainable parameters that LSQ learns."""


def quantizers_of(model: nn.Module) -> Iterator[tuple[str, TensorQuantizer]]:
    """The quantizers of ``model`` that have state, by path."""
    for path, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and (module.steps is not None or module.ranges is not None):
            yield path, module


def learned_steps(model: nn.Module) -> dict[str, nn.Parameter]:
    """The learned steps of ``model`` by path; they want no weight decay."""
    return {f"{path}.{name}": p for path, module in quantizers_of(model) for name, p in module.named_parameters()}


def save_state(model: nn.Module, folder: Path) -> None:
    """Write all that a checkpoint holds of quantization: the state of quantizers, and fixed codes."""
    save_quantizers(model, folder)
    save_fixed_codes(model, folder)


def load_state(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_state` wrote.

    Raises:
        BadInputError: state of another model.
    """
    load_quantizers(model, folder)
    load_fixed_codes(model, folder)


def save_quantizers(model: nn.Module, folder: Path) -> None:
    """Write the state of all quantizers into ``folder``; nothing where there is none."""
    tensors = {
        f"{path}.{name}": tensor.detach().cpu().contiguous().clone()
        for path, module in quantizers_of(model)
        for name, tensor in module.state_dict().items()
    }
    if tensors:
        save_file(tensors, folder / STATE_FILE)


def load_quantizers(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_quantizers` wrote: everything or, on an error, nothing.

    Raises:
        BadInputError: state of other quantizers than this model has.
    """
    path = folder / STATE_FILE
    stored = load_file(path) if path.is_file() else {}
    modules = dict(quantizers_of(model))
    for name in stored:
        if not any(name.startswith(f"{owner}.") for owner in modules):
            raise BadInputError(f"{path} must fit this model: it has no quantizer for {name}")
    for owner, module in modules.items():
        for name, tensor in module.state_dict().items():
            if module.ranges is not None and name.startswith("ranges."):
                continue  # what this model has observed gives way to what the file holds
            found = stored.get(f"{owner}.{name}")
            if found is None or found.shape != tensor.shape:
                shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise BadInputError(
                    f"{path} must fit this model: {owner}.{name} is {shape}, here {tuple(tensor.shape)}"
                )
    device = next(model.parameters()).device
    for owner, module in modules.items():
        prefix = f"{owner}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
        module.to(device)


@torch.no_grad()
def calibrate(
    model: SwitchableModel,
    batches: Iterable[Mapping[str, Any]],
    bitmaps: Sequence[Bitmap | str | int] | None = None,
    *,
    reset: bool = True,
) -> int:
    """Find all static ranges and set all unset steps from ``batches``, each run at every bitmap; then freeze.

    Under ``torch.distributed`` every rank must call it, with as many batches as the others.

    Args:
        model: stays at its bitmap and in its mode.
        batches: keyword arguments of the model, such as ``{"input_ids": ..., "attention_mask": ...}``.
        bitmaps: where to observe, since a site's input depends on what runs before it; None for each of the
            scheme's widths, else each adapter's, else the present bitmap.
        reset: forget ranges found before.

    Returns:
        How many batches there were.

    Raises:
        BadInputError: no batch, or values that are not finite.
    """
    before, training = model.bitmap, model.training
    modules = [module for _, module in quantizers_of(model)]
    parsed = [Bitmap.parse(one, model.site_names) for one in bitmaps] if bitmaps else _own_bitmaps(model)
    for module in modules:
        if reset and module.ranges is not None:
            module.ranges.reset()
        module.calibrate(True)
    model.eval()
    count = 0
    try:
        for batch in batches:
            count += 1
            for bitmap in parsed:
                model.set_bitmap(bitmap)
                model(**batch)
    finally:
        for module in modules:
            module.calibrate(False)
        model.train(training)
        model.set_bitmap(before)
    if not count:
        raise BadInputError("calibration needs at least one batch: got none")
    return count


def _own_bitmaps(model: SwitchableModel) -> list[Bitmap]:
    widths = model.settings.quantization.widths or tuple(int(name) for name in model.adapters if name.isdigit())
    return [Bitmap.uniform(model.site_names, bits) for bits in widths] or [model.bitmap]
