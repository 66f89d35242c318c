r"""How byte-level BPE tokenizers cut text before they merge, by the names that GGUF files give.

A GGUF file names the regular expression that splits its text and does not hold it.  Four are known here: GPT-2's, Llama
3's, Qwen2's, and that of SmolLM and StarCoder, which is GPT-2's after each digit was separated. Under another split the
same text becomes other tokens; a model then loads without an error and answers badly, so an unknown name is refused.
Sources: llama.cpp's ``llama-vocab.cpp``, and the ``tokenizer.json`` of each family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, pre_tokenizers

from qalof.errors import BadInputError, nearest_hint

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}
"""Each regular expression with the name that GGUF gives it."""

SAME = {
    "gpt-2": ("gpt-2", "default", "phi-2", "olmo"),
    "llama-bpe": ("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "falcon3"),
    "qwen2": ("qwen2", "deepseek-r1-qwen", "stablelm2"),
    "smollm": ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
}
"""The names of each split: the one that stands for it here -> all of them."""


def canonical(name: str) -> str:
    """Return the name that stands for the split of ``name``.

    Raises:
        BadInputError: The split is not known.
    """
    for known, names in SAME.items():
        if name in names:
            return known
    every = [other for names in SAME.values() for other in names]
    raise BadInputError(f"a GGUF file must split text in a known way: got {name!r}; {nearest_hint(name, every)}")


def pre_tokenizer(name: str) -> Any:
    """Return the pre-tokenizer of a split, for ``tokenizers``.

    Raises:
        BadInputError: The split is not known.
    """
    name = canonical(name)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "gpt-2":
        return whole
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    (pattern,) = [regex for regex, its in SPLITS.items() if its == name]
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def split_name(pre: Mapping[str, Any] | None) -> str | None:
    """Return the name of the split of the ``pre_tokenizer`` in a ``tokenizer.json``; None if it is not known."""
    whole: Any = pre or {}
    steps = whole["pretokenizers"] if whole.get("type") == "Sequence" else [whole]
    first, last = steps[0], steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        digits = first.get("type") == "Digits" and first.get("individual_digits")
        return "gpt-2" if len(steps) == 1 else "smollm" if len(steps) == 2 and digits else None
    if len(steps) == 2 and first.get("type") == "Split" and first["behavior"] == "Isolated":
        return SPLITS.get(first["pattern"].get("Regex", ""))
    return None
