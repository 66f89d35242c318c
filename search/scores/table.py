"""A table of scores: the damage that each choice of each site is predicted to do, as a value and as a file.

A *role* is what is rounded: ``weight``, ``activation`` (the input of a site) or ``kv`` (keys and values in its output).
A *choice* is the text of a width as bitmaps write it, with an optional group size: ``4``, ``8``, ``4g32``; and of the
cache with a width for keys and one for values, ``k8v4``, whose score at a site that makes keys alone is that of ``8``.
Full precision is the choice ``32``; its damage is 0 without standing in the table. A table is computed once
(:mod:`search.scores.compute`) and serves every budget.

A *fingerprint* says what a table was computed of, part by part, so that a difference can be named:
``model:1a2b data:3c4d scheme:5e6f settings:7a8b``.  Reading a table needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from qalof.digests import content_digest
from qalof.errors import BadInputError, nearest_hint
from qalof.files import read_json, write_json
from qalof.layer_bits import FULL_PRECISION

FORMAT_VERSION = 1
ROLES = ("weight", "activation", "kv")
FULL = str(FULL_PRECISION)
"""The choice that leaves a tensor as it is."""

Values = Mapping[str, Mapping[str, Mapping[str, float]]]
"""The damages by role, site and choice."""


@dataclass(frozen=True)
class ScoreTable:
    """Predicted damage by role, site and choice.

    Raises:
        BadInputError: A role does not exist, or a value is not a finite number.
    """

    score: str
    """The name of the score, such as ``fisher``."""
    unit: str
    """The unit of the values, such as ``nats``; empty for a plain number."""
    fingerprint: str
    """What the table was computed of: digests of model, data, scheme and settings."""
    values: Values
    """The damages by role, site and choice: 0 at full precision, and never negative unless the score measures a
    metric."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it was computed, as JSON: windows, tokens, seed, seconds, passes."""

    def __post_init__(self) -> None:
        for role, sites in self.values.items():
            if role not in ROLES:
                raise BadInputError(f"a role must be one of {', '.join(ROLES)}: got {role!r}")
            for site, choices in sites.items():
                for choice, value in choices.items():
                    _check_number(value, f"damage of {role} {site} at {choice}")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with a score in any role, in order."""
        return tuple(dict.fromkeys(site for sites in self.values.values() for site in sites))

    def choices(self, role: str) -> tuple[str, ...]:
        """Return the choices that some site has a score for, in order."""
        return tuple(dict.fromkeys(choice for choices in self.values.get(role, {}).values() for choice in choices))

    def damage(self, role: str, site: str, choice: str) -> float:
        """Return the damage of one choice at one site.

        Raises:
            BadInputError: The table does not have the role, the site or the choice.
        """
        if role not in self.values:
            raise BadInputError(
                f"the table of {self.score} scores must have the role {role!r}: it has {', '.join(self.values)}; "
                "compute it with choices for this role"
            )
        sites = self.values[role]
        if site not in sites:
            raise BadInputError(
                f"the table of {self.score} scores has no {role} score of site {site!r}; {nearest_hint(site, sites)}"
            )
        choices = sites[site]
        if choice in choices:
            return choices[choice]
        if choice == FULL:
            return 0.0
        raise BadInputError(
            f"the table of {self.score} scores must have {role} {choice} at {site}: it has {', '.join(choices)}; "
            "compute it with this choice"
        )

    def check_for(self, fingerprint: str, sites: Iterable[str]) -> None:
        """Refuse a table that was computed of something else.

        Args:
            fingerprint: what the table must have been computed of; a part that it leaves out may be anything.
            sites: the names of the sites that must have scores.

        Raises:
            BadInputError: A part of the fingerprint differs, or a site is missing; the error names it.
        """
        own = set(self.sites)
        missing = [site for site in sites if site not in own]
        if missing:
            raise BadInputError(
                f"a table of scores must have every site: {len(missing)} missing, first {missing[0]!r}; it is the "
                "table of another model or of other settings, compute it anew"
            )
        ours, theirs = _parts(self.fingerprint), _parts(fingerprint)
        differing = [part for part, digest in theirs.items() if ours.get(part) != digest]
        if differing:
            named = " and ".join(f"{part} ({ours.get(part)} in the table, {theirs[part]} here)" for part in differing)
            raise BadInputError(f"a table serves what it was computed of: it has another {named}; compute it anew")

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, next to ``path`` first, then renamed.

        Raises:
            DiskError: The disk takes no more; an older file is as it was.
        """
        content = self.to_json()
        write_json(Path(path), content | {"digest": content_digest(content)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: The file is missing, damaged, or of another version.
        """
        data = read_json(Path(path), "score file")
        if not isinstance(data, dict) or "digest" not in data:
            raise BadInputError(f"score file {path} is no table of scores; `qalof sensitivity` writes one")
        content = {key: value for key, value in data.items() if key != "digest"}
        if content.get("format_version") != FORMAT_VERSION:
            raise BadInputError(
                f"score file {path} must have format version {FORMAT_VERSION}: got {content.get('format_version')!r}; "
                "compute it anew"
            )
        if content_digest(content) != data["digest"]:
            raise BadInputError(f"score file {path} is damaged: it does not match its digest; compute it anew")
        try:
            return cls.from_json(content)
        except (AttributeError, KeyError, TypeError) as error:
            raise BadInputError(f"score file {path} is damaged: {error!r}; compute it anew") from None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; :meth:`from_json` reads it back."""
        values = {
            role: {site: {choice: float(value) for choice, value in choices.items()} for site, choices in sites.items()}
            for role, sites in self.values.items()
        }
        return {
            "format_version": FORMAT_VERSION,
            "score": self.score,
            "unit": self.unit,
            "fingerprint": self.fingerprint,
            "values": values,
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: A role does not exist, or a value is not a finite number.
        """
        return cls(
            str(data["score"]), str(data["unit"]), str(data["fingerprint"]), data["values"], dict(data["details"])
        )


def fingerprint_of(**parts: str) -> str:
    """Return the fingerprint with these parts, such as ``model=digest``; a digest is shortened to 16 characters."""
    return " ".join(f"{part}:{digest[:16]}" for part, digest in parts.items())


def _parts(fingerprint: str) -> dict[str, str]:
    """Return the digests of a fingerprint by part; a text without parts is one part, ``fingerprint``."""
    pieces = [piece.partition(":") for piece in fingerprint.split()]
    if not all(digest for _, _, digest in pieces):
        return {"fingerprint": fingerprint}
    return {part: digest for part, _, digest in pieces}


def _check_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInputError(f"{what} must be a finite number: got {value!r}; compute the table anew")
