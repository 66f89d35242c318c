"""Special tokens that a task cannot do without, asked for before anything starts."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerBase

from qalof.errors import BadInputError


def special_token(tokenizer: PreTrainedTokenizerBase, kind: Literal["bos", "eos"], what: str, way_out: str) -> int:
    """The id of a tokenizer's token for the beginning or the end of a text.

    Args:
        tokenizer: of the model.
        kind: which of the two.
        what: needs it; begins the message.
        way_out: ends the message.

    Raises:
        BadInputError: the tokenizer has no such token.
    """
    found = tokenizer.bos_token_id if kind == "bos" else tokenizer.eos_token_id
    if found is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise BadInputError(f"{what} must have a tokenizer with a {kind} token: that of {name} has none; {way_out}")
    return int(found)
