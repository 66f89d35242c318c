"""Question answering as completion of a prompt, the set-up of S3 (docs/systems.md; docs/methods/tasks.md).

    Context: {context}\\nQuestion: {question}\\nAnswer: {answer}<eos>

Prompt and answer are tokenized separately and joined, so no merge crosses the boundary. Only the answer and its eos are
labeled, by position and never by id: the eos after the answer must be learned even where pad = eos.  Loss is the mean
over answer tokens.  Scoring decodes greedily until eos or a line's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress, by_length
from qalof.digests import content_digest, tokenizer_digest
from qalof.errors import BadInputError
from qalof.evaluation.full_precision import FullPrecision
from qalof.evaluation.result import Evaluation, exp_nats, mean_per_token
from qalof.laws import Count, Law, check_numbers
from qalof.model.pretrained import HeadKind
from qalof.model.special_tokens import special_token
from qalof.paths import DataPath
from qalof.tasks import squad_metrics
from qalof.tasks.base import Feature, TrainingData, chosen
from qalof.tasks.feature_cache import cached_features, column, map_cached
from qalof.tasks.greedy import greedy_texts
from qalof.tasks.next_token import NextToken, Sums
from qalof.tasks.squad_data import SquadExample, digest_and_reader, gold_counts, load_squad

_TEMPLATE = ("Context: ", "\nQuestion: {question}\nAnswer:")

FEATURES = 1
"""The version of the features: it is raised when equal texts become other features than before."""


@dataclass(frozen=True)
class CompletionSettings:
    """The data of question answering as completion, and how long prompts and answers may be."""

    data: DataPath = "tiny"
    """The data: ``tiny``, a hub name, a folder or file in the format of SQuAD v1.1, or a folder of completions that
    ``qalof generate-data`` wrote, which serve training alone."""
    validation_data: DataPath | None = None
    """The data to score on in place of ``data``; null scores on ``data``, which must not be generated then."""
    train_split: str = "train"
    """The split to train on, such as ``train``, or ``train[:1000]`` for its first 1,000 examples."""
    validation_split: str = "validation"
    """The split to score on, such as ``validation``, or ``validation[:500]`` for its first 500 examples."""
    max_length: Annotated[int, Law(ge=2)] = 512
    """The most tokens of prompt and answer together; a context that is too long loses its beginning."""
    max_new_tokens: Count = 32
    """The most tokens of an answer that the model writes when it is scored."""
    eval_batch_size: Count = 64
    """How many examples are scored at once; no score depends on it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.max_new_tokens >= self.max_length:
            raise BadInputError(f"max_new_tokens must be below max_length {self.max_length}: got {self.max_new_tokens}")


class Prompt(NamedTuple):
    """The token ids of a prompt, and whether its context lost its beginning."""

    ids: list[int]
    cut: bool


