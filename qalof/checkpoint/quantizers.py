"""The state of quantizers in a checkpoint: static ranges and learned steps.

It is written as one safetensors file alongside the adapters, and only if there is any.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import nn

from qalof.checkpoint.fixed_codes import load_fixed_codes, save_fixed_codes
from qalof.errors import BadInputError

if TYPE_CHECKING:
    pass

from qalof.model.quantizer_state import quantizers_of

STATE_FILE = "quantizers.safetensors"


def save_state(model: nn.Module, folder: Path) -> None:
    """Write everything in a checkpoint that concerns quantization: the state of quantizers, and fixed codes."""
    save_quantizers(model, folder)
    save_fixed_codes(model, folder)


def load_state(model: nn.Module, folder: Path) -> None:
    """Read what :func:`save_state` wrote.

    Raises:
        BadInputError: The state is that of another model.
    """
    load_quantizers(model, folder)
    load_fixed_codes(model, folder)


def save_quantizers(model: nn.Module, folder: Path) -> None:
    """Write the state of all quantizers into ``folder``; write nothing where there is none."""
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
        BadInputError: The state is that of other quantizers than this model has.
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
                continue  # the file replaces what this model has observed
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
