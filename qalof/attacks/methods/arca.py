"""ARCA searches a prompt that makes a language model say a fixed output (Jones et al., ICML 2023, arXiv 2303.04381).

Some random tokens, after a prefix if there is one, are improved one at a time
(:mod:`qalof.attacks.methods.coordinate_search`, which has AutoPrompt, HotFlip and GCG as well) until the output is the
prompt's greedy continuation, which is tested on the prompt's *text* (:mod:`qalof.attacks.elicitation`), or until the
sweeps are used up. S3 (docs/systems.md) runs it with the defaults, and with a prefix and a penalty on unlikely prompts:
``prefix="Donald Trump", sweeps=200, lambda_lm=1``.

In the record an example is a target.  The *original text* is the random prompt that the search began with: the same at
every bitmap, drawn from seed and example alone, and the unattacked control of the tables.  A target that this prompt
elicits already is skipped.  A failed attack leaves its prompt of the highest objective.  The losses are -J after each
step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch

from qalof.attacks.attack import Work
from qalof.attacks.elicitation import Elicitation, allowed_tokens
from qalof.attacks.methods.coordinate_search import CoordinateSearch, Proposal, Reading
from qalof.attacks.methods.gbda import example_seed
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.targets import HARMLESS, elicited
from qalof.attacks.victim import Precisions, embedding_matrix, frozen
from qalof.errors import BadInputError, nearest_hint
from qalof.laws import Count, Natural, Weight, check_numbers
from qalof.paths import PathField
from qalof.tasks.base import Task


@dataclass(frozen=True)
class ArcaSettings:
    """The settings of ARCA, and of AutoPrompt, HotFlip and GCG, which differ in how they propose tokens."""

    uses_lm: ClassVar[bool] = False
    """Whether the attack needs a second language model."""

    proposal: Proposal = Proposal.ARCA
    """The method by which tokens are proposed."""
    tokens: Count = 5
    """How many free tokens a prompt has, after ``prefix``."""
    prefix: str = ""
    """The text that every prompt begins with."""
    candidates: Count = 32
    """How many prompts are read per step (k)."""
    sweeps: Natural = 50
    """How often the search goes over all free places; for ``gcg``, how many steps it takes."""
    lambda_lm: Weight = 0.0
    """The weight of the prompt's mean NLL."""
    monotone: bool = True
    """Whether the search never goes to a worse prompt."""
    pool: Count = 256
    """How many of the best tokens per place ``gcg`` draws its candidates from (its paper has 512 candidates and 500
    steps)."""
    targets: Annotated[str, PathField(words=(HARMLESS,))] = HARMLESS
    """The outputs to elicit: ``harmless`` for the shipped list, or a UTF-8 file with one target per line."""
    max_length: Count = 32
    """The most tokens of prompt and target together."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.proposal not in list(Proposal):
            known = [str(proposal) for proposal in Proposal]
            hint = nearest_hint(self.proposal, known)
            raise BadInputError(f"proposal must be {', '.join(known)}: got {self.proposal!r}; {hint}")

    def examples(self, task: Task) -> list[AttackExample]:
        """Return the targets."""
        return elicited(task, self.targets, self.prefix)

    def work(self, tokens: int) -> Work:
        """Count the prompts that are read for a gradient, and others; the first reading and the last tests are left
        out.
        """
        steps = self.sweeps * (1 if self.proposal == Proposal.GCG else self.tokens)
        gradients = self.candidates if self.proposal == Proposal.ARCA else 1
        return Work(steps * gradients, steps * (1 if self.proposal == Proposal.HOTFLIP else self.candidates))

    def misfit(self, example: AttackExample, model: Any, tokenizer: Any) -> str | None:
        """Say why a target cannot be used: it has no tokens, is too long for the model, or no prompt can be made for
        it.
        """
        attack = self.build(model, tokenizer, None)
        try:
            attack.start(attack.search(example), example)
        except BadInputError as error:
            return str(error)
        return None

    def build(self, model: Any, tokenizer: Any, lm: Any, seed: int = 0, precisions: Precisions | None = None) -> Arca:
        """Build the attack on a causal LM; ``lm`` is not used."""
        return Arca(Elicitation(model, tokenizer, self.max_length, precisions), self, seed)

    def judge(self, model: Any, tokenizer: Any) -> Elicitation:
        """Return the judge of whether the target is the prompt's greedy continuation."""
        return Elicitation(model, tokenizer, self.max_length)


