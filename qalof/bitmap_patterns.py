"""Bitmaps by name: patterns that say which sites get which width, for any number of blocks.

Written ``name:form/form/...``, each form one site's bits (``8``, ``w4``, ``w4a8``); where every width is one
digit, ``striped84`` is short for ``striped:8/4``.

=================  =========================================================================================
``all:8``          every site, the head included
``striped:8/4``    blocks in turns, the first width first (S2; S1 to S3 are systems of docs/systems.md)
``hybrid:8/4``     the second width at the attention's output projection in the first third of the blocks and
                   everywhere in the last quarter, the first width elsewhere (S1: blocks 0 to 3 and 9 to 11 of 12)
``components:``    attention / MLP, and perhaps / head (S3's component grid); S1's attention-only and MLP-only
                   maps are ``components:4/8`` and ``components:8/4``
``thirds:``        first / middle / last third of the blocks, and perhaps / head (S3's layer grid)
=================  =========================================================================================

Only names are looked at, as everywhere in :mod:`qalof.bitmap`.  Sites outside the blocks are the head, and OPT's
projections around its blocks: stripes and the hybrid leave them at the first width, since the head is the most
sensitive site at low widths (S3); the two grids give them the head's width, or 32 where it is not named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qalof.errors import BadInputError, nearest_hint
from qalof.layer_bits import FULL_PRECISION, LayerBits

Forms = Sequence[LayerBits]
Layers = list[LayerBits]

_NAMED = re.compile(r"([a-z]+):?(.*)$")
_ATTENTION = re.compile(r"attn|attention")
_MLP = re.compile(r"mlp|ffn|feed_forward|fc\d?$|fc_(in|out)$")
_OUTPUT_PROJECTIONS = ("c_proj", "o_proj", "out_proj", "dense")


def expand(text: str, sites: Sequence[str]) -> Layers | None:
    """Return the layer bits of each site under a pattern, or None where ``text`` is not a pattern.

    Raises:
        BadInputError: The pattern has the wrong number of widths, or it cannot place a site.
    """
    match = _NAMED.match(text)
    # a lone form such as w4a8 also starts with a letter
    if match is None or re.match(r"w[0-9]", text):
        return None
    name, rest = match.groups()
    if name not in _PATTERNS:
        return None
    counts, place = _PATTERNS[name]
    forms = [LayerBits.parse(form) for form in _split(rest, max(counts))]
    if len(forms) not in counts:
        wanted = " or ".join(str(count) for count in counts)
        raise BadInputError(f"pattern {name} takes {wanted} widths, like {_EXAMPLES[name]}: got {text!r}")
    return place(forms, sites)


def known(text: str) -> str:
    """Return a hint at the pattern that ``text`` may have meant."""
    return nearest_hint(re.sub(r"[^a-z].*", "", text), _PATTERNS)


def block_name(site: str) -> str:
    """Return the path up to its first number, ``h.3`` for ``h.3.mlp.c_fc``; the whole path where there is none."""
    parts = site.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return site


def numbered_blocks(sites: Sequence[str]) -> list[int | None]:
    """Return the index of each site's block in order of appearance; None for a site outside the blocks."""
    order: dict[str, int] = {}
    found: list[int | None] = []
    for site in sites:
        block = block_name(site)
        found.append(None if block == site else order.setdefault(block, len(order)))
    return found


def component_of(site: str) -> str:
    """Return ``attention``, ``mlp``, or ``head`` for a site outside the blocks.

    Raises:
        BadInputError: a path that names neither attention nor an MLP.
    """
    block = block_name(site)
    if block == site:
        return "head"
    inside = site.removeprefix(block)
    if _ATTENTION.search(inside):
        return "attention"
    if any(_MLP.match(part) for part in inside.split(".")):
        return "mlp"
    raise BadInputError(f"a component map needs sites of attention or MLP: {site!r} is neither; write a JSON bitmap")


def _split(rest: str, most: int) -> list[str]:
    if most > 1 and "/" not in rest and rest.isascii() and rest.isdigit():
        return list(rest)  # striped84
    return rest.split("/") if rest else []


def _all(forms: Forms, sites: Sequence[str]) -> Layers:
    return [forms[0]] * len(sites)


def _striped(forms: Forms, sites: Sequence[str]) -> Layers:
    return [forms[(block or 0) % 2] for block in numbered_blocks(sites)]


def _hybrid(forms: Forms, sites: Sequence[str]) -> Layers:
    blocks = numbered_blocks(sites)
    count = _count(blocks)
    early, late = max(1, round(count / 3)), count - max(1, round(count / 4))

    def low(site: str, block: int | None) -> bool:
        if block is None:
            return False
        projection = site.rsplit(".", 1)[-1] in _OUTPUT_PROJECTIONS and bool(_ATTENTION.search(site))
        return block >= late or (block < early and projection)

    return [forms[low(site, block)] for site, block in zip(sites, blocks, strict=True)]


def _components(forms: Forms, sites: Sequence[str]) -> Layers:
    components = [component_of(site) for site in sites]
    head = _head(forms, 2, components.count("head"))
    widths = {"attention": forms[0], "mlp": forms[1], "head": head}
    return [widths[component] for component in components]


def _thirds(forms: Forms, sites: Sequence[str]) -> Layers:
    blocks = numbered_blocks(sites)
    count, head = _count(blocks), _head(forms, 3, blocks.count(None))
    return [head if block is None else forms[3 * block // count] for block in blocks]


def _count(blocks: Sequence[int | None]) -> int:
    return 1 + max((block for block in blocks if block is not None), default=0)


def _head(forms: Forms, index: int, outside: int) -> LayerBits:
    if len(forms) <= index:
        return LayerBits.of(FULL_PRECISION)
    if not outside:
        raise BadInputError(
            f"a pattern may give the head a width only where it is a site: got {forms[index]}; "
            "leave it out, or build the model with another head_mode than none"
        )
    return forms[index]


_PATTERNS: dict[str, tuple[tuple[int, ...], Callable[[Forms, Sequence[str]], Layers]]] = {
    "all": ((1,), _all),
    "striped": ((2,), _striped),
    "hybrid": ((2,), _hybrid),
    "components": ((2, 3), _components),
    "thirds": ((3, 4), _thirds),
}
_EXAMPLES = {
    "all": "all8",
    "striped": "striped84",
    "hybrid": "hybrid84",
    "components": "components:4/8 or components:4/8/8 with the head",
    "thirds": "thirds:5/4/4 or thirds:5/4/4/4 with the head",
}
