"""The laws of numbers say what a numeric setting may be, as data next to its type.

    steps: Annotated[int, Law(ge=1)] = 1000
    max_grad_norm: Annotated[float, Law(gt=0, off="null does not clip")] | None = 1.0

A law stands in the type, so one reader serves all settings: the core's dataclasses check theirs by
:func:`check_numbers`, pydantic's sections check theirs as they are validated, and a test walks every setting there is
and fails on a number without a law.  Bounds in ``__post_init__`` were rejected: they cannot be listed, so a missing one
would not be noticed.  pydantic's own ``Field(ge=1)`` was rejected because the core has no pydantic.

NaN and infinity break every law, and so do True and False, which Python counts as numbers.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from qalof.errors import BadInputError


@dataclass(frozen=True)
class Law:
    """Bounds of a number, which is finite in any case.

    Attributes:
        ge: the least value.
        gt: a value that must be exceeded.
        le: the greatest value.
        lt: a value that must not be reached.
        others: values outside the bounds that are legal too.
        off: what the value that switches the setting off is and does, such as ``null does not clip``.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    others: tuple[float, ...] = ()
    off: str = ""

    def holds(self, value: Any, whole: bool) -> bool:
        """Return whether ``value`` is a number, whole if ``whole``, within the bounds."""
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            return False
        number: Any = value
        if not isinstance(number, Integral) and not math.isfinite(number):
            return False
        return number in self.others or (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def text(self, whole: bool) -> str:
        """Return the law in words, such as ``a whole number of at least 1``."""
        if self.ge is not None and self.le is not None:
            bounds = f" from {self.ge} to {self.le}"
        else:
            words = (("of at least", self.ge), ("above", self.gt), ("of at most", self.le), ("below", self.lt))
            bounds = " and".join(f" {word} {bound}" for word, bound in words if bound is not None)
            bounds = bounds.replace(" and of", " and")
        others = "".join(f", or {other}" for other in self.others)
        kind = "a whole number" if whole else "a number" if bounds else "a finite number"
        return f"{kind}{bounds}{others}{f' ({self.off})' if self.off else ''}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let a pydantic model check the law as it validates the field; pydantic alone calls it."""
        from pydantic_core import ValidationError, core_schema

        whole = source is int

        def checked(value: Any, read: Any) -> Any:
            try:
                # text is read as pydantic reads it, for YAML takes 1e-3 for text
                number = value if isinstance(value, bool) else read(value)
            except ValidationError:
                number = None
            if not self.holds(number, whole):
                raise BadInputError(f"must be {self.text(whole)}: got {value!r}")
            return number

        return core_schema.no_info_wrap_validator_function(checked, handler(source))


Count = Annotated[int, Law(ge=1)]
"""A number of things of which there must be at least one."""

Natural = Annotated[int, Law(ge=0)]
"""A number of things of which there may be none."""

Seed = Annotated[int, Law(ge=0, lt=2**32)]
"""A seed of draws, within the range that NumPy's generators take."""

Width = Annotated[int, Law(ge=2, le=16, others=(32,), off="32 does not quantize")]
"""The bits of a number; see :data:`qalof.layer_bits.WIDTHS`."""

Finite = Annotated[float, Law()]
"""A number that is neither infinite nor NaN."""

Positive = Annotated[float, Law(gt=0)]
"""A size, a rate or a temperature."""

Weight = Annotated[float, Law(ge=0, off="0 leaves its term out")]
"""The weight of a term in a sum."""

Share = Annotated[float, Law(ge=0, le=1)]
"""A share of a whole."""


def law_in(hint: Any) -> Law | None:
    """Return the law of an annotated number; None for any other hint."""
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((each for each in typing.get_args(hint)[1:] if isinstance(each, Law)), None)


def bare(hint: Any) -> Any:
    """Return a hint without its annotations."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; for any other hint, the hint itself."""
    plain = bare(hint)
    return typing.get_args(plain) if typing.get_origin(plain) in (types.UnionType, typing.Union) else (hint,)


def numbers_in(hint: Any) -> Iterator[tuple[type, Law | None]]:
    """Yield every number that a hint allows at any depth, with its law or None where it has none."""
    plain = bare(hint)
    if plain in (int, float):
        yield plain, law_in(hint)
    elif typing.get_origin(plain) is not Literal:
        for inner in typing.get_args(plain):
            yield from numbers_in(inner)


def hints_of(kind: Any) -> Mapping[str, Any]:
    """Return the hints of a class's fields or a function's arguments, with their annotations."""
    return _hints(kind)


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def check_numbers(settings: Any, what: str = "") -> None:
    """Check every number of a dataclass, also those in its lists and mappings, against the law in its type.

    Args:
        settings: an instance.
        what: said before a field's name.

    Raises:
        BadInputError: names the field, its law and its value.
    """
    for name in type(settings).__dataclass_fields__:
        problem = _problem(getattr(settings, name), hints_of(type(settings))[name])
        if problem:
            raise BadInputError(f"{what}{' ' if what else ''}{name} must be {problem}")


def check_keywords(function: Any, given: Mapping[str, Any], what: str) -> None:
    """Check the numbers among the keyword arguments ``given`` to ``function`` against the laws in its annotations.

    Raises:
        BadInputError: names the argument, its law and its value.
    """
    hints = hints_of(function)
    for name, value in given.items():
        if problem := _problem(value, hints[name]):
            raise BadInputError(f"{what} {name} must be {problem}")


def _problem(value: Any, hint: Any) -> str | None:
    """Return ``LAW: got VALUE`` for the first number in ``value`` that breaks its law; None where none does."""
    options = options_of(hint)
    laws = [(option, law) for option in options if (law := law_in(option)) and bare(option) in (int, float)]
    if laws:
        if any(law.holds(value, bare(option) is int) for option, law in laws):
            return None
        # what another member of the union stands for is no number
        others = [option for option in options if bare(option) not in (int, float)]
        if not any(_is_of(value, bare(option)) for option in others):
            option, law = laws[0]
            return f"{law.text(bare(option) is int)}: got {value!r}"
    found: list[str] = []
    for option in options:
        parts = list(_parts(value, bare(option)))
        if any(bare(inner) is str and not isinstance(part, str) for part, inner in parts):
            continue  # what another member of the union stands for
        problem = next((problem for part, inner in parts if (problem := _problem(part, inner))), None)
        if parts and problem is None:
            return None
        found += [problem] if problem else []
    return found[0] if found else None


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value that is not a legal number fits another member of a union."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    return isinstance(value, kind) if isinstance(kind, type) else True


def _parts(value: Any, hint: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of a container, each with its hint."""
    arguments = typing.get_args(hint)
    if not arguments or isinstance(value, str):
        return
    if isinstance(value, Mapping) and len(arguments) == 2:
        yield from ((key, arguments[0]) for key in value)
        yield from ((each, arguments[1]) for each in value.values())
    elif isinstance(value, Sequence | AbstractSet):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        hints = inner if len(inner) == len(value) else inner[:1] * len(value)
        yield from zip(value, hints, strict=True)
