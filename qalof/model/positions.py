"""How many tokens a model takes at once: the one place that reads it, and the one law on what must fit."""

from __future__ import annotations

from typing import Any

from qalof.errors import BadInputError


def positions_of(model: Any) -> int | None:
    """Return how many tokens a switchable or transformers model takes at once; None where its config does not say."""
    positions = getattr(getattr(model, "model", model).config, "max_position_embeddings", None)
    return None if positions is None else int(positions)


def check_length(model: Any, tokens: int, what: str) -> None:
    """Check that a switchable or transformers model has positions for ``tokens``, which ``what`` names.

    Raises:
        BadInputError: It has fewer.
    """
    check_fits(tokens, positions_of(model), what)


def check_fits(tokens: int, positions: int | None, what: str) -> None:
    """Check that ``tokens`` fit into ``positions``, of which None is any number; ``what`` names the tokens.

    Raises:
        BadInputError: They do not fit.
    """
    if positions is not None and tokens > positions:
        raise BadInputError(f"{what} must fit the model's {positions} positions: got {tokens}; reduce it")