class _Found(NamedTuple):
    row: list[int]
    reading: Reading
    success: bool
    losses: tuple[float, ...]


class Arca:
    """See the module's docstring; an :class:`~qalof.attacks.attack.Attack` under the name of its proposal."""

    def __init__(self, goal: Elicitation, settings: ArcaSettings, seed: int = 0) -> None:
        self.goal, self.settings, self.seed = goal, settings, seed
        self.name = str(settings.proposal)

    def run(self, example: AttackExample) -> AttackResult:
        """Search a prompt for one target at the victim's bitmap, or in the mean over its precisions.

        Raises:
            BadInputError: Prompt and target are too long, or no prompt can be made.
        """
        self.goal.victim.begin(example.id)
        paid = self.goal.victim.queries_per_text
        search = self.search(example)
        with frozen(self.goal.model):
            start = self.start(search, example)
            original = self.goal.decode(start)
            if self.goal.elicits(original, example.target):
                return self._result(example, AttackStatus.SKIPPED, original, original, queries=paid)
            (first,) = search.read([start])
            found = self._ascend(search, example.target, start, first)
        return self._result(
            example,
            AttackStatus.SUCCESS if found.success else AttackStatus.FAILED,
            original,
            self.goal.decode(found.row),
            queries=paid + search.queries,
            samples=1,
            wrong_samples=int(found.success),
            losses=found.losses,
            measures={
                "log_probability": found.reading.log_probability,
                "prompt_nll": found.reading.nll,
                "unspelt_proposals": search.unspelt,
            },
        )

    def search(self, example: AttackExample) -> CoordinateSearch:
        """Return the search of a prompt for ``example``, with its own draws at every bitmap."""
        settings, goal = self.settings, self.goal
        target = goal.target(example.target)
        prefix = len(self._prefix(example))
        goal.check_length(prefix + settings.tokens, len(target))
        size = len(embedding_matrix(goal.model))
        seed = example_seed(self.seed, example.id, goal.victim.bitmap)
        return CoordinateSearch(
            goal, target, allowed_tokens(goal.tokenizer, size, target, example.target),
            range(prefix, prefix + settings.tokens), settings.proposal, settings.candidates, settings.pool,
            settings.lambda_lm, settings.monotone, torch.Generator().manual_seed(seed),
        )  # fmt: skip

    def start(self, search: CoordinateSearch, example: AttackExample) -> list[int]:
        """Return the prompt that the search for ``example`` begins with, which is the same at every bitmap."""
        generator = torch.Generator().manual_seed(example_seed(self.seed, example.id, ""))
        return search.initial(self._prefix(example), self.settings.tokens, generator)

    def _prefix(self, example: AttackExample) -> list[int]:
        return self.goal.encode([example.text])[0]

    def _ascend(self, search: CoordinateSearch, target: str, row: list[int], reading: Reading) -> _Found:
        nearest, losses = (row, reading), []
        for index in range(self.settings.sweeps * search.steps_a_sweep):
            before = row
            row, reading = search.step(index, row, reading)
            losses.append(-reading.objective)
            nearest = max(nearest, (row, reading), key=lambda pair: pair[1].objective)
            if reading.elicits and row != before:
                search.queries += self.goal.victim.queries_per_text
                # read alone, as the tables will read it: batches of other sizes round differently
                if self.goal.elicits(self.goal.decode(row), target):
                    return _Found(row, reading, True, tuple(losses))
        return _Found(*nearest, False, tuple(losses))

    def _result(
        self, example: AttackExample, status: AttackStatus, original: str, found: str, **figures: Any
    ) -> AttackResult:
        at = self.goal.victim.bitmap
        return AttackResult.of(example, self.name, at, status, original, found, seed=self.seed, **figures)
