"""LoRA adapters by name, kept in PEFT's layers and PEFT's files.

One adapter a width, named by the width (``"4"``), or one shared by all (``"shared"``, for cyclic
precision training).  Each is saved as a folder that plain PEFT opens: its adapter config names Conv1D's
orientation and lists the head and the trained norms under ``modules_to_save``, so that the folder alone makes a
working model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.model.initialisation import DRAWN, Factors, check_init, takes_from_weight
from qalof.model.lora_linear import SwitchableLora
from qalof.model.sites import Site
from qalof.model.switchable_linear import SwitchableLinear

SHARED = "shared"
WEIGHTS_FILE = "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter's branch: s B A drop(x) with s = alpha/rank, or alpha/sqrt(rank) for rsLoRA.

    ``init``: how A and B begin, see :mod:`qalof.model.initialisation`.

    Raises:
        BadInputError: a rank below 1, an alpha that is not positive, a dropout outside [0, 1), an unknown init.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    rslora: bool = False
    init: str = "kaiming"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInputError(f"an adapter's rank must be at least 1: got {self.rank}")
        if not self.alpha > 0 or math.isinf(self.alpha):
            raise BadInputError(f"an adapter's alpha must be positive: got {self.alpha}; twice the rank is usual")
        if not 0 <= self.dropout < 1:
            raise BadInputError(f"an adapter's dropout must lie in [0, 1): got {self.dropout}")
        check_init(self.init, self.rank)

    @property
    def scaling(self) -> float:
        """The factor s of the branch."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def parameters(self, sites: Sequence[Site]) -> int:
        """How many A and B have over ``sites``: rank * (in + out) each."""
        return sum(self.rank * (site.in_features + site.out_features) for site in sites)


S3_SPECS = {str(b): AdapterSpec(16 if b < 6 else 8, 64 if b == 4 else 32 if b == 5 else 16) for b in (4, 5, 6, 8, 16)}
REFERENCE_SPECS: Mapping[str, Mapping[str, AdapterSpec]] = {
    "s1": {"4": AdapterSpec(8, 16), "8": AdapterSpec(8, 16)},
    "s2": {bits: AdapterSpec(8, 16) for bits in ("2", "4", "8")},
    "s3": S3_SPECS,
    "s4-sp": {str(bits): AdapterSpec(64, 128) for bits in (*range(4, 17), 32)},
    "s4-cpt": {SHARED: AdapterSpec(16, 32)},
}
"""Widths, ranks and alphas of the reference systems (algorithms.md 2).  S2 gives no rank and S4 no alpha for its SP."""


class AdapterPolicy(StrEnum):
    """Which adapter serves a width that has none of its own."""

    EXACT = "exact"
    NEAREST_HIGHER = "nearest_higher"
    NEAREST = "nearest"
    NONE = "none"


def adapter_for(bits: int, names: Sequence[str], policy: AdapterPolicy) -> str | None:
    """The adapter that serves weights of ``bits``, or None for no branch.

    ``nearest_higher`` takes the highest adapter where none is higher than ``bits`` (pass-through, say).

    Raises:
        BadInputError: ``exact`` and no adapter of this width.
    """
    if not names:
        return None
    if SHARED in names:
        return SHARED
    widths = sorted(int(name) for name in names)
    if bits in widths:
        return str(bits)
    if policy is AdapterPolicy.EXACT:
        raise BadInputError(
            f"policy exact needs an adapter for {bits} bits: there are {widths}; take nearest_higher or train it"
        )
    if policy is AdapterPolicy.NONE:
        return None
    if policy is AdapterPolicy.NEAREST:
        return str(min(widths, key=lambda width: (abs(width - bits), -width)))
    return str(min((width for width in widths if width > bits), default=widths[-1]))


