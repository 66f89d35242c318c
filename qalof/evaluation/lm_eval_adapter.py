"""A switchable model as a model of lm-evaluation-harness, for the tasks that QaLoF does not score itself.

    model = qalof.load("runs/sp/checkpoint")
    model.set_bitmap("striped84")
    lm_eval.simple_evaluate(model=HarnessModel(model, tokenizer), tasks=["lambada_openai"])

This needs the extra ``zeroshot`` (``pip install qalof[zeroshot]``). The bitmap is the one that the model is set to. The
harness itself tokenizes pairs; scoring is :mod:`qalof.evaluation.loglikelihood`, which the task ``zero-shot`` uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from qalof.evaluation.loglikelihood import Pair, most_tokens, prefix_token, score_pairs


class HarnessModel(TemplateLM):
    """``model``: a switchable or transformers causal LM in eval mode; ``max_length`` None takes its positions."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.max_length = most_tokens(model) if max_length is None else max_length
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens

    @property
    def eot_token_id(self) -> int:
        """The id of eos."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that nothing precedes."""
        return prefix_token(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer in the harness's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return token ids, without special tokens unless they are requested."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=bool(add_special_tokens), verbose=False)["input_ids"]
        return ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Pair(context, continuation) for _, context, continuation in requests]
        scored, _ = score_pairs(self.model, pairs, self.max_length, self.batch_size)
        return [(score.log_likelihood, score.greedy) for score in scored]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in nats, each token scored once."""
        sums = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length,
                context_len=1,
            )  # fmt: skip
            pairs = [Pair(list(context), list(rest)) for context, rest in map(make_disjoint_window, windows)]
            scored, _ = score_pairs(self.model, pairs, self.max_length, self.batch_size)
            sums.append(sum(score.log_likelihood for score in scored))
        return sums

    @torch.no_grad()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations up to the first stop string; sampling settings other than greedy are refused.

        Raises:
            ValueError: The task asks for sampling.
        """
        found = []
        for context, options in (request.args for request in requests):
            if options.get("do_sample") and options.get("temperature", 1.0) > 0:
                raise ValueError(f"generation must be greedy here: got do_sample with {options}")
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            found.append(self._continue(context, stops, int(options.get("max_gen_toks", self.max_new_tokens))))
        return found

    def _continue(self, context: str, stops: Sequence[str], longest: int) -> str:
        ids = (self.tok_encode(context) or [self.prefix_token_id])[-max(1, self.max_length - longest) :]
        shown = torch.tensor([ids], device=self.model.device)
        out = self.model.generate(
            input_ids=shown,
            attention_mask=torch.ones_like(shown),
            max_new_tokens=min(longest, self.max_length - len(ids)),
            do_sample=False,
            pad_token_id=self.eot_token_id,
            eos_token_id=self.eot_token_id,
        )
        text: str = self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        return text[: min(places)] if places else text
