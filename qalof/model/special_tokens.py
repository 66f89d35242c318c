"""Special tokens that a task needs are requested before anything starts."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerBase

from qalof.errors import BadInputError


def special_token(tokenizer: PreTrainedTokenizerBase, kind: Literal["bos", "eos"], what: str, way_out: str) -> int:
    """Return the id of a tokenizer's token for the beginning or the end of a text.

    Args:
        tokenizer: the tokenizer of the model.
        kind: which of the two tokens.
        what: what needs the token; the message begins with it.
        way_out: what to do without the token; the message ends with it.

    Raises:
        BadInputError: The tokenizer has no such token.
    """
    found = tokenizer.bos_token_id if kind == "bos" else tokenizer.eos_token_id
    if found is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise BadInputError(f"{what} must have a tokenizer with a {kind} token: that of {name} has none; {way_out}")
    return int(found)
