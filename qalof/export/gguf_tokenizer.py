"""A byte-level BPE tokenizer in a GGUF file.

A reader splits text by a regular expression that the file only names (:mod:`qalof.model.byte_level_splits`); a test
shows that llama.cpp then gives the same tokens. Everything else (SentencePiece, other expressions, a leading space) is
refused: a file with another tokenizer would load without an error and answer badly.  Qwen2 normalizes to NFC, which
llama.cpp does not: text that is not in NFC already is read differently there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from qalof.errors import BadInputError
from qalof.model.byte_level_splits import split_name


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Write ``tokenizer`` for an embedding of ``rows``.

    Raises:
        BadInputError: The tokenizer is not a byte-level BPE that readers know.
    """
    from gguf import TokenType as kinds

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise BadInputError(f"a GGUF tokenizer is a byte-level BPE: got {model['type']} with byte_fallback")
    names = _names(tokenizer, described, kinds)
    if len(names) and max(names) >= rows:
        raise BadInputError(f"an embedding must have a row for each token: {rows} rows for {max(names) + 1} tokens")
    # an embedding may have more rows than there are tokens, and a reader needs a name for each
    every = [names.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(described))
    writer.add_token_list([token for token, _ in every])
    writer.add_token_types([kind for _, kind in every])
    pairs = model["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
    ):
        if number is not None:
            add(number)
    begins = tokenizer("")["input_ids"][:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begins == [tokenizer.bos_token_id])


def pre_tokenizer_name(described: Mapping[str, Any]) -> str:
    """Return GGUF's name of the way in which a ``tokenizer.json`` splits text.

    Raises:
        BadInputError: The way is not known.
    """
    name = split_name(described["pre_tokenizer"])
    normalizer = (described.get("normalizer") or {}).get("type")
    if name is not None and normalizer in ((None, "NFC") if name in ("llama-bpe", "qwen2") else (None,)):
        return name
    law = "a GGUF tokenizer splits text as GPT-2, Llama 3, Qwen2 or SmolLM do, without a leading space"
    raise BadInputError(
        f"{law}: got {json.dumps(described['pre_tokenizer'])[:200]} after normalizer {normalizer}; "
        "export packed instead"
    )


def _names(tokenizer: PreTrainedTokenizerBase, described: Mapping[str, Any], kinds: Any) -> dict[int, tuple[str, Any]]:
    added = {token["id"]: token["special"] for token in described["added_tokens"]}
    special = set(tokenizer.all_special_ids) | {number for number, control in added.items() if control}
    return {
        number: (
            token,
            kinds.CONTROL if number in special else kinds.USER_DEFINED if number in added else kinds.NORMAL,
        )
        for token, number in tokenizer.get_vocab().items()
    }
