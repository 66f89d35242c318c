"""Which sites of a model are chosen together: the units of a space.

=============  ============================================================================================
``site``       every site by itself
``block``      the sites of a block
``component``  the attention of a block, and its MLP
``fused``      layers that a runtime fuses into one matrix, which therefore have one format: query, key and value of a
               block, and the gate and up projections; every other site by itself
=============  ============================================================================================

Patterns in ``tied`` come first: the sites that match one of them are one unit, across blocks, such as ``*.v_proj``.
Only names are looked at, as in :mod:`qalof.bitmap_patterns`. A model that has its projections fused already, such as
GPT-2's ``c_attn``, has one site for them.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from qalof.bitmap_patterns import block_name, component_of
from qalof.errors import BadInputError, nearest_hint
from qalof.layer_bits import LayerBits

Group = Literal["site", "block", "component", "fused"]
GROUPS: tuple[str, ...] = typing.get_args(Group)

FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)
"""The last parts of the names of sibling layers that runtimes fuse."""

Members = tuple[int, ...]
"""The positions of its sites in the model's order."""


@dataclass(frozen=True)
class Unit:
    """Sites that are chosen together.

    ``name``: that of its site, or of what its sites have in common; ``sites``: their names, in order; ``members``:
    their positions in the model's order; ``menu``: the choices, from cheap to expensive, as the member has them that
    fills the KV cache, if any does.  Where a KV width means nothing at a site, its own choice says so.
    """

    name: str
    sites: tuple[str, ...]
    members: tuple[int, ...]
    menu: tuple[LayerBits, ...]

    @property
    def choices(self) -> int:
        """The number of choices."""
        return len(self.menu)


@dataclass(frozen=True)
class Grouping:
    """How sites become units.

    Attributes:
        group: the kind of unit.
        tied: patterns of site names, each of which makes one unit of all sites that match it; ``*`` also matches dots.

    Raises:
        BadInputError: There is no such kind of unit.
    """

    group: Group = "site"
    tied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            known = ", ".join(map(repr, GROUPS[:-1])) + f" or {GROUPS[-1]!r}"
            raise BadInputError(f"group must be {known}: got {self.group!r}")

    def units(self, names: Sequence[str]) -> list[tuple[str, Members]]:
        """Return the units of sites with these ``names``, each with its name and its members, in order.

        Raises:
            BadInputError: A pattern matches no site, or a site matches two patterns.
        """
        tied = [next(iter(patterns), None) for patterns in self._patterns(names)]
        groups: dict[str, list[int]] = {}
        for index, (name, pattern) in enumerate(zip(names, tied, strict=True)):
            groups.setdefault(pattern or self._key(name, names), []).append(index)
        return [(name, tuple(members)) for name, members in groups.items()]

    def _patterns(self, names: Sequence[str]) -> list[list[str]]:
        """Return the patterns that each site matches, of which there is at most one."""
        found = [[pattern for pattern in self.tied if fnmatchcase(name, pattern)] for name in names]
        for name, patterns in zip(names, found, strict=True):
            if len(patterns) > 1:
                raise BadInputError(f"a site may be tied once: {name} matches {patterns[0]!r} and {patterns[1]!r}")
        matched = {pattern for patterns in found for pattern in patterns}
        for pattern in self.tied:
            if pattern not in matched:
                raise BadInputError(f"tied must match a site: {pattern!r} matches none; {nearest_hint(pattern, names)}")
        return found

    def _key(self, name: str, names: Sequence[str]) -> str:
        block = block_name(name)
        if self.group == "site" or block == name:
            return name
        if self.group == "block":
            return block
        if self.group == "component":
            return f"{block}.{component_of(name)}"
        parent, _, leaf = name.rpartition(".")
        for leaves in FUSED:
            if leaf in leaves:
                present = [one for one in leaves if f"{parent}.{one}" in names]
                return f"{parent}.{'+'.join(present)}"
        return name
