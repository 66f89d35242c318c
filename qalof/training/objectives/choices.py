"""Choices say which bitmaps run at a step: pure functions of the step, and of a seed where something is drawn.

==================  =============================================================================================
AllBitmaps          all of them at every step (S1, S3; S2's spnet and instantnet)
InTurn              one per step, again and again (S2's cyclic)
RandomChoice        ``count`` different ones, drawn uniformly; 1 is random precision training (Double-Win Quant)
SandwichChoice      the highest, the lowest and ``middle`` others, drawn uniformly (slimmable networks)
LayerwiseChoice     bitmaps in which each site draws its own width, with the highest bitmap as a teacher
CurriculumChoice    bitmaps join for good at given shares of the steps (InstantNet's progressive lists)
==================  =============================================================================================

The sandwich draws without repetition. InstantNet's code draws its two middle widths with repetition, so they may
coincide and the work of a step varies. S1 to S3 are systems of docs/systems.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qalof.bitmap import Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.training.objectives.draws import BITMAPS, generator


class Choice(Protocol):
    """A choice says what runs at a step."""

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return one or more different bitmaps, in any order; they are the same on every worker."""
        ...

    def made_up(self, step: int) -> dict[Bitmap, str]:
        """Return the bitmaps at ``step`` that belong to no fixed list, each with a name."""
        ...


class FromPool:
    """Base of choices from a fixed list."""

    def made_up(self, step: int) -> dict[Bitmap, str]:
        """Return no label, since no bitmap is drawn anew."""
        return {}


@dataclass(frozen=True)
class AllBitmaps(FromPool):
    """All bitmaps of ``pool`` run at every step."""

    pool: tuple[Bitmap, ...]

    def __post_init__(self) -> None:
        _check_pool(self.pool)

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return all of them."""
        return self.pool


@dataclass(frozen=True)
class InTurn(FromPool):
    """One bitmap runs per step, in the order given."""

    pool: tuple[Bitmap, ...]

    def __post_init__(self) -> None:
        _check_pool(self.pool)

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return the bitmap whose turn it is."""
        return [self.pool[step % len(self.pool)]]


@dataclass(frozen=True)
class RandomChoice(FromPool):
    """``count`` different bitmaps run per step."""

    pool: tuple[Bitmap, ...]
    count: int
    seed: int

    def __post_init__(self) -> None:
        _check_pool(self.pool)
        _check_count("count", self.count, 1, len(self.pool))

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return the draw of this step."""
        return _drawn(self.pool, self.count, self.seed, step)


@dataclass(frozen=True)
class SandwichChoice(FromPool):
    """The ends of ``pool``, which goes from high to low, run at every step, and ``middle`` others."""

    pool: tuple[Bitmap, ...]
    middle: int
    seed: int

    def __post_init__(self) -> None:
        _check_pool(self.pool, least=2)
        _check_count("the number of random widths between the ends", self.middle, 0, len(self.pool) - 2)

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return the highest bitmap, the draw of this step, and the lowest."""
        return [self.pool[0], *_drawn(self.pool[1:-1], self.middle, self.seed, step), self.pool[-1]]


@dataclass(frozen=True)
class LayerwiseChoice:
    """``count`` bitmaps, in which each site draws its own width of ``widths``, run alongside ``always``.

    Draws that coincide with one another or with ``always`` run once.
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    count: int
    seed: int
    always: tuple[Bitmap, ...] = ()

    def __post_init__(self) -> None:
        if not self.widths or len(set(self.widths)) != len(self.widths):
            raise BadInputError(f"draws per layer need one or more different widths: got {list(self.widths)}")
        _check_count("count", self.count, 1)

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return the bitmaps that always run, then the draws of this step."""
        return list(dict.fromkeys([*self.always, *self._draws(step)]))

    def made_up(self, step: int) -> dict[Bitmap, str]:
        """Return ``layerwise1``, ``layerwise2`` .. in the order drawn, since a draw hardly ever occurs twice."""
        fresh = [bitmap for bitmap in dict.fromkeys(self._draws(step)) if bitmap not in self.always]
        return {bitmap: f"layerwise{place}" for place, bitmap in enumerate(fresh, 1)}

    def _draws(self, step: int) -> list[Bitmap]:
        layers = [LayerBits.of(bits) for bits in self.widths]
        drawn = generator(self.seed, BITMAPS, step).integers(len(layers), size=(self.count, len(self.sites)))
        return [Bitmap({site: layers[i] for site, i in zip(self.sites, row, strict=True)}) for row in drawn]


@dataclass(frozen=True)
class CurriculumChoice(FromPool):
    """Bitmap i of ``pool`` runs after the share ``joins[i]`` of ``steps``."""

    pool: tuple[Bitmap, ...]
    joins: tuple[float, ...]
    steps: int

    def __post_init__(self) -> None:
        _check_pool(self.pool)
        if len(self.joins) != len(self.pool):
            raise BadInputError(
                f"a curriculum needs one share for each bitmap: got {len(self.joins)} for {len(self.pool)} bitmaps"
            )
        if not all(0 <= share < 1 for share in self.joins):
            raise BadInputError(f"a bitmap must join at a share of the steps in [0, 1): got {list(self.joins)}")
        if min(self.joins) > 0:
            raise BadInputError(f"some bitmap must run from the start, at share 0: got {list(self.joins)}")

    @classmethod
    def evenly(cls, pool: tuple[Bitmap, ...], steps: int) -> CurriculumChoice:
        """Add one bitmap after each n-th part of the steps, in the order given."""
        return cls(pool, tuple(i / len(pool) for i in range(len(pool))), steps)

    def at(self, step: int) -> Sequence[Bitmap]:
        """Return the bitmaps that have joined."""
        # a share such as 2/3 is not a float: rounding keeps its bitmap from joining one step late
        starts = [round(share * self.steps) for share in self.joins]
        return [bitmap for bitmap, start in zip(self.pool, starts, strict=True) if step >= start]


def _drawn(pool: Sequence[Bitmap], count: int, seed: int, step: int) -> list[Bitmap]:
    places = generator(seed, BITMAPS, step).choice(len(pool), size=count, replace=False) if count else ()
    return [pool[int(place)] for place in places]


def _check_pool(pool: Sequence[Bitmap], least: int = 1) -> None:
    if len(pool) < least or len(set(pool)) != len(pool):
        law = "one or more different bitmaps" if least == 1 else f"{least} or more different bitmaps"
        raise BadInputError(f"switchable precision needs {law}: got {[str(bitmap) for bitmap in pool]}")


def _check_count(what: str, count: int, least: int, most: int | None = None) -> None:
    if count < least or (most is not None and count > most):
        law = f"be at least {least}" if most is None else f"lie between {least} and {most}"
        raise BadInputError(f"{what} must {law}: got {count}")
