"""Words that fit a place in a text, from a real masked language model in a folder: BERT-Attack's own proposals.

The model, of the BERT kind in Hugging Face format with its masked-language-modeling head, reads the whole *unmasked*
text once, and its K likeliest tokens at the word's place are the candidates, as in the paper and its code.  What is no
whole word (a continuation such as ``##ing``, a sign, a special token) is dropped.  A word of several pieces is replaced
by one mask token, and the likeliest words there are taken; the paper combines proposals for each of its pieces, of
which few are words.  A longer text than the model reads is cut to a window around the word.

The stand-in without a download is :class:`~qalof.attacks.substitutes.left_context.LeftContext`.  The sentence encoder
``cache:all-MiniLM-L6-v2`` does not serve, since it was published without its head.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from qalof.attacks.substitutes.bert_folder import bert_folder, load_bert, longest_text
from qalof.attacks.words import Words, cased
from qalof.errors import BadInputError
from qalof.precision import at_least_float32

LEFT_CONTEXT = "left-context"
"""The name of the stand-in: a causal model that reads what stands before the place."""

_WHAT = "masked language model"
_WAY_OUT = f"give the folder of a model such as BERT with its masked-language-modeling head, or {LEFT_CONTEXT!r}"
_SPARE = 2
"""How many special tokens surround a text."""


class MaskedWords:
    """See the module's docstring.

    Args:
        source: a folder, or ``cache:NAME``.
        most: candidates for a word.
        device: where the model runs.

    Raises:
        BadInputError: as :func:`check_masked_lm`, or its weights do not load.
    """

    def __init__(self, source: str, most: int, device: Any = "cpu") -> None:
        folder = check_masked_lm(source)
        self._device, self._most = torch.device(device), most
        self._model, self._tokenizer = _loaded(folder, str(self._device))
        self._longest = longest_text(self._model) - _SPARE
        self._ends = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id
        self.name = f"{_WHAT} {Path(folder).name}"

    @torch.no_grad()
    def candidates(self, words: Words, index: int) -> list[str]:
        """Return words for the place ``index``, the likeliest first, with the capitals of the word there but without
        it.
        """
        own, before = words.words[index], words.before(index)
        after = words.text[len(before) + len(own) :]
        left, here, right = (self._ids(text) for text in (before, own, after))
        here = here if len(here) == 1 else [int(self._tokenizer.mask_token_id)]
        left = left[-(self._longest // 2) :]
        right = right[: self._longest - len(left) - 1]
        start, end = ([] if each is None else [int(each)] for each in self._ends)
        row = torch.tensor([[*start, *left, *here, *right, *end]], device=self._device)
        logits = at_least_float32(self._model(input_ids=row).logits[0, len(start) + len(left)])
        likeliest = logits.topk(min(self._most + 1, len(logits))).indices.tolist()
        found = [str(token) for token in self._tokenizer.convert_ids_to_tokens(likeliest)]
        whole = [word for word in found if word.isalpha() and word.lower() != own.lower()]
        return [cased(word, own) for word in whole][: self._most]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def check_masked_lm(source: str) -> str:
    """Return the folder of a masked language model.

    Raises:
        BadInputError: there is no such folder, or it holds no model with a masked-language-modeling head.
    """
    folder, config, both = bert_folder(source, _WHAT, _WAY_OUT)
    heads = [str(name) for name in config.architectures or []]
    if not both or not any(head.endswith("MaskedLM") for head in heads):
        said = " and ".join(heads) or config.model_type
        raise BadInputError(f"a {_WHAT} must have its head: {source} holds {said}; {_WAY_OUT}")
    return folder


@lru_cache(maxsize=1)
def _loaded(folder: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_bert(AutoModelForMaskedLM, folder, device, _WHAT, _WAY_OUT)
    if tokenizer.mask_token_id is None or not any(token.startswith("##") for token in tokenizer.get_vocab()):
        raise BadInputError(
            f"a {_WHAT} must have a mask token, and pieces of words that begin with ##: {folder} has not; {_WAY_OUT}"
        )
    return model, tokenizer