def inject(model: PreTrainedModel, module_paths: Sequence[str], specs: Mapping[str, AdapterSpec]) -> None:
    """Wrap the switchable layers at ``module_paths`` in :class:`SwitchableLora`, one branch a spec.

    Factors are drawn here; inits that decompose a weight come after, in :mod:`qalof.model.patch`.
    """
    for name, spec in specs.items():
        config = _config(spec, module_paths)
        config._register_custom_module({SwitchableLinear: SwitchableLora})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a second adapter, and of tied heads, both on purpose
            inject_adapter_in_model(config, model, adapter_name=name)
        for parameter in adapter_parameters(model, name).values():
            parameter.requires_grad_(True)


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The A (rank, in) and B (out, rank) factors of one adapter by their path without its name."""
    found = {}
    for path, parameter in model.named_parameters():
        for factor in ("lora_A", "lora_B"):
            middle = f".{factor}.{name}."
            if middle in path:
                found[path.replace(middle, f".{factor}.")] = parameter
    return found


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
        model: with the adapter injected.
        name: the adapter's.
        spec: its rank and alpha, for ``adapter_config.json``.
        modules: other parameters, of the head and the norms, by their path in the plain model; may be empty.
        folder: is made.
        fan_in_fan_out: whether the plain model has Conv1D at its sites.
    """
    folder.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = dict(modules)
    layers = _layers(model, name)
    for path, layer in layers.items():
        a, b = widened(layer, name) if takes_from_weight(spec.init) else layer.factors(name)[:2]
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
    config = _config(_stored(spec), sorted(layers))
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
    """Read what :func:`save_adapter` wrote and check it against the model, which stays untouched.

    Returns:
        Tensors by path, without PEFT's prefix.

    Raises:
        BadInputError: no safetensors file, another rank or alpha in PEFT's config than in ``spec``, or other
            tensors or shapes than this model has.
    """
    _check_config(spec, folder)
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"adapter {folder} must hold a readable {WEIGHTS_FILE}: {error}; restore it") from None
    rank = _stored(spec).rank
    wanted = {path: tuple(parameter.shape) for path, parameter in modules.items()}
    for path, layer in _layers(model, name).items():
        wanted[f"{path}.lora_A.weight"] = (rank, layer.in_features)
        wanted[f"{path}.lora_B.weight"] = (layer.out_features, rank)
    expected = {_PEFT_PREFIX + path for path in wanted}
    if set(stored) != expected:
        odd = sorted(set(stored) ^ expected)[0]
        raise BadInputError(f"adapter {folder} must hold exactly this model's tensors: {odd} is on one side only")
    found = {path: stored[_PEFT_PREFIX + path] for path in wanted}
    for path, tensor in found.items():
        if tuple(tensor.shape) != wanted[path]:
            shapes = f"{tuple(tensor.shape)}, the model {wanted[path]}"
            raise BadInputError(f"adapter {folder} must fit this model: {path} is {shapes}")
        if not torch.isfinite(tensor).all():
            raise BadInputError(f"adapter {folder} must hold finite numbers: {path} does not; restore it")
    return found


@torch.no_grad()
def copy_adapter(
    model: PreTrainedModel, name: str, modules: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put what :func:`read_adapter` returned into the model."""
    for path, parameter in modules.items():
        parameter.copy_(tensors[path])
    for path, layer in _layers(model, name).items():
        a, b, scaling = layer.factors(name)
        stored = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
        a.copy_(stored[0][: len(a)])
        b.copy_(stored[1][:, : len(a)])
        if len(stored[0]) > len(a):
            take_out(layer, (stored[0][len(a) :], -stored[1][:, len(a) :]), scaling)


@torch.no_grad()
def take_out(layer: SwitchableLora, start: Factors, scaling: float) -> None:
    """Subtract an adapter's start from the weight that all adapters stand on, and remember it."""
    weight = layer.base_layer.weight
    a, b = (factor.to(weight.device, weight.dtype) for factor in start)
    if layer.start is not None:
        if torch.equal(layer.start[0], a) and torch.equal(layer.start[1], b):
            return
        weight.add_(scaling * layer.start[1] @ layer.start[0])  # of another machine, whose last bits differ
    weight.sub_(scaling * b @ a)
    layer.start = (a, b)


def widened(layer: SwitchableLora, name: str) -> Factors:
    """The branch and minus its start as one LoRA of twice the rank, on the pretrained weight."""
    assert layer.start is not None
    a, b, _ = layer.factors(name)
    start_a, start_b = (factor.to(a.device) for factor in layer.start)
    return torch.cat([a, start_a]), torch.cat([b, -start_b], dim=1)


def _stored(spec: AdapterSpec) -> AdapterSpec:
    """The spec that PEFT is told of: a start doubles the rank, and alpha so much that s stays what it is."""
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


def _layers(model: nn.Module, name: str) -> dict[str, SwitchableLora]:
    return {p: m for p, m in model.named_modules() if isinstance(m, SwitchableLora) and name in m.lora_A}


def _config(spec: AdapterSpec, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.rslora,
        init_lora_weights=DRAWN.get(spec.init, True),
        target_modules=list(targets),
        bias="none",
    )
