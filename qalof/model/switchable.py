"""The switchable model: one set of weights, many widths, and one adapter per width.

:func:`build` turns any Hugging Face causal LM (with whatever head) into a :class:`SwitchableModel`: each site becomes a
:class:`SwitchableLinear` inside PEFT's LoRA layer.  :meth:`SwitchableModel.set_bitmap` then only writes two attributes
per site, copies no weight, and never changes ``requires_grad``. PEFT's own ``set_adapter`` does change it, so an
optimizer that was made under one adapter would not see the others.

A model does not know its file format: :mod:`qalof.checkpoint` saves and loads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.cost import Rest, Storage, storage_of
from qalof.errors import BadInputError
from qalof.layer_bits import GroupedWidth, LayerBits, WeightWidth, bits_of, listed
from qalof.model import adapters as lora
from qalof.model.activation_checkpointing import checkpointed_blocks, keep_switches
from qalof.model.adapters import AdapterPolicy, AdapterSpec
from qalof.model.layers.held_weight import Kernel
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.real_tokens import Shown
from qalof.model.layers.tensor_quantizer import share_inputs, share_tokens
from qalof.model.origin import Origin
from qalof.model.packing import check_packable, check_width_of, pack_sites
from qalof.model.patch import SwitchableSite, initialize, patch
from qalof.model.positions import check_length
from qalof.model.pretrained import BaseModel
from qalof.model.rest import rest_of
from qalof.model.settings import SwitchSettings
from qalof.model.trainable import head_parameters, trainable_groups
from qalof.rng import portable_draws

_log = logging.getLogger(__name__)


class SwitchableModel(nn.Module):
    """A transformers model whose sites switch width; it is called like the model itself.

    Attributes:
        model: the transformers model, patched.
        sites: its quantizable layers, in order.
        adapters: the specs of the LoRA adapters, by name.
        settings: how it was made switchable.
        unquantized: the numbers of parameters that no bitmap rounds.
        switches: what switching writes to, one per site, in the order of the sites.
        packed_widths: the packed widths, from low to high, once its weights are dropped; None before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: BaseModel,
        adapters: Mapping[str, AdapterSpec],
        settings: SwitchSettings,
        switches: Sequence[SwitchableSite],
        origin: Origin,
    ) -> None:
        super().__init__()
        self.model, self.base, self.adapters, self.settings = model, base, dict(adapters), settings
        self.base_digest, self.unquantized = origin.digest, origin.unquantized
        self.switches = list(switches)
        self.sites = tuple(switch.site for switch in switches)
        self.packed_widths: tuple[WeightWidth, ...] | None = None
        self._site_names = tuple(site.name for site in self.sites)
        self._cache_is_known = origin.cache_is_known
        self._tokens = share_tokens(model, settings.quantization)
        share_inputs(model, (switch.linear.input_quantizer for switch in switches))
        self._blocks = checkpointed_blocks(model)
        self._warned: set[tuple[int, str | None]] = set()
        self.bitmap = self.set_bitmap(self._first_bitmap(), quiet=True)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        base: BaseModel,
        adapters: Mapping[str, AdapterSpec] | None = None,
        settings: SwitchSettings | None = None,
    ) -> Self:
        """Make ``model`` switchable in place, with fresh adapters that are drawn from torch's generator.

        Exactly the parameters of :meth:`trainable_groups` then require a gradient. It starts at the highest width that
        has an adapter of its own under policy ``exact``, and at full precision otherwise.

        Raises:
            BadInputError: Settings, adapters and model do not fit together.
        """
        adapters, settings = dict(adapters or {}), settings or SwitchSettings()
        settings.check_adapters(adapters)
        sites = settings.sites_of(model)
        origin = Origin.of(model, sites, settings)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        switches = patch(model, sites, adapters, settings)
        for group in trainable_groups(model, base.head, adapters, settings).values():
            for parameter in group.values():
                parameter.requires_grad_(True)
        return cls(model, base, adapters, settings, switches, origin)

    @property
    def site_names(self) -> tuple[str, ...]:
        """The names of the sites, in order."""
        return self._site_names

    @property
    def outer_layers(self) -> list[nn.Module]:
        """Return the outermost module of each site that multiplies; its output is the output of the site."""
        return [switch.lora or switch.linear for switch in self.switches if not switch.site.is_embedding]

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        device: torch.device = self.model.device
        return device

    def check_length(self, tokens: int, what: str) -> None:
        """Check that the model has positions for ``tokens``, which ``what`` names.

        Raises:
            BadInputError: It has fewer.
        """
        check_length(self, tokens, what)

    @property
    def policy(self) -> AdapterPolicy:
        """Which adapter serves a width without one."""
        return self.settings.policy

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the transformers model at the current bitmap."""
        if self.training:
            keep_switches(self._blocks, self._states, self._restore)
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``generate`` of the transformers model at the current bitmap, which quantizes the KV cache too."""
        return self.model.generate(*args, **kwargs)

    def set_bitmap(self, bitmap: Bitmap | str | int, *, quiet: bool = False) -> Bitmap:
        """Run at ``bitmap`` from now on; this takes O(sites) and copies no weight.

        Args:
            bitmap: any form of :meth:`Bitmap.parse`.
            quiet: whether a width whose adapter stands in for its own goes without a warning.

        Returns:
            The bitmap, parsed.

        Raises:
            BadInputError: A site or width is unknown, a width has no adapter under policy ``exact``, a packed model
                does not hold one, a quantizer cannot have a group size, or the bitmap has a KV width in a family whose
                cache is not known.
        """
        parsed = bitmap if isinstance(bitmap, Bitmap) else Bitmap.parse(bitmap, self.site_names)
        if parsed.sites != self.site_names:
            parsed = Bitmap.from_json(parsed.to_json(), self.site_names)
        self._check_widths(parsed)
        if not self._cache_is_known and any(layer.kv != FULL_PRECISION for layer in parsed.values()):
            raise BadInputError(
                f"a KV width needs to know where {type(self.model).__name__} keeps its keys and values: got {parsed}; "
                "take a form with weight and activation only, such as w8a8"
            )
        adapted = {layer.weight for site, layer in zip(self.sites, parsed.values(), strict=True) if site.has_adapter}
        chosen = {bits: self.adapter_at(bits, quiet=quiet) for bits in adapted}
        for switch, layer in zip(self.switches, parsed.values(), strict=True):
            switch.set(layer, chosen[layer.weight] if switch.site.has_adapter else None)
        self.bitmap = parsed
        return parsed

    @contextmanager
    def at(self, bitmap: Bitmap | str | int | None = None, *, eval: bool = False) -> Iterator[Bitmap]:
        """Run at ``bitmap`` inside the block; then, after an error too, at the former bitmap and in the former mode.

        Args:
            bitmap: any form of :meth:`Bitmap.parse`; None stays at the present one, for a block that sets its own.
            eval: whether the model is in eval mode inside the block.

        Returns:
            The bitmap, parsed, as the block's value.

        Raises:
            BadInputError: as :meth:`set_bitmap`; the model is then as it was.
        """
        before, training = self.bitmap, self.training
        try:
            if eval:
                self.eval()
            yield before if bitmap is None else self.set_bitmap(bitmap)
        finally:
            self.train(training)
            self.set_bitmap(before, quiet=True)

    def adapter_at(self, bits: int, *, quiet: bool = False) -> str | None:
        """Return the adapter that serves sites of ``bits``, None for no branch; the log mentions a stand-in once,
        unless ``quiet``.

        Raises:
            BadInputError: The width has none under policy ``exact``.
        """
        name = lora.adapter_for(bits, tuple(self.adapters), self.policy)
        if not quiet and self.adapters and name not in (str(bits), lora.SHARED) and (bits, name) not in self._warned:
            self._warned.add((bits, name))
            stand_in = "without one" if name is None else f"with adapter {name}"
            _log.warning("sites at %d bits have no adapter: they run %s (%s)", bits, stand_in, self.policy)
        return name

    def use_adapter(self, name: str | None) -> None:
        """Run one adapter (None runs no branch) at every site, whatever the widths, until the next bitmap."""
        if name is not None and name not in self.adapters:
            raise BadInputError(f"no adapter {name!r}: there are {sorted(self.adapters)}")
        if self.packed_widths is not None and self.settings.merge is MergeOrder.MERGE_THEN_QUANTIZE:
            raise BadInputError("merge_then_quantize packs a width's adapter with its weight: set a bitmap instead")
        for switch in self.switches:
            switch.use(name)

    def _check_widths(self, bitmap: Bitmap) -> None:
        held = self.packed_widths
        for site, layer in zip(self.sites, bitmap.values(), strict=True):
            if layer.group_size is not None:
                check_width_of(site, layer.weight_width)
            if held is not None and layer.weight_width not in held:
                raise BadInputError(
                    f"a packed model runs at the widths it holds, {listed(held)}: got {layer.weight_width}"
                )

    def pack_for_inference(self, widths: Sequence[int | str | GroupedWidth]) -> None:
        """Keep packed integers of ``widths`` only and drop the weights permanently (:mod:`qalof.model.packing`).

        A width is a number, or in groups of 32 ``"4g32"``.

        A model at a bitmap with other widths is set to the lowest of them, with inputs and cache unquantized.

        Raises:
            BadInputError: The model is packed already, no width or an illegal one is given, one has no adapter under
                policy ``exact``, or its settings need its weights.
        """
        if self.packed_widths is not None:
            raise BadInputError(f"a model is packed once: it holds {listed(self.packed_widths)}; load it again")
        chosen = check_packable(self.sites, self.settings, widths)
        adapters = {width: self.adapter_at(int(bits_of(width))) for width in chosen}
        pack_sites(self.switches, adapters, self.settings.merge)
        self.packed_widths = tuple(chosen)
        if not {layer.weight_width for layer in self.bitmap.values()} <= set(chosen):
            self.set_bitmap(Bitmap.uniform(self.site_names, f"w{chosen[0]}"))
        self.eval()

    def kernels(self) -> dict[str, Kernel]:
        """Return the kernel of each site at the current bitmap; see :mod:`qalof.model.layers.packed_weight`."""
        return {switch.site.name: switch.linear.kernel() for switch in self.switches}

    def held_bytes(self) -> dict[WeightWidth, int]:
        """Return, by width, the bytes of the rounded weights that all sites hold for it."""
        total: dict[WeightWidth, int] = {}
        for switch in self.switches:
            for width, count in switch.linear.held_bytes().items():
                total[width] = total.get(width, 0) + count
        return total

    def recompute_activations(self) -> None:
        """Keep only the blocks' inputs for the backward pass, and run each block again for its gradient.

        A block runs again with the bits and adapters of its own forward (:mod:`qalof.model.activation_checkpointing`).
        """
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def _first_bitmap(self) -> Bitmap:
        own = [int(name) for name in self.adapters if name != lora.SHARED]
        # under ``exact`` a model without an adapter for full precision cannot start there
        start = max(own) if self.policy is AdapterPolicy.EXACT and own else FULL_PRECISION
        cache = start if self._cache_is_known else FULL_PRECISION
        return Bitmap.uniform(self.site_names, LayerBits(start, start, cache))

    def _states(self) -> tuple[Shown | None, list[tuple[LayerBits, str | None]]]:
        return self._tokens.shown, [switch.state for switch in self.switches]

    def _restore(self, then: tuple[Shown | None, list[tuple[LayerBits, str | None]]]) -> None:
        self._tokens.shown, states = then
        for switch, state in zip(self.switches, states, strict=True):
            switch.set(*state)

    def initialize(self) -> None:
        """Give fresh branches the inits that decompose weights; drawn inits are in place already."""
        initialize(self.switches, self.adapters)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of a task head by path; a causal LM has none, since its head is pretrained."""
        return head_parameters(self.model, self.base.head)

    def trainable_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Return the trainable parameters by owner, whether active or not; :mod:`qalof.model.trainable` lists them."""
        return trainable_groups(self.model, self.base.head, self.adapters, self.settings)

    @property
    def rest(self) -> Rest:
        """Return what a packed form of this model holds alongside the weights of its sites, for total costs."""
        return rest_of(self.unquantized, self.adapters, self.settings, self.switches)

    def storage(self, bitmap: Bitmap | str | int) -> Storage:
        """Return the stored size of the model at ``bitmap``, with all its adapters; see :mod:`qalof.cost`."""
        copies = len(self.adapters) * self.unquantized.norms if self.settings.norms.copies else 0
        branches = sum(spec.parameters(self.sites) for spec in self.adapters.values())
        stored = storage_of(Bitmap.parse(bitmap, self.site_names), self.sites, self.unquantized, branches + copies)
        return replace(stored, quantizer_bytes=self.rest.quantizer_bytes)


def build(
    base: BaseModel,
    adapters: Mapping[str, AdapterSpec] | None = None,
    settings: SwitchSettings | None = None,
    *,
    seed: int = 0,
    pretrained: PreTrainedModel | None = None,
) -> SwitchableModel:
    """Load ``base`` and make it switchable, with fresh adapters drawn from ``seed``.

    ``pretrained`` is ``base.load()`` where the caller has it already; it is patched in place.

    Raises:
        BadInputError: Settings, adapters and model do not fit together.
    """
    model = pretrained or base.load()
    with torch.random.fork_rng(devices=[]), portable_draws():
        torch.manual_seed(seed)
        switchable = SwitchableModel.of(model, base, adapters, settings)
        switchable.initialize()
        return switchable
