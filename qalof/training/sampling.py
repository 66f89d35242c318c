"""Sampling with a result that does not depend on the batch, the thread count or the machine.

The next token is the argmax of ``logits / temperature + noise``, with Gumbel noise that is a hash of (seed, sample,
position, token): this is a draw from the softmax (the Gumbel-max trick) that needs no generator and therefore no order.
Without noise it is the greedy token. One problem remains: the last bits of a logit in fp32 depend on the batch, the
padding and the threads. So wherever the best token leads by less than ``MARGIN``, which is far more than such
differences, that one prefix is computed again, alone and in fp64, and decides. The lead of a Gumbel-perturbed maximum
is below m with a probability of about m, so one token in a thousand costs a second pass. Drawing from the cumulative
distribution was rejected: among 50,000 tokens a boundary is always near.

The hash is the finalizer of SplitMix64 (Steele et al., 2014) on 64-bit integers, which wrap alike on every machine.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from transformers import PreTrainedModel

from qalof.laws import Law, Positive, check_numbers

MARGIN = 1e-3
"""The margin in units of logits over temperature; fp32 logits of GPT-2 differ by about 1e-4 between batches."""

_SAMPLING = 3
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class SamplingRule:
    """``temperature`` divides the logits; ``top_k`` keeps the likeliest tokens and those that tie with the last of
    them.
    """

    temperature: Positive = 1.0
    top_k: Annotated[int, Law(ge=0, off="0 keeps all tokens, 1 is greedy")] = 0

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class Plan:
    """A text to write: its first tokens, its length when sampling begins, and its greatest length."""

    index: int
    start: tuple[int, ...]
    greedy_until: int
    longest: int


@dataclass(frozen=True)
class Written:
    """The tokens of a text, from its start to before its stopping token; ``ended`` says whether it reached one."""

    ids: list[int]
    ended: bool


def random_share(seed: int, index: int, draw: int) -> float:
    """Return a uniform number in [0, 1) that is a function of the arguments."""
    return (_key(seed, index, draw, 0) >> 11) * 2.0**-53


def gumbel_noise(seed: int, places: Sequence[tuple[int, int]], size: int, device: torch.device) -> torch.Tensor:
    """Return standard Gumbel noise (len(places), size), fp64, for the token ids at each (sample, position)."""
    keys = [_signed(_key(seed, index, _SAMPLING, position)) for index, position in places]
    ids = torch.arange(1, size + 1, dtype=torch.int64, device=device)
    state = ids * _signed(_GOLDEN) + torch.tensor(keys, dtype=torch.int64, device=device)[:, None]
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    state = state ^ _shift(state, 31)
    # this is the middle of one of 2^53 equal parts, so it is neither 0 nor 1, whose logarithms are not finite
    share = (_shift(state, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(share))


class Writer:
    """Writes texts with one model, a causal LM in eval mode, each until a token of ``stops``.

    ``decided_again`` counts the tokens that have taken a second pass in fp64.
    """

    def __init__(self, model: PreTrainedModel, rule: SamplingRule, seed: int, stops: Collection[int]) -> None:
        self.model, self.rule, self.seed, self.stops = model, rule, seed, frozenset(stops)
        self.decided_again = 0
        self._exact: Any = None

    @torch.no_grad()
    def write(self, plans: Sequence[Plan]) -> list[Written]:
        """Write the texts of ``plans`` together, with a KV cache; a text that has ended leaves the batch."""
        texts = [_Text(plan) for plan in plans]
        live = [text for text in texts if len(text.ids) < text.plan.longest]
        state = _State(self.model)
        logits = state.begin(live) if live else None
        while live and logits is not None:
            tokens = self._next(live, logits)
            kept = [place for place, token in enumerate(tokens) if live[place].take(token, self.stops)]
            live = [live[place] for place in kept]
            logits = state.go_on(kept, live) if live else None
        return [Written(text.ids, text.ended) for text in texts]

    def _next(self, live: Sequence[_Text], logits: torch.Tensor) -> list[int]:
        noise = self._noise(live, logits)
        tokens, sure = (found.tolist() for found in pick(logits, noise, self.rule, MARGIN))
        for place, text in enumerate(live):
            if not sure[place]:
                exact = self._exact_logits(text.ids)[None]
                tokens[place] = int(pick(exact, noise[place : place + 1], self.rule, 0.0)[0])
                self.decided_again += 1
        return tokens

    def _noise(self, live: Sequence[_Text], logits: torch.Tensor) -> torch.Tensor:
        noise = logits.new_zeros(logits.shape, dtype=torch.float64)
        drawn = [place for place, text in enumerate(live) if len(text.ids) >= text.plan.greedy_until]
        if drawn:
            places = [(live[place].plan.index, len(live[place].ids)) for place in drawn]
            noise[drawn] = gumbel_noise(self.seed, places, logits.shape[1], logits.device)
        return noise

    def _exact_logits(self, ids: Sequence[int]) -> torch.Tensor:
        if self._exact is None:
            self._exact = copy.deepcopy(self.model).double()
        row = torch.tensor([list(ids)], device=self.model.device)
        logits: torch.Tensor = self._exact(input_ids=row, logits_to_keep=1).logits[0, -1]
        return logits


class _Text:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.ids, self.ended = plan, list(plan.start), False

    def take(self, token: int, stops: Collection[int]) -> bool:
        """Add a token, and return whether the text continues."""
        if token in stops:
            self.ended = True
            return False
        self.ids.append(token)
        return len(self.ids) < self.plan.longest


class _State:
    """The model's cache over a batch; shorter prompts are padded on the left and masked."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device = model, model.device
        self.cache: Any = None
        self.mask = torch.empty(0)

    def begin(self, live: Sequence[_Text]) -> torch.Tensor:
        """Return logits (B, V) after the start of each text."""
        longest = max(len(text.ids) for text in live)
        ids = torch.tensor([[0] * (longest - len(t.ids)) + t.ids for t in live], device=self.device)
        self.mask = torch.tensor([[0] * (longest - len(t.ids)) + [1] * len(t.ids) for t in live], device=self.device)
        return self._run(ids, (self.mask.cumsum(dim=1) - 1).clamp(min=0))

    def go_on(self, kept: Sequence[int], live: Sequence[_Text]) -> torch.Tensor:
        """Return logits (B', V) after the last token of the texts that continue, which were the rows ``kept``
        before.
        """
        if len(kept) < len(self.mask):
            rows = torch.tensor(kept, device=self.device)
            self.cache.batch_select_indices(rows)
            self.mask = self.mask[rows]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(live), 1)], dim=1)
        ids = torch.tensor([[text.ids[-1]] for text in live], device=self.device)
        return self._run(ids, self.mask.sum(dim=1, keepdim=True) - 1)

    def _run(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        logits: torch.Tensor = out.logits[:, -1]
        return logits


def pick(
    logits: torch.Tensor, noise: torch.Tensor, rule: SamplingRule, margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next tokens (B,), and (B,) whether each stays if logits over temperature move by ``margin`` / 2 at
    most.

    Args:
        logits: (B, V).
        noise: (B, V) fp64; zeros for a greedy token, which ``top_k`` never changes.
        rule: temperature and top_k.
        margin: the margin in units of logits over temperature; 0 where the logits are exact.
    """
    scores = logits.double() / rule.temperature
    perturbed, sure = scores + noise, torch.ones_like(logits[:, 0], dtype=torch.bool)
    if 0 < rule.top_k < scores.shape[1]:
        last, next_one = scores.topk(rule.top_k + 1).values[:, -2:].unbind(dim=1)
        clear = last - next_one > margin
        # where the top_k border is not clear, tokens just below it compete too, and only a token well inside it wins
        # for sure
        lowest = torch.where(clear, last, last - 2 * margin)
        perturbed = torch.where(scores >= lowest[:, None], perturbed, -torch.inf)
        winner = scores.gather(1, perturbed.argmax(dim=1, keepdim=True))[:, 0]
        sure = clear | (winner > last + 2 * margin)
    best = perturbed.topk(2)
    return best.indices[:, 0], (best.values[:, 0] - best.values[:, 1] > margin) & sure


def _key(*parts: int) -> int:
    key = 0
    for part in parts:
        key = _mixed((key ^ (part & _WORD)) + _GOLDEN)
    return key


def _mixed(word: int) -> int:
    word &= _WORD
    word = (word ^ (word >> 30)) * _FIRST & _WORD
    word = (word ^ (word >> 27)) * _SECOND & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(words: torch.Tensor, by: int) -> torch.Tensor:
    """Shift signed words to the right and fill up with zeros."""
    return (words >> by) & ((1 << (64 - by)) - 1)
