"""Searches for the free tokens of a prompt, one substitution at a time (docs/methods/attacks.md, "arca").

The objective of a prompt x for a target o, in nats:

    J(x) = log p(o | x) - lambda * meanNLL(x)

meanNLL runs over the prompt's tokens, a fixed prefix included, but for the first, before which there is nothing.  Each
step proposes prompts that differ in one token, reads them, and goes to the best of them.  How a token v at place i is
rated before anything is read:

    score(v) = E_v . g + lambda / (n - 1) * log p(v | x_<i),     g = dJ / d(embedding at i)

The second term is exact, since the tokens before i do not change; only the rest of J is linearized.  The proposals:

- ``arca``: places in turn; g is the mean over ``candidates`` random tokens at i; the best ``candidates`` are read.
- ``autoprompt``: the same with g at the token that stands there.
- ``hotflip``: as autoprompt, and the first is taken: the argmax of (E_v - E_current) . g.
- ``gcg``: a step is a whole sweep; of all places' ``pool`` best tokens ``candidates`` are drawn and read.

J is what is differentiated and what is maximized.  (The official ARCA takes the mean over o for the one and the sum for
the other, so lambda has another weight there.)  An attacker who knows that precisions are drawn
(:mod:`qalof.attacks.robustness.adaptive`) takes the mean of J over them, and counts a prompt as a success where more
than half of them, by weight, say the output; the present prompt is then read again beside each step's proposals, so
all meet the same draws.  Under ``monotone`` the prompt stays as it is where nothing read is
better; otherwise the best of what was read is taken even if it is worse, as the official code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch

from qalof.attacks.elicitation import MOST, Elicitation, greedy_hits
from qalof.attacks.victim import BATCH, embedding_matrix
from qalof.errors import BadInputError
from qalof.precision import at_least_float32


class Proposal(StrEnum):
    """The rule by which a step chooses the prompts that it reads."""

    ARCA = "arca"
    AUTOPROMPT = "autoprompt"
    HOTFLIP = "hotflip"
    GCG = "gcg"


class Reading(NamedTuple):
    """The numbers of one prompt: J, log p(o | x), meanNLL in nats, and whether o is its greedy continuation; over
    several precisions, the means of the three, and whether most say o.
    """

    objective: float
    log_probability: float
    nll: float
    elicits: bool


@dataclass
class CoordinateSearch:
    """A search for one target at the bitmap that the victim is set to, or over its precisions; see the module's
    docstring.

    ``allowed``: tokens to choose from; ``places``: indices of the free tokens in a prompt; ``weight``: lambda;
    ``generator``: on the CPU, so all devices draw alike.

    Attributes:
        queries: prompts that the victim has read, for a gradient or not.
        unspelt: proposals that were dropped because their text is tokenized otherwise.
    """

    goal: Elicitation
    target: Sequence[int]
    allowed: Sequence[int]
    places: range
    proposal: Proposal
    candidates: int
    pool: int
    weight: float
    monotone: bool
    generator: torch.Generator
    queries: int = 0
    unspelt: int = 0

    def __post_init__(self) -> None:
        self.embedding = embedding_matrix(self.goal.model)
        self.device = self.embedding.device
        self._allowed = torch.tensor(self.allowed)
        self._forbidden = torch.ones(len(self.embedding), dtype=torch.bool, device=self.device)
        self._forbidden[self._allowed.to(self.device)] = False

    @property
    def steps_a_sweep(self) -> int:
        """The number of steps: one per place, or one for all places with ``gcg``."""
        return 1 if self.proposal == Proposal.GCG else len(self.places)

    def step(self, index: int, row: list[int], reading: Reading) -> tuple[list[int], Reading]:
        """Return the prompt to continue with, and its reading."""
        rows = self.proposals(index, row)
        if not rows:
            return row, reading
        if self.goal.victim.precisions is not None:
            reading, *readings = self.read([row, *rows])
        else:
            readings = self.read(rows)
        found, best = max(zip(rows, readings, strict=True), key=lambda pair: pair[1].objective)
        return (row, reading) if self.monotone and not best.objective > reading.objective else (found, best)

    def proposals(self, index: int, row: list[int]) -> list[list[int]]:
        """Return prompts that differ from ``row`` in at most one free token, all spelled ones, the best first (but for
        ``gcg``).
        """
        if self.proposal == Proposal.GCG:
            changes = self._drawn(row)
        else:
            place = self.places[index % len(self.places)]
            (scores,) = self._masked([row] if self.proposal != Proposal.ARCA else self._random(row, place), [place])
            changes = [(place, token) for token in scores.topk(self._most(2 * self._read_at_once)).indices.tolist()]
        rows = [[*row[:place], token, *row[place + 1 :]] for place, token in dict.fromkeys(changes)]
        # the present prompt competes anyway, so it need not be read again
        rows = [changed for changed in rows if changed != row or not self.monotone]
        spelled = [changed for changed, kept in zip(rows, self.goal.spelled(rows), strict=True) if kept]
        self.unspelt += len(rows) - len(spelled)
        return spelled[: self._read_at_once]

    def scores(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> torch.Tensor:
        """Return the score of every token at each place, as the mean over ``rows``: (len(places), V).

        ``rows`` are alike but at the one place, if they are several.
        """
        prompts = torch.tensor(rows, device=self.device)
        found = torch.zeros(len(places), len(self.embedding), dtype=self.embedding.dtype, device=self.device)
        for share in self.goal.victim.readings():
            found += share * self._scores(prompts, places)
            self.queries += len(rows)
        return found

    def _scores(self, prompts: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return the scores at the bitmap that the model is set to."""
        ids = self._with_target(prompts)
        embedded = self.embedding[ids].requires_grad_()
        logits = self.goal.model(inputs_embeds=embedded, use_cache=False).logits
        log_p = at_least_float32(logits[:, :-1]).log_softmax(-1)
        log_probability, nll = _terms(log_p, ids, prompts.shape[1])
        (gradient,) = torch.autograd.grad((log_probability - self.weight * nll).sum(), [embedded])
        found = gradient[:, list(places)].mean(0) @ self.embedding.T
        if self.weight and prompts.shape[1] > 1:
            for index, place in enumerate(places):
                if place:  # before the first token there is nothing
                    found[index] += self.weight / (prompts.shape[1] - 1) * log_p[0, place - 1].detach()
        return found

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[int]]) -> list[Reading]:
        """Read prompts of equal length exactly."""
        total = torch.zeros(len(rows), 3, dtype=torch.float64)
        for share in self.goal.victim.readings():
            total += share * self._read(rows)
            self.queries += len(rows)
        return [Reading(log_p - self.weight * nll, log_p, nll, said > MOST) for log_p, nll, said in total.tolist()]

    def _read(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return log p(o | x), meanNLL, and 1 for a success, at the bitmap that the model is set to: (rows, 3)."""
        found = []
        for start in range(0, len(rows), BATCH):
            prompts = torch.tensor(rows[start : start + BATCH], device=self.device)
            ids = self._with_target(prompts)
            logits = self.goal.model(input_ids=ids, use_cache=False).logits
            log_p, nll = _terms(at_least_float32(logits[:, :-1]).log_softmax(-1), ids, prompts.shape[1])
            hits = greedy_hits(logits, ids, prompts.shape[1])
            found.append(torch.stack([log_p.double(), nll.double(), hits.double()], dim=1).cpu())
        return torch.cat(found)

    def initial(self, prefix: Sequence[int], tokens: int, generator: torch.Generator) -> list[int]:
        """Return ``prefix`` and ``tokens`` allowed tokens after it, drawn one by one so their text is tokenized as
        them.

        Raises:
            BadInputError: No such token can follow.
        """
        row = list(prefix)
        for _ in range(tokens):
            order = self._allowed[torch.randperm(len(self._allowed), generator=generator)].tolist()
            drawn = next((token for token in order if self.goal.spelled([[*row, token]])[0]), None)
            if drawn is None:
                text = self.goal.decode(row)
                raise BadInputError(
                    f"a prompt must be what its text is tokenized to: no token can follow {text!r}; take another prefix"
                )
            row.append(drawn)
        return row

    @property
    def _read_at_once(self) -> int:
        return 1 if self.proposal == Proposal.HOTFLIP else self.candidates

    def _most(self, count: int) -> int:
        return min(count, len(self.allowed))

    def _masked(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> torch.Tensor:
        return self.scores(rows, places).masked_fill_(self._forbidden, -torch.inf)

    def _random(self, row: list[int], place: int) -> list[list[int]]:
        drawn = self._allowed[torch.randint(len(self._allowed), (self.candidates,), generator=self.generator)]
        return [[*row[:place], token, *row[place + 1 :]] for token in drawn.tolist()]

    def _drawn(self, row: list[int]) -> list[tuple[int, int]]:
        pool = self._most(self.pool)
        best = self._masked([row], self.places).topk(pool).indices.tolist()
        places, ranks = (
            torch.randint(most, (self.candidates,), generator=self.generator).tolist()
            for most in (len(self.places), pool)
        )
        return [(self.places[place], best[place][rank]) for place, rank in zip(places, ranks, strict=True)]

    def _with_target(self, prompts: torch.Tensor) -> torch.Tensor:
        target = torch.tensor(list(self.target), device=self.device)
        return torch.cat([prompts, target.expand(len(prompts), -1)], dim=1)


def _terms(log_p: torch.Tensor, ids: torch.Tensor, prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p(o | x) and meanNLL(x), 0 for a prompt of one token.  (B, n - 1, V), (B, n) -> (B,), (B,)."""
    token = log_p.gather(-1, ids[:, 1:, None])[..., 0]
    before = token[:, : prompt - 1]
    nll = -before.mean(-1) if prompt > 1 else torch.zeros_like(token[:, 0])
    return token[:, prompt - 1 :].sum(-1), nll
