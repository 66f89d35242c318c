"""Data-free training texts, which a model writes itself (LLM-QAT, arXiv 2305.17888; docs/methods/generation.md).

A text begins with one start token, goes on greedily up to ``j`` tokens in all, and is then sampled from the model's
whole distribution until eos or ``max_length``.  LLM-QAT's script takes every id of the vocabulary once for each j in
{3, 4, 5}, so 2 to 4 greedy tokens follow the start; that is the default here (``vocab_sweep``). The paper draws the
first token instead (``uniform``, ``unigram``). The script samples from the 50 likeliest tokens, which was the default
of its library at the time; the default here is the whole distribution, as in the paper (``top_k`` 0).

``prompts`` is the variant of S2 (docs/systems.md): the prompt is the context and the question of a SQuAD example, in
the template of :mod:`qalof.tasks.squad_completion`, and the completion of the model itself is the target. There ``j``
counts only tokens of the completion.

A text is a function of (settings, model, sample index): it does not depend on the process that writes it, nor on the
texts that are written together with it (:mod:`qalof.training.sampling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qalof.errors import BadInputError
from qalof.laws import Count, Law, Positive, Seed, check_numbers
from qalof.model.positions import check_fits
from qalof.model.special_tokens import special_token
from qalof.paths import DataPath
from qalof.tasks.language_modeling import load_text
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_data import SquadExample, load_squad
from qalof.training.sampling import Plan, SamplingRule, Writer, Written, random_share

Start = Literal["vocab_sweep", "uniform", "unigram", "bos", "prompts"]
_START, _GREEDY = 1, 2
"""The number of the draw of a sample that a random number is for; sampling has its own."""


@dataclass(frozen=True)
class GenerationSettings:
    """The settings that say which texts are written, and how."""

    start: Start = "vocab_sweep"
    """How a text begins: every id of the vocabulary in turn, a drawn id, bos, or a SQuAD prompt."""
    count: Annotated[int, Law(ge=1, off="null writes the whole sweep, or one text for each prompt")] | None = None
    """How many texts are written; null writes the whole sweep, or one text per prompt."""
    greedy_length: tuple[Count, Count] = (3, 5)
    """The lowest and the highest total length of the greedy part, in tokens; under ``prompts`` the completion's tokens
    alone count."""
    top_k: Annotated[int, Law(ge=0, off="0 keeps all tokens")] = 0
    """How many of the likeliest tokens one is sampled from; 0 samples from the whole distribution."""
    temperature: Positive = 1.0
    """What divides the logits before sampling."""
    max_length: Annotated[int, Law(ge=2)] = 1024
    """The most tokens of a text, its start included; under ``prompts``, of prompt and completion together."""
    max_new_tokens: Count = 64
    """The most tokens of a completion under ``prompts``."""
    one_line: bool = True
    """Whether a completion ends at the end of its line, where scoring cuts it too."""
    start_at_eos: bool = False
    """Whether eos may be a start token."""
    data: DataPath = "tiny"
    """The SQuAD data of ``prompts``, or the text whose tokens ``unigram`` counts."""
    split: str = "train"
    """The split of that data."""
    seed: Seed = 0
    """The seed of all sampling; a text depends on it and on its own index alone."""

    def __post_init__(self) -> None:
        check_numbers(self)
        low, high = self.greedy_length
        if low > high:
            raise BadInputError(
                f"greedy_length must read lowest, highest, from 1 up: got {[low, high]}; such as [3, 5]"
            )
        if self.count is None and self.start not in ("vocab_sweep", "prompts"):
            raise BadInputError(f"start {self.start} has no end of its own: got no count; say how many texts")

    @property
    def greedy_choices(self) -> int:
        """The number of values of j."""
        return self.greedy_length[1] - self.greedy_length[0] + 1


class TextSource:
    """The start of each sample of a generation, for one tokenizer, and the number of samples.

    Raises:
        BadInputError: The data cannot be read, a text is longer than the model's positions, or there is no start token.
    """

    def __init__(self, settings: GenerationSettings, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> None:
        check_fits(settings.max_length, positions, "max_length")
        self.settings, self.tokenizer = settings, tokenizer
        eos = special_token(tokenizer, "eos", "generation", "take another model")
        self.stops = {eos}
        """The tokens that end a text and are not part of it."""
        self._starts = [i for i in range(len(tokenizer)) if settings.start_at_eos or i != eos]
        self._examples: list[SquadExample] = []
        self.left_out = 0
        """The number of questions of ``prompts`` that leave no room for a context; nothing is written for them."""
        if settings.start == "unigram":
            self._starts, self._cumulative = self._counted()
        elif settings.start == "prompts":
            self._examples = load_squad(settings.data, settings.split)
            if settings.one_line:
                self.stops |= {i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i])}
            self._task = CompletionTask(
                tokenizer, CompletionSettings(max_length=settings.max_length, max_new_tokens=settings.max_new_tokens)
            )
            self._keep_fitting()
        whole = len(self._examples) or len(self._starts) * settings.greedy_choices
        self.count = whole if settings.count is None else settings.count

    def _counted(self) -> tuple[list[int], list[int]]:
        text = load_text(self.settings.data, self.settings.split)
        counts = Counter(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        starts = sorted(set(self._starts) & set(counts))
        if not starts:
            raise BadInputError(f"unigram needs a text with tokens to count: {self.settings.data} has none")
        return starts, list(accumulate(counts[start] for start in starts))

    def plan(self, index: int) -> Plan:
        """Return the tokens that sample ``index`` begins with, and its lengths."""
        settings = self.settings
        if settings.start == "prompts":
            return self._prompted(index)
        low = settings.greedy_length[0]
        drawn = low + int(random_share(settings.seed, index, _GREEDY) * settings.greedy_choices)
        if settings.start == "vocab_sweep":
            turn, place = divmod(index, len(self._starts))
            start, drawn = self._starts[place], low + turn % settings.greedy_choices
        elif settings.start == "bos":
            start = special_token(self.tokenizer, "bos", "start bos", "take another start")
        else:
            start = self._drawn(random_share(settings.seed, index, _START))
        return Plan(index, (start,), min(drawn, settings.max_length), settings.max_length)

    def _drawn(self, share: float) -> int:
        if self.settings.start == "uniform":
            return self._starts[int(share * len(self._starts))]
        wanted = share * self._cumulative[-1]
        place = next(i for i, reached in enumerate(self._cumulative) if reached > wanted)
        return self._starts[place]

    def _prompted(self, index: int) -> Plan:
        settings = self.settings
        example = self.example(index)
        found = self._task.prompt(example.question, example.context, self._room)
        prompt = () if found is None else tuple(found.ids)
        share = random_share(settings.seed, index, _GREEDY)
        greedy = settings.greedy_length[0] + int(share * settings.greedy_choices)
        longest = len(prompt) + settings.max_new_tokens
        return Plan(index, prompt, min(len(prompt) + greedy, longest), longest)

    @property
    def _room(self) -> int:
        return self.settings.max_length - self.settings.max_new_tokens

    def _keep_fitting(self) -> None:
        fitting = [self._examples[i] for i in self._task.fitting([e.question for e in self._examples], self._room)]
        self.left_out = len(self._examples) - len(fitting)
        if not fitting:
            raise BadInputError(
                f"max_length must leave room for a context: got {self.settings.max_length} with max_new_tokens "
                f"{self.settings.max_new_tokens} for every question; raise it"
            )
        self._examples = fitting

    def example(self, index: int) -> SquadExample:
        """Return the question of a prompted sample; if there are more samples than questions, they repeat."""
        return self._examples[index % len(self._examples)]

    def row(self, plan: Plan, written: Written) -> dict[str, Any]:
        """Return a sample as one record for JSON.

        ``ids`` are the tokens of the text, or only of the completion, without eos; ``ended`` says whether eos was
        reached.
        """
        if self.settings.start != "prompts":
            ids = written.ids
            return {"index": plan.index, "text": self.tokenizer.decode(ids), "ids": ids, "ended": written.ended}
        ids, example = written.ids[len(plan.start) :], self.example(plan.index)
        return {
            "index": plan.index,
            "id": f"{example.id}-{plan.index}",
            "question": example.question,
            "context": example.context,
            "answer": self.tokenizer.decode(ids).strip(),
            "ids": ids,
            "ended": written.ended,
        }


def generate(
    writer: Writer, source: TextSource, indices: Sequence[int], batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Yield the records of the samples ``indices``, in their order.

    Args:
        writer: see :func:`writer_for`.
        source: the starts of the samples.
        indices: any part of ``range(source.count)``.
        batch_size: the number of texts that are written together; it changes only the speed.
    """
    for at in range(0, len(indices), batch_size):
        plans = [source.plan(index) for index in indices[at : at + batch_size]]
        for plan, written in zip(plans, writer.write(plans), strict=True):
            yield source.row(plan, written)


def writer_for(model: PreTrainedModel, source: TextSource) -> Writer:
    """Return the writer of a generation; ``model`` is a causal LM in eval mode."""
    settings = source.settings
    return Writer(model, SamplingRule(settings.temperature, settings.top_k), settings.seed, source.stops)
