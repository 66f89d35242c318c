"""Measured latencies: how long each choice takes at each site of a model, on one machine.

``qalof profile`` with ``measures: [latency]`` makes a table (:mod:`qalof.evaluation.site_latency` measures it).  A
search takes it as the cost ``latency_seconds``, the sum over sites of what their choices take.  What else a model does,
such as attention, norms and adapters, takes the same time at every bitmap and is not counted; the time to look a row of
an embedding up is not counted either.  A choice is the width of the weight, its group size, and the width of the input:
``w4g32a8``.  The width of the cache is not part of it.

Times are whole nanoseconds, so they add up exactly and a limit on their sum is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from qalof.digests import content_digest
from qalof.errors import BadInputError, nearest_hint
from qalof.files import read_json, write_json
from qalof.layer_bits import LayerBits
from qalof.site import Site

FORMAT_VERSION = 1
LATENCY = "latency_seconds"
"""The name of the cost."""


@dataclass(frozen=True)
class LatencyTable:
    """The nanoseconds of every choice by site.

    Raises:
        BadInputError: A time is not a whole number of nanoseconds of at least 0.
    """

    nanoseconds: Mapping[str, Mapping[str, int]]
    """The nanoseconds, by site and choice."""
    fingerprint: str
    """A digest of the sites that were measured: their names, shapes and quantizers."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The machine, and what was run on it: ``processor``, ``device``, ``threads``, ``tokens``, ``repeats``."""

    def __post_init__(self) -> None:
        for site, choices in self.nanoseconds.items():
            for choice, time in choices.items():
                if isinstance(time, bool) or not isinstance(time, int) or time < 0:
                    raise BadInputError(
                        f"a latency must be a whole number of nanoseconds, at least 0: got {time!r} for {choice} at "
                        f"{site}; measure the table anew"
                    )

    def of(self, site: Site, bits: LayerBits) -> int:
        """Return the nanoseconds of a choice at a site; 0 for a look-up in an embedding.

        Raises:
            BadInputError: The table lacks the site or the choice.
        """
        if site.is_embedding:
            return 0
        if site.name not in self.nanoseconds:
            raise BadInputError(
                f"a latency table must have every site: it has no {site.name!r}; "
                f"{nearest_hint(site.name, self.nanoseconds)}"
            )
        known, choice = self.nanoseconds[site.name], choice_of(bits)
        if choice not in known:
            raise BadInputError(
                f"a latency table must have every choice: {site.name} has {', '.join(known)}, not {choice}; profile a "
                "bitmap with it too, or leave it out of the menu"
            )
        return known[choice]

    def check_for(self, sites: Sequence[Site]) -> None:
        """Refuse sites that this table is not about.

        Raises:
            BadInputError: A site is missing, or sites have other shapes or quantizers.
        """
        for site in sites:
            if not site.is_embedding and site.name not in self.nanoseconds:
                self.of(site, LayerBits.of(8))
        if digest_of(sites) != self.fingerprint:
            raise BadInputError(
                "a latency table serves the model that it was measured on: it has another fingerprint, so shapes or "
                "quantizers differ; profile this model"
            )

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, next to ``path`` first, then renamed."""
        content = self.to_json()
        write_json(Path(path), content | {"digest": content_digest(content)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: The file is missing, damaged, of another version or of something else.
        """
        data = read_json(Path(path), "latency table")
        content = {key: value for key, value in data.items() if key != "digest"} if isinstance(data, dict) else {}
        if "nanoseconds" not in content or "digest" not in data:
            raise BadInputError(f"{path} is no latency table; `qalof profile` with measures=[latency] writes one")
        if content.get("format_version") != FORMAT_VERSION or content_digest(content) != data["digest"]:
            raise BadInputError(
                f"latency table {path} must have format version {FORMAT_VERSION} and match its digest: it does not; "
                "measure it anew"
            )
        return cls(content["nanoseconds"], str(content["fingerprint"]), content["details"])

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "details": dict(self.details),
            "nanoseconds": {site: dict(choices) for site, choices in self.nanoseconds.items()},
        }


def seconds(nanoseconds: int) -> float:
    """Return a sum of nanoseconds as the cost that it is."""
    return nanoseconds / 10**9


def choice_of(bits: LayerBits) -> str:
    """Return the name of a choice in a table, such as ``w4a8``."""
    return f"w{bits.weight_width}a{bits.activation}"


def digest_of(sites: Iterable[Site]) -> str:
    """Return the digest of what the time at sites depends on: names, shapes, biases and quantizers."""
    return content_digest(
        [[s.name, s.in_features, s.out_features, s.has_bias, s.quantization.to_json()] for s in sites]
    )
