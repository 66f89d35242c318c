"""What the study reads, prepared once where the raw data lie, so that a few megabytes travel to another machine.

A folder of: ``train.npz`` (SQuAD's training questions as completions, tokenized, in a drawn order); ``judge.json`` and
``choose.json`` (drawn dev questions, in SQuAD's format, without overlap); ``text/validation.txt`` and
``text/train.txt`` (WikiText-2's validation text: its first half is scored, its second half calibrates);
``zero_shot/*.jsonl``; ``prepared.json`` (counts and a digest of it all).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qalof.batching import Progress
from qalof.digests import content_digest, file_digest
from qalof.evaluation.full_precision import FullPrecision
from qalof.evaluation.result import Evaluation, exp_nats, mean_per_token
from qalof.files import read_json, write_json
from qalof.model.pretrained import load_tokenizer
from qalof.tasks.base import Feature, Task, TrainingData, chosen
from qalof.tasks.factory import make_task
from qalof.tasks.language_modeling import LanguageModelingSettings, LanguageModelingTask
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_data import SquadExample, load_squad
from study.scales import Scale

SEED = 0
ZERO_SHOT = ("boolq", "hellaswag", "winogrande")


def prepare(raw: Path, folder: Path, source: str, scale: Scale) -> dict[str, Any]:
    """Draw, cut and tokenize the data below ``raw`` into ``folder``; returns counts."""
    for name in ("text", "zero_shot"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    task = CompletionTask(load_tokenizer(source), _completion(raw / "squad", scale))
    dev = load_squad(str(raw / "squad" / "dev-v1.1.json"), "validation")
    if scale.whole:
        prompts = task.prompts([one.question for one in dev], [one.context for one in dev])
        dev = [one for one, prompt in zip(dev, prompts, strict=True) if prompt is not None and not prompt.cut]
    drawn = random.Random(SEED).sample(dev, scale.dev_questions + scale.choose_questions)
    _write_squad(folder / "judge.json", drawn[: scale.dev_questions])
    _write_squad(folder / "choose.json", drawn[scale.dev_questions :])
    counts = _prepare_training(task, folder, scale)
    text = (raw / "wikitext2" / "wiki.valid.raw").read_text(encoding="utf-8")
    half = text.index("\n", len(text) // 2)
    (folder / "text" / "validation.txt").write_text(text[:half], encoding="utf-8")
    (folder / "text" / "train.txt").write_text(text[half:], encoding="utf-8")
    for name in ZERO_SHOT:
        rows = (raw / "zeroshot" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        kept = "\n".join(rows[: scale.zero_shot_items])
        (folder / "zero_shot" / f"{name}.jsonl").write_text(f"{kept}\n", encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "prepared.json")
    about = {**counts, "digest": content_digest([(str(f.relative_to(folder)), file_digest(f)) for f in files])}
    write_json(folder / "prepared.json", about)
    return about


def data_digest(folder: Path) -> str:
    """What :func:`prepare` wrote."""
    return str(read_json(folder / "prepared.json", "prepared data")["digest"])


def _completion(data: Path, scale: Scale) -> CompletionSettings:
    return CompletionSettings(
        str(data), max_length=scale.max_length, max_new_tokens=scale.max_new_tokens, eval_batch_size=scale.eval_batch
    )


def _prepare_training(task: CompletionTask, folder: Path, scale: Scale) -> dict[str, Any]:
    features = task.train_features()
    if scale.whole:
        features = [one for one in features if not one["cut"]]
    wanted = min(len(features), scale.passes * scale.batch)
    kept = [features[index] for index in random.Random(SEED).sample(range(len(features)), wanted)]
    np.savez_compressed(
        folder / "train.npz",
        ids=np.concatenate([np.asarray(one["input_ids"], dtype=np.uint16) for one in kept]),
        lengths=np.asarray([len(one["input_ids"]) for one in kept], dtype=np.uint16),
        answers=np.asarray([one["answer_tokens"] for one in kept], dtype=np.uint16),
    )
    return {"questions": len(kept), "of": len(features), **task.train_counts()}


def _write_squad(path: Path, examples: Sequence[SquadExample]) -> None:
    paragraphs = [
        {
            "context": one.context,
            "qas": [{
                "id": one.id, "question": one.question,
                "answers": [{"text": text, "answer_start": start} for text, start in one.answers],
            }],
        }
        for one in examples
    ]  # fmt: skip
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "drawn", "paragraphs": paragraphs}]}))


class PreparedCompletion(CompletionTask):
    """``squad-completion`` on the questions of ``questions``, trained on what :func:`prepare` tokenized."""

    def __init__(self, folder: Path, source: str, scale: Scale, questions: str = "judge") -> None:
        super().__init__(load_tokenizer(source), _completion(folder / f"{questions}.json", scale))
        self.folder = folder

    @property
    def _training(self) -> TrainingData:
        with np.load(self.folder / "train.npz") as stored:
            cuts = np.cumsum(stored["lengths"][:-1].astype(np.int64))
            rows = zip(np.split(stored["ids"], cuts), stored["answers"], strict=True)
            return TrainingData([{"input_ids": ids.tolist(), "answer_tokens": int(n)} for ids, n in rows], {})


class AnswerLoss(PreparedCompletion):
    """The loss of the answers alone, without writing any: what a search chooses by."""

    primary_metric = "loss"
    metrics = ("loss", "perplexity")

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
        """The loss in nats per token of the first gold answers."""
        examples = chosen(self.validation, limit, skip)
        sums, tokens = self._losses(model, examples, full_precision)
        loss, losses = mean_per_token([each.nats for each in sums], tokens)
        return Evaluation(
            {"loss": loss, "perplexity": exp_nats(loss)}, len(examples), {"loss": losses},
            weights={"loss": tokens}, exponents={"perplexity": 1.0},
        )  # fmt: skip


class GeneratedTexts(LanguageModelingTask):
    """Language modeling on texts that a model wrote (token ids)."""

    def __init__(self, rows: Sequence[Sequence[int]], source: str, settings: LanguageModelingSettings) -> None:
        super().__init__(load_tokenizer(source), settings)
        self._rows = rows

    def train_features(self) -> Sequence[Feature]:
        """The texts of at least two tokens."""
        return [{"input_ids": list(row), "first": 1} for row in self._rows if len(row) > 1]


def text_settings(folder: Path, scale: Scale) -> LanguageModelingSettings:
    """Windows over WikiText-2's text, half overlapping."""
    length = scale.text_length
    return LanguageModelingSettings(str(folder / "text"), max_length=length, stride=length // 2, eval_batch_size=6)


def text_task(folder: Path, source: str, scale: Scale) -> Task:
    """Perplexity on WikiText-2."""
    return make_task("language-modeling", text_settings(folder, scale), source)


def zero_shot_tasks(folder: Path, source: str, scale: Scale) -> dict[str, Task]:
    """The multiple-choice tasks by name."""
    return {
        name: make_task(
            "zero-shot",
            {"dataset": name, "data": str(folder / "zero_shot"), "eval_batch_size": scale.eval_batch},
            source,
        )
        for name in ZERO_SHOT
    }
