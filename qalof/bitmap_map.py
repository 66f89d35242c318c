"""A bitmap as a map: kinds of layer by blocks, so 210 or 2,000 sites are seen at a glance.

The place of a site is read from its name: ``layers.3.mlp.up_proj`` is the kind ``mlp.up_proj`` of block 3.  A site
outside the blocks, such as a head, is a kind of its own with one entry.  Only the last part of a kind's path is shown
where that distinguishes the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qalof.bitmap_patterns import block_name, numbered_blocks
from qalof.layer_bits import AnyWidth, KvWidth, LayerBits

ROLES = ("weight", "activation", "kv")
"""What a site has a width each for."""


@dataclass(frozen=True)
class BlockMap:
    """``kinds`` by ``blocks``; ``widths[kind][block]`` is a site's width, None where a block has no such site."""

    kinds: tuple[str, ...]
    blocks: int
    widths: tuple[tuple[AnyWidth | None, ...], ...]


def block_map(bitmap: Mapping[str, LayerBits], role: str = "weight") -> BlockMap:
    """Return the widths of ``role``, by kind of layer and block, both in the model's order."""
    names = list(bitmap)
    blocks = numbered_blocks(names)
    kinds = {name: _kind(name) for name in names}
    places = {
        (kinds[name], block or 0): width_of(bitmap[name], role) for name, block in zip(names, blocks, strict=True)
    }
    rows = list(dict.fromkeys(kinds.values()))
    count = 1 + max((block for block in blocks if block is not None), default=0)
    widths = tuple(tuple(places.get((kind, block)) for block in range(count)) for kind in rows)
    return BlockMap(tuple(_shortened(rows)), count, widths)


def width_of(bits: LayerBits, role: str) -> AnyWidth:
    """Return a site's width of ``role``; that of a weight has its group size where it has one."""
    if role == "weight":
        return bits.weight_width
    width: KvWidth = getattr(bits, role)
    return width


def maps_worth_showing(bitmap: Mapping[str, LayerBits]) -> list[str]:
    """Return the roles to draw: weights always, others where they are neither uniform nor the weights' widths."""
    shown = [ROLES[0]]
    for role in ROLES[1:]:
        widths = [getattr(bits, role) for bits in bitmap.values()]
        if len(set(widths)) > 1 and widths != [bits.weight for bits in bitmap.values()]:
            shown.append(role)
    return shown


def _kind(name: str) -> str:
    block = block_name(name)
    return name.removeprefix(f"{block}.") if block != name else name


def _shortened(kinds: Sequence[str]) -> list[str]:
    """Return the last part of each kind where that distinguishes them, otherwise the kind itself."""
    last = [kind.rsplit(".", 1)[-1] for kind in kinds]
    return last if len(set(last)) == len(last) else list(kinds)
