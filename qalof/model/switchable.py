"""The switchable model: one set of weights, many widths, an adapter for each.

:func:`build` turns any Hugging Face causal LM (with whatever head) into a :class:`SwitchableModel`:
each site becomes a :class:`SwitchableLinear` inside PEFT's LoRA layer.  :meth:`SwitchableModel.set_bitmap`
then only writes two attributes a site, copies no weight, and never touches ``requires_grad``: PEFT's own
``set_adapter`` does, which would leave an optimizer made under one adapter blind to the others.

A checkpoint holds the adapters and the head, not the frozen base; it names the base and the digest of its
weights, so that it refuses to be put on another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qalof.bitmap import PASS_THROUGH, Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.files import open_sealed, sealed_folder
from qalof.model import adapters as lora
from qalof.model.adapters import AdapterPolicy, AdapterSpec
from qalof.model.kv_cache import quantize_kv
from qalof.model.pretrained import HeadKind, load_pretrained, weights_digest
from qalof.model.sites import Site, base_of, find_sites
from qalof.model.switchable_linear import SwitchableLinear
from qalof.quantization.quantizers import CONVENTION

FORMAT_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseModel:
    """Which pretrained model stands underneath: enough to load it again."""

    source: str
    head: HeadKind
    seed: int = 0
    labels: int | None = None

    def load(self) -> PreTrainedModel:
        """The plain transformers model."""
        return load_pretrained(self.source, self.head, seed=self.seed, labels=self.labels)


@dataclass
class _Switch:
    """What ``set_bitmap`` writes to at one site: the layer's bits and PEFT's active adapter."""

    site: Site
    linear: SwitchableLinear
    outer: Any

    def quantize_kv(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return quantize_kv(output, self.site.kv_slices, self.linear.bits.kv)


class SwitchableModel(nn.Module):
    """A transformers model whose sites switch width; call it as the model itself.

    Attributes:
        model: the transformers model, patched.
        sites: its quantizable layers, in order.
        adapters: name -> spec of the LoRA adapters.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: BaseModel,
        adapters: Mapping[str, AdapterSpec],
        policy: AdapterPolicy = AdapterPolicy.NEAREST_HIGHER,
    ) -> None:
        super().__init__()
        self.base = base
        self.base_digest = weights_digest(model)
        self.sites = find_sites(model)
        self.adapters = dict(adapters)
        self.policy = policy
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._switches = _patch(model, self.sites, self.adapters)
        self.model = model
        for parameter in self.head_parameters().values():
            parameter.requires_grad_(base.head is not HeadKind.CAUSAL_LM)
        self._told: set[tuple[int, str | None]] = set()
        own = [int(name) for name in self.adapters if name != lora.SHARED]
        # under ``exact`` a model without an adapter for pass-through cannot start there
        start = max(own) if policy is AdapterPolicy.EXACT and own else PASS_THROUGH
        self.bitmap = self.set_bitmap(Bitmap.uniform(self.site_names, start))

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites, in order."""
        return tuple(site.name for site in self.sites)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The transformers model's forward, at the current bitmap."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The transformers model's ``generate``, at the current bitmap, KV cache quantized by it."""
        return self.model.generate(*args, **kwargs)

    def set_bitmap(self, bitmap: Bitmap | str | int) -> Bitmap:
        """Run at ``bitmap`` from now on: O(sites), no weight is copied.

        Returns:
            The bitmap, parsed.

        Raises:
            BadInputError: unknown sites or widths, or no adapter under policy ``exact``.
        """
        parsed = bitmap if isinstance(bitmap, Bitmap) else Bitmap.parse(bitmap, self.site_names)
        if parsed.sites != self.site_names:
            parsed = Bitmap.from_json(parsed.to_json(), self.site_names)
        names = tuple(self.adapters)
        chosen = {bits: self._adapter(bits, names) for bits in {layer.weight for layer in parsed.values()}}
        for switch, layer in zip(self._switches, parsed.values(), strict=True):
            switch.linear.bits = layer
            if names:
                name = chosen[layer.weight]
                switch.outer._disable_adapters = name is None
                if name is not None:
                    switch.outer._active_adapter = name
        self.bitmap = parsed
        return parsed

    def _adapter(self, bits: int, names: tuple[str, ...]) -> str | None:
        name = lora.adapter_for(bits, names, self.policy)
        if name not in (str(bits), lora.SHARED) and names and (bits, name) not in self._told:
            self._told.add((bits, name))
            _log.info("sites at %d bits have no adapter of their own: policy %s takes %s", bits, self.policy, name)
        return name

    def use_adapter(self, name: str | None) -> None:
        """Run one adapter (None: no branch) at every site, whatever the widths, until the next bitmap."""
        if name is not None and name not in self.adapters:
            raise BadInputError(f"no adapter {name!r}: there are {sorted(self.adapters)}")
        for switch in self._switches:
            if self.adapters:
                switch.outer._disable_adapters = name is None
                if name is not None:
                    switch.outer._active_adapter = name

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the head by path; empty for a causal LM, whose head is tied to the embedding."""
        if self.base.head is HeadKind.CAUSAL_LM:
            return {}
        prefix = f"{self.model.base_model_prefix}."
        return {path: p for path, p in self.model.named_parameters() if not path.startswith(prefix)}

    def trainable_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Trainable parameters by owner: one group an adapter, and ``head``; all adapters, active or not."""
        groups = {name: lora.adapter_parameters(self.model, name) for name in self.adapters}
        if head := self.head_parameters():
            groups["head"] = head
        return groups

    def save(
        self, folder: Path, extra: Mapping[str, Any] | None = None, attach: Callable[[Path], None] | None = None
    ) -> None:
        """Write adapters and head as a sealed folder; see the module's docstring.

        Args:
            folder: appears whole or not at all.
            extra: JSON that travels in the manifest under ``extra``, such as the task's config.
            attach: writes more files into the folder before it is sealed.
        """
        header = {
            "format_version": FORMAT_VERSION,
            "kind": "switchable-model",
            "convention": CONVENTION,
            "base": asdict(self.base) | {"sha256": self.base_digest},
            "adapters": {name: asdict(spec) for name, spec in self.adapters.items()},
            "policy": str(self.policy),
            "sites": list(self.site_names),
            "extra": dict(extra or {}),
        }
        with sealed_folder(Path(folder), header) as beside:
            for name, spec in self.adapters.items():
                lora.save_adapter(self.model, name, spec, self.head_parameters(), beside / "adapters" / name)
            if attach:
                attach(beside)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Rebuild a model that :meth:`save` wrote.

        Raises:
            BadInputError: no such folder, a damaged or newer one, another range convention, or another base.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        stored = manifest["base"]
        base = BaseModel(stored["source"], HeadKind(stored["head"]), stored["seed"], stored["labels"])
        specs = {name: AdapterSpec(**spec) for name, spec in manifest["adapters"].items()}
        self = cls(base.load(), base, specs, AdapterPolicy(manifest["policy"]))
        if self.base_digest != stored["sha256"]:
            raise BadInputError(
                f"checkpoint {path} was trained on other weights than {base.source} has now; give that base"
            )
        for name in specs:
            lora.load_adapter(self.model, name, self.head_parameters(), path / "adapters" / name)
        return self


