"""What a switchable model holds alongside the weights of its sites, as the plain values that :mod:`qalof.cost`
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qalof.cost import Rest
from qalof.errors import BadInputError
from qalof.layer_bits import WIDTHS
from qalof.model.adapters import AdapterSpec, adapter_for
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.packed_weight import bytes_in
from qalof.model.patch import SwitchableSite
from qalof.model.settings import SwitchSettings
from qalof.site import Unquantized


def rest_of(
    unquantized: Unquantized,
    adapters: Mapping[str, AdapterSpec],
    settings: SwitchSettings,
    switches: Sequence[SwitchableSite],
) -> Rest:
    """Return the rest of a packed model; under ``merge_then_quantize`` adapters are in the weights and take nothing."""
    ranks = adapter_ranks(adapters, settings)
    merged = settings.merge is MergeOrder.MERGE_THEN_QUANTIZE
    state = [q.state_dict() for s in switches for q in (s.linear.input_quantizer, *s.linear.kv_quantizers)]
    return Rest(
        unquantized,
        {} if merged else ranks,
        frozenset(ranks) if merged else frozenset(),
        sum(bytes_in(dict(tensors)) for tensors in state),
    )


def adapter_ranks(adapters: Mapping[str, AdapterSpec], settings: SwitchSettings) -> dict[int, int]:
    """Return the rank of the adapter that serves each weight width, without the widths that have none."""
    ranks = {}
    for bits in WIDTHS:
        try:
            name = adapter_for(bits, tuple(adapters), settings.policy)
        except BadInputError:
            continue  # no bitmap can have this width under policy exact
        if name is not None:
            ranks[bits] = adapters[name].rank
    return ranks
