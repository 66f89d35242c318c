"""Adapters in PEFT's files.

Each adapter is saved as a folder that plain PEFT opens: its adapter config names Conv1D's orientation and lists the
head and the trained norms under ``modules_to_save``, so the folder alone makes a working model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.model.adapter_inits import takes_from_weight
from qalof.model.adapter_spec import AdapterSpec
from qalof.model.adapters import adapter_layers, peft_config, take_out
from qalof.model.initialization import Factors
from qalof.model.layers.lora_linear import SwitchableLora
from qalof.precision import all_finite

WEIGHTS_FILE = "adapter_model.safetensors"

MODULES_FILE = "modules.safetensors"

_PEFT_PREFIX = "base_model.model."


def save_adapter(
    model: PreTrainedModel,
    name: str,
    spec: AdapterSpec,
    modules: Mapping[str, nn.Parameter],
    folder: Path,
    *,
    fan_in_fan_out: bool,
) -> None:
    """Write one adapter in PEFT's format, and what is trained with it.

    Args:
        model: a model with the adapter injected.
        name: the name of the adapter.
        spec: its rank and alpha, for ``adapter_config.json``.
        modules: other parameters, of the head and the norms, by their path in the plain model; may be empty.
        folder: the folder, which is made.
        fan_in_fan_out: whether the plain model has Conv1D at its sites.
    """
    folder.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = dict(modules)
    layers = adapter_layers(model, name)
    for path, layer in layers.items():
        a, b = widened(layer, name) if takes_from_weight(spec.init) else layer.factors(name)[:2]
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
    config = peft_config(_stored(spec), sorted(layers))
    config.base_model_name_or_path = str(model.config.name_or_path)
    config.fan_in_fan_out = fan_in_fan_out
    config.modules_to_save = sorted({path.rpartition(".")[0] for path in modules}) or None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    kept = {_PEFT_PREFIX + path: tensor.detach().cpu().contiguous() for path, tensor in tensors.items()}
    save_file(kept, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapter(
    model: PreTrainedModel, name: str, spec: AdapterSpec, modules: Mapping[str, nn.Parameter], folder: Path
) -> dict[str, torch.Tensor]:
    """Read what :func:`save_adapter` wrote and check it against the model, which is not changed.

    Returns:
        Tensors by path, without PEFT's prefix.

    Raises:
        BadInputError: There is no safetensors file, PEFT's config has another rank or alpha than ``spec``, or tensors
            or shapes differ from those of this model.
    """
    _check_config(spec, folder)
    rank = _stored(spec).rank
    wanted = {path: tuple(parameter.shape) for path, parameter in modules.items()}
    for path, layer in adapter_layers(model, name).items():
        wanted[f"{path}.lora_A.weight"] = (rank, layer.in_features)
        wanted[f"{path}.lora_B.weight"] = (layer.out_features, rank)
    return _read(folder / WEIGHTS_FILE, wanted, _PEFT_PREFIX)


def save_modules(modules: Mapping[str, nn.Parameter], folder: Path, file: str = MODULES_FILE) -> None:
    """Write parameters that belong to no adapter, in a file of their own; write nothing where there are none."""
    if modules:
        tensors = {path: parameter.detach().cpu().contiguous() for path, parameter in modules.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})


def read_modules(
    modules: Mapping[str, nn.Parameter], folder: Path, file: str = MODULES_FILE
) -> dict[str, torch.Tensor]:
    """Read what :func:`save_modules` wrote; the model is not changed.

    Raises:
        BadInputError: The file cannot be read, or its tensors are not those of the model.
    """
    wanted = {path: tuple(parameter.shape) for path, parameter in modules.items()}
    return _read(folder / file, wanted) if wanted else {}


def _read(path: Path, wanted: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, torch.Tensor]:
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} must be a readable safetensors file: {error}; restore it") from None
    expected = {prefix + name for name in wanted}
    if set(stored) != expected:
        odd = sorted(set(stored) ^ expected)[0]
        raise BadInputError(f"{path} must hold exactly this model's tensors: {odd} is on one side only")
    found = {name: stored[prefix + name] for name in wanted}
    for name, tensor in found.items():
        if tuple(tensor.shape) != wanted[name]:
            shapes = f"{tuple(tensor.shape)}, the model {wanted[name]}"
            raise BadInputError(f"{path} must fit this model: {name} is {shapes}")
        if not all_finite(tensor):
            raise BadInputError(f"{path} must hold finite numbers: {name} does not; restore it")
    return found


@torch.no_grad()
def copy_modules(modules: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy a head and norms into the model."""
    for path, parameter in modules.items():
        parameter.copy_(tensors[path])


@torch.no_grad()
def copy_adapter(
    model: PreTrainedModel, name: str, modules: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Copy what :func:`read_adapter` returned into the model."""
    copy_modules(modules, tensors)
    for path, layer in adapter_layers(model, name).items():
        a, b, scaling = layer.factors(name)
        stored = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
        a.copy_(stored[0][: len(a)])
        b.copy_(stored[1][:, : len(a)])
        if len(stored[0]) > len(a):
            take_out(layer, (stored[0][len(a) :], -stored[1][:, len(a) :]), scaling)


def widened(layer: SwitchableLora, name: str) -> Factors:
    """Return the branch minus its start as one LoRA of twice the rank, on the pretrained weight."""
    assert layer.start is not None
    a, b, _ = layer.factors(name)
    start_a, start_b = (factor.to(a.device) for factor in layer.start)
    return torch.cat([a, start_a]), torch.cat([b, -start_b], dim=1)


def _stored(spec: AdapterSpec) -> AdapterSpec:
    """Return the spec for PEFT's config: a start doubles the rank, and alpha is raised so s stays the same."""
    if not takes_from_weight(spec.init):
        return spec
    return AdapterSpec(2 * spec.rank, spec.alpha * (math.sqrt(2) if spec.rslora else 2), spec.dropout, spec.rslora)


def _check_config(spec: AdapterSpec, folder: Path) -> None:
    config = read_json(folder / "adapter_config.json", "adapter config")
    wanted = _stored(spec)
    for key, value in (("r", wanted.rank), ("lora_alpha", wanted.alpha), ("use_rslora", wanted.rslora)):
        found = config.get(key) if isinstance(config, dict) else None
        if found != value:
            raise BadInputError(
                f"adapter {folder} is damaged: {key} is {found!r} in its config and {value} in the manifest; restore it"
            )