def read_manifest(folder: Path) -> dict[str, Any]:
    """Check a checkpoint without loading its base, and return its manifest.

    Raises:
        BadInputError: missing, damaged, newer, or of another range convention.
    """
    manifest = open_sealed(folder, "checkpoint", FORMAT_VERSION)
    if manifest.get("convention") != CONVENTION:
        raise BadInputError(
            f"checkpoint {folder} must use the range convention {CONVENTION}: "
            f"got {manifest.get('convention')!r}; convert it first"
        )
    return manifest


def build(
    base: BaseModel,
    adapters: Mapping[str, AdapterSpec] | None = None,
    *,
    policy: AdapterPolicy = AdapterPolicy.NEAREST_HIGHER,
    seed: int = 0,
    pretrained: PreTrainedModel | None = None,
) -> SwitchableModel:
    """Load ``base`` and make it switchable, with fresh adapters drawn from ``seed`` (A Kaiming-uniform, B zero).

    ``pretrained`` is ``base.load()`` where the caller has it already; it is patched in place.
    """
    model = pretrained or base.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SwitchableModel(model, base, adapters or {}, policy)


def _patch(model: PreTrainedModel, sites: tuple[Site, ...], specs: Mapping[str, AdapterSpec]) -> list[_Switch]:
    root = base_of(model)
    prefix = "" if root is model else f"{model.base_model_prefix}."
    linears = {}
    for site in sites:
        parent, _, leaf = site.name.rpartition(".")
        layer = root.get_submodule(site.name)
        assert isinstance(layer, nn.Linear | Conv1D)
        linears[site.name] = SwitchableLinear.of(layer, site.name)
        setattr(root.get_submodule(parent), leaf, linears[site.name])
    lora.inject(model, [prefix + site.name for site in sites], specs)
    switches = []
    for site in sites:
        switch = _Switch(site, linears[site.name], root.get_submodule(site.name))
        if site.kv_slices:
            switch.outer.register_forward_hook(switch.quantize_kv)
        switches.append(switch)
    return switches


__all__ = [
    "AdapterPolicy",
    "AdapterSpec",
    "BaseModel",
    "HeadKind",
    "LayerBits",
    "SwitchableModel",
    "build",
    "read_manifest",
]