class CompletionTask(NextToken):
    """``squad-completion``; see :class:`qalof.tasks.base.Task`."""

    name = "squad-completion"
    head = HeadKind.CAUSAL_LM
    labels: int | None = None
    primary_metric = "f1"
    metrics = ("exact_match", "f1", "loss", "perplexity", "kl")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: CompletionSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or CompletionSettings()
        self._eos = special_token(tokenizer, "eos", "task squad-completion", "take another model")

    @cached_property
    def validation(self) -> list[SquadExample]:
        """The validation examples."""
        return load_squad(self.settings.validation_data or self.settings.data, self.settings.validation_split)

    def fingerprint(self) -> str:
        """Return a digest of the validation data, the tokenizer and the settings."""
        return content_digest(self.name, self._key(self.validation))

    def _key(self, examples: Sequence[SquadExample]) -> str:
        settings = {
            k: v for k, v in asdict(self.settings).items() if k not in ("data", "validation_data", "eval_batch_size")
        }
        return content_digest([vars(e) for e in examples], settings, tokenizer_digest(self.tokenizer))

    def train_features(self) -> Sequence[Feature]:
        """Return input_ids and the number of answer tokens at their end; a question with an empty first answer is left
        out.

        Raises:
            BadInputError: No question has an answer that fits.
        """
        return self._training.features

    def train_counts(self) -> dict[str, int]:
        """Return the numbers of questions that were left out or cut.

        ``no_answer`` were left out because the answer is empty, ``question_too_long`` because question and answer leave
        no room for a context; the prompts of ``truncated`` lost part of their context.
        """
        return self._training.counts

    @cached_property
    def _training(self) -> TrainingData:
        texts, read = digest_and_reader(self.settings.data, self.settings.train_split)
        parts = (self.name, FEATURES, texts, self.settings.max_length, tokenizer_digest(self.tokenizer))
        key = content_digest(*parts)
        return cached_features(key, lambda: self._made(read(), key))

    def _made(self, found: Sequence[SquadExample], key: str) -> TrainingData:
        examples = [e for e in found if e.answers and e.texts[0].strip()]
        if not examples:
            raise BadInputError(f"training needs at least one answer: {self.settings.data} has none")
        names = ("question", "context", "answer", "ended")
        rows = [dict(zip(names, (e.question, e.context, e.texts[0], e.ended), strict=True)) for e in examples]
        kept = map_cached(rows, self._encode_rows, key)
        if not kept:
            raise self._no_room()
        counts = {
            "no_answer": len(found) - len(examples),
            "truncated": sum(column(kept, "cut")),
            "question_too_long": len(examples) - len(kept),
        }
        return TrainingData(kept, counts)

    def _encode_rows(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return token ids, how many belong to the answer, and whether the context was cut; rows without room are left
        out.

        Texts are tokenized together, and a context of several questions once: with single calls 87,599 questions take
        five times as long.
        """
        result: dict[str, list[Any]] = {"input_ids": [], "answer_tokens": [], "cut": []}
        contexts = self._many(rows["context"])
        asked = self._many([_TEMPLATE[1].format(question=question) for question in rows["question"]])
        answers = self._many([f" {answer}" for answer in rows["answer"]])
        for question, context, answer, ended in zip(asked, contexts, answers, rows["ended"], strict=True):
            target = self._target(answer, ended)
            prompt = self._joined(context, question, self.settings.max_length - len(target))
            if prompt is None:
                continue
            result["input_ids"].append([*prompt.ids, *target])
            result["answer_tokens"].append(len(target))
            result["cut"].append(int(prompt.cut))
        return result

    def _encode(self, question: str, context: str, answer: str) -> tuple[list[int], int] | None:
        """Return token ids of prompt and answer, and how many belong to the answer; None where no context fits."""
        target = self._target(self._ids(" " + answer), True)
        prompt = self.prompt(question, context, room=self.settings.max_length - len(target))
        return None if prompt is None else ([*prompt.ids, *target], len(target))

    def answer_feature(self, example: SquadExample) -> Feature | None:
        """Return the prompt and the first answer of an example as a feature; None where no context fits."""
        encoded = self._encode(example.question, example.context, example.texts[0])
        return None if encoded is None else {"input_ids": encoded[0], "answer_tokens": encoded[1]}

    def _target(self, answer: list[int], ended: bool) -> list[int]:
        # an answer that was cut off must not teach that it ends there
        return [*answer, *([self._eos] if ended else [])]

    def _many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text; equal texts are tokenized once."""
        unique = list(dict.fromkeys(texts))
        encoded = self.tokenizer(unique, add_special_tokens=False, verbose=False)["input_ids"]
        ids = dict(zip(unique, encoded, strict=True))
        return [ids[text] for text in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt(self, question: str, context: str, room: int) -> Prompt | None:
        """Return the prompt in at most ``room`` tokens; a longer context loses its beginning.

        The result is None where the question leaves no room for a context.
        """
        return self._joined(self._ids(context), self._ids(_TEMPLATE[1].format(question=question)), room)

    @cached_property
    def _before(self) -> list[int]:
        return self._ids(_TEMPLATE[0])

    def _joined(self, body: list[int], after: list[int], room: int) -> Prompt | None:
        space = room - len(self._before) - len(after)
        return None if space < 1 else Prompt([*self._before, *body[-space:], *after], len(body) > space)

    def fitting(self, questions: Sequence[str], room: int) -> list[int]:
        """Return the indices of the questions whose prompts have room for a context in ``room`` tokens."""
        asked = [_TEMPLATE[1].format(question=question) for question in questions]
        encoded = self.tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
        space = room - len(self._before)
        return [index for index, ids in enumerate(encoded) if len(ids) < space]

    def _no_room(self) -> BadInputError:
        return BadInputError(f"max_length must leave room for a context: got {self.settings.max_length}; raise it")

    def first_label(self, feature: Feature) -> int:
        """Return the index at which the answer begins."""
        return len(feature["input_ids"]) - int(feature["answer_tokens"])

    @torch.no_grad()
    def evaluate(
        self,
        model: Any,
        *,
        limit: int | None = None,
        skip: int = 0,
        progress: Progress | None = None,
        full_precision: FullPrecision | None = None,
    ) -> Evaluation:
        """Return exact match and F1 in percent of greedy answers; loss (nats per token) and perplexity of the first
        gold one; and ``kl``, where ``full_precision`` is given, from it in nats per token of that answer.

        Raises:
            BadInputError: No example has an answer that fits, so there is no loss.
        """
        examples = chosen(self.validation, limit, skip)
        if not any(example.answers for example in examples):
            raise BadInputError(
                f"one of the examples at least must have a gold answer: got none in {len(examples)}; raise the limit"
            )
        prompts = self.prompts([e.question for e in examples], [e.context for e in examples])
        texts = self.answers(model, prompts, progress)
        asked = [prompt for prompt in prompts if prompt is not None]
        counts = {
            "truncated": sum(prompt.cut for prompt in asked), **gold_counts(examples),
            "question_too_long": len(prompts) - len(asked),
        }  # fmt: skip
        pairs = list(zip(texts, examples, strict=True))
        matches = [100 * squad_metrics.exact_match(text, e.texts) for text, e in pairs]
        overlaps = [100 * squad_metrics.f1(text, e.texts) for text, e in pairs]
        sums, tokens = self._losses(model, examples, full_precision)
        loss, losses = mean_per_token([each.nats for each in sums], tokens)
        metrics = {"exact_match": float(np.mean(matches)), "f1": float(np.mean(overlaps)), "loss": loss}
        metrics["perplexity"] = exp_nats(loss)
        scores = {"exact_match": matches, "f1": overlaps, "loss": losses}
        weights = {"loss": tokens}
        if full_precision is not None:
            metrics["kl"], scores["kl"] = mean_per_token([each.kl for each in sums], tokens)
            weights["kl"] = tokens
        return Evaluation(metrics, len(examples), scores, counts, weights, {"perplexity": 1.0})

    def prompts(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Prompt | None]:
        """Return the prompts that leave room for an answer; see :meth:`prompt`."""
        room = self.settings.max_length - self.settings.max_new_tokens
        return [self.prompt(question, context, room) for question, context in zip(questions, contexts, strict=True)]

    def answers(self, model: Any, prompts: Sequence[Prompt | None], progress: Progress | None = None) -> list[str]:
        """Return the greedy answer to each prompt, up to the end of its line; None has the empty answer."""
        asked = [index for index, prompt in enumerate(prompts) if prompt is not None]
        ids, stops = [prompt.ids for prompt in prompts if prompt is not None], [self._eos, *self._ids("\n")]
        size, longest = self.settings.eval_batch_size, self.settings.max_new_tokens
        written = greedy_texts(model, self.tokenizer, ids, longest, stops, size, progress)
        texts = [""] * len(prompts)
        for index, text in zip(asked, written, strict=True):
            texts[index] = text.split("\n")[0].strip()
        return texts

    def _losses(
        self, model: Any, examples: Sequence[SquadExample], full: FullPrecision | None
    ) -> tuple[list[Sums], list[int]]:
        """Return sums and tokens of each example's first gold answer; all are 0 where it has none that fits."""
        encoded = [self._encode(e.question, e.context, e.texts[0]) if e.answers else None for e in examples]
        answered = [index for index, pair in enumerate(encoded) if pair is not None]
        pairs = [pair for pair in encoded if pair is not None]
        if not pairs:
            raise self._no_room()
        features = [{"input_ids": ids, "answer_tokens": count} for ids, count in pairs]
        sums, tokens = [Sums(0.0, 0, 0.0)] * len(examples), [0] * len(examples)
        for batch in by_length([len(ids) for ids, _ in pairs], self.settings.eval_batch_size):
            for place, found in zip(batch, self.sums(model, [features[i] for i in batch], full), strict=True):
                sums[answered[place]], tokens[answered[place]] = found, pairs[place][1]
        return sums, tokens
