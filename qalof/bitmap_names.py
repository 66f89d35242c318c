"""Short ids and one-line summaries of bitmaps keep the output readable for models with many sites.

A bitmap of 210 sites is a text of hundreds of characters.  What people read has its *id* instead: a letter and five
more characters, the digest of the text that :class:`~qalof.bitmap.Bitmap` prints.  The same widths in the same order
have the same id in every run and on every machine; the files of a run hold the bitmap itself, and
:mod:`qalof.bitmap_file` finds it there by its id.  A text that is short anyway (``4``, ``w4a8kv8``, ``8x2,4x2``) is its
own name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

from qalof.layer_bits import FULL_PRECISION, AnyWidth, GroupedWidth, LayerBits, width_order

SHORT = 12
"""How many characters the text of a bitmap may have to be its name."""

ID_LENGTH = 6
_TEXT = re.compile(r"[0-9wgakvx,]+")
_MOST_WIDTHS = 5
"""A summary counts this many widths of one kind separately."""


class Sized(Protocol):
    """The facts about a site that a summary needs."""

    @property
    def name(self) -> str:
        """Its path."""
        ...

    @property
    def weights(self) -> int:
        """The number of its weights."""
        ...

    @property
    def kv_features(self) -> int:
        """The number of features per token that it puts into the KV cache."""
        ...


def text_of(layers: Iterable[LayerBits]) -> str:
    """Return the runs of equal layers, ``8x12,4x4``; there is one entry where all are alike."""
    runs = [(bits, len(list(run))) for bits, run in groupby(layers)]
    if len(runs) == 1:
        return str(runs[0][0])
    return ",".join(f"{bits}x{count}" if count > 1 else str(bits) for bits, count in runs)


def bitmap_id(bitmap: Mapping[str, LayerBits] | str) -> str:
    """Return six lower-case characters; the first is a letter, so an id is never mistaken for a position in a file."""
    digest = hashlib.sha256(_text(bitmap).encode()).digest()
    rest = base64.b32encode(digest[1:]).decode().lower()
    return chr(ord("a") + digest[0] % 26) + rest[: ID_LENGTH - 1]


def is_id(text: str) -> bool:
    """Return whether ``text`` has the form of an id."""
    return len(text) == ID_LENGTH and text[:1] in "abcdefghijklmnopqrstuvwxyz" and text.isascii() and text.isalnum()


def short_name(bitmap: Mapping[str, LayerBits] | str) -> str:
    """Return a bitmap's own text where it is short, otherwise ``#`` and its id.

    A text that is not that of a bitmap, such as an objective's name of the bitmaps that it draws, is returned as it is.
    """
    text = _text(bitmap)
    return text if len(text) <= SHORT or not _TEXT.fullmatch(text) else f"#{bitmap_id(text)}"


def summary(bitmap: Mapping[str, LayerBits], sites: Sequence[Sized] | None = None) -> str:
    """Return one line such as ``4.5 bits: 62 % of weights at 4g32, 38 % at 6; activations at 8; KV at 8``.

    The bits are those of codes, without scales; ``4g32`` is 4 bits in groups of 32, and ``k8v4`` keys at 8 and values
    at 4.  Activations and KV cache are
    mentioned where their widths are not those of the weights at every site.

    Args:
        bitmap: any.
        sites: of its model, which say how many weights each site has; None counts sites instead.
    """
    known = {site.name: site for site in sites or ()}
    sizes = {name: known[name].weights if known else 1 for name in bitmap}
    weights = _shares({name: bits.weight_width for name, bits in bitmap.items()}, sizes)
    average = sum(bits.weight * sizes[name] for name, bits in bitmap.items()) / sum(sizes.values())
    counted = "weights" if known else "sites"
    first = f"{average:.4g} bits" if average == int(average) else f"{average:.2f} bits"
    (only, *others) = weights
    if others:
        parts = [f"{first}: {_told(weights, counted)}"]
    else:
        parts = [f"{first} in groups of {only.group_size}" if isinstance(only, GroupedWidth) else first]
    inputs = {name: bits.activation for name, bits in bitmap.items()}
    if any(bits != bitmap[name].weight for name, bits in inputs.items()):
        parts.append(f"activations {_told(_shares(inputs, dict.fromkeys(inputs, 1)), 'sites')}")
    cached = {name: bits.kv for name, bits in bitmap.items() if not known or known[name].kv_features}
    if any(bits != bitmap[name].weight for name, bits in cached.items()):
        if not known:  # a width where nothing is cached means nothing, and 32 stands for it too
            cached = {name: bits for name, bits in cached.items() if bits != FULL_PRECISION} or cached
        features = {name: known[name].kv_features if known else 1 for name in cached}
        parts.append(f"KV {_told(_shares(cached, features), 'it' if known else 'sites')}")
    return "; ".join(parts)


def _text(bitmap: Mapping[str, LayerBits] | str) -> str:
    return bitmap if isinstance(bitmap, str) else text_of(bitmap.values())


def _shares(widths: Mapping[str, AnyWidth], sizes: Mapping[str, int]) -> dict[AnyWidth, float]:
    """Return width -> its share of the sizes, from few bits to many."""
    counts: Counter[AnyWidth] = Counter()
    for name, bits in widths.items():
        counts[bits] += sizes[name]
    total = sum(counts.values())
    return {bits: counts[bits] / total for bits in sorted(counts, key=width_order)}


def _told(shares: Mapping[AnyWidth, float], what: str) -> str:
    """Return ``at 8``, or ``62 % of weights at 4, 38 % at 6``."""
    if len(shares) == 1:
        return f"at {next(iter(shares))}"
    largest = sorted(shares, key=lambda bits: -shares[bits])[:_MOST_WIDTHS]
    parts = [f"{_percent(shares[bits])} at {bits}" for bits in sorted(largest, key=width_order)]
    if rest := len(shares) - len(largest):
        parts.append(f"{rest} more widths")
    first, *others = parts
    return ", ".join([first.replace(" at ", f" of {what} at ", 1), *others])


def _percent(share: float) -> str:
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"
