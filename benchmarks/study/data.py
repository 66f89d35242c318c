"""What the study reads, tokenized once where the raw data lie, so that a few megabytes travel.

A folder of: ``tokenizer/``; ``corpus.npz`` (token ids of the corpus, documents joined by the end-of-text token, and
of its validation part); ``windows.npz`` (SQuAD's training windows with their answers); ``squad/validation.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import GPT2TokenizerFast

from qalof.model.pretrained import load_tokenizer
from qalof.tasks.base import Feature
from qalof.tasks.squad_span import SpanSettings, SpanTask
from study.scales import Scale

SEPARATOR = "<|endoftext|>"


def prepare(raw: Path, folder: Path, scale: Scale) -> dict[str, int]:
    """Tokenize the data below ``raw`` into ``folder``; returns counts."""
    (folder / "squad").mkdir(parents=True, exist_ok=True)
    places = {name: str(raw / "tokenizer" / "gpt2" / name) for name in ("vocab.json", "merges.txt")}
    GPT2TokenizerFast(vocab=places["vocab.json"], merges=places["merges.txt"]).save_pretrained(folder / "tokenizer")
    shutil.copyfile(raw / "squad" / "dev-v1.1.json", folder / "squad" / "validation.json")
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    end = int(tokenizer.eos_token_id)

    def ids_of(paths: Sequence[Path], limit: int | None) -> np.ndarray:
        ids: list[int] = []
        for path in paths:
            for document in path.read_text(encoding="utf-8").split(SEPARATOR):
                ids += [*tokenizer(document.strip())["input_ids"], end]
                if limit is not None and len(ids) >= limit:
                    return np.asarray(ids[:limit], dtype=np.uint16)
        return np.asarray(ids, dtype=np.uint16)

    corpus = raw / "corpus"
    train = ids_of(sorted(p for p in corpus.glob("*.txt") if p.name != "valid.txt"), scale.corpus_tokens)
    valid = ids_of([corpus / "valid.txt"], scale.corpus_tokens)
    np.savez_compressed(folder / "corpus.npz", train=train, valid=valid)
    split = "train" if scale.train_questions is None else f"train[:{scale.train_questions}]"
    settings = SpanSettings(str(raw / "squad"), split, max_length=scale.max_length, stride=scale.stride)
    windows = SpanTask(tokenizer, settings).train_features()
    np.savez_compressed(
        folder / "windows.npz",
        ids=np.concatenate([np.asarray(w["input_ids"], dtype=np.uint16) for w in windows]),
        lengths=np.asarray([len(w["input_ids"]) for w in windows], dtype=np.uint16),
        start=np.asarray([w["start"] for w in windows], dtype=np.uint16),
        end=np.asarray([w["end"] for w in windows], dtype=np.uint16),
    )
    return {"corpus_tokens": len(train), "windows": len(windows)}


def windows_of(folder: Path) -> list[Feature]:
    """SQuAD's training windows: input_ids, start, end."""
    with np.load(folder / "windows.npz") as stored:
        cuts = np.cumsum(stored["lengths"][:-1].astype(np.int64))
        rows = zip(np.split(stored["ids"], cuts), stored["start"], stored["end"], strict=True)
        return [{"input_ids": ids.tolist(), "start": int(start), "end": int(end)} for ids, start, end in rows]


def pretraining_tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Corpus and question-answer documents, one long text; and the validation text.

    A question-answer document is a training window (question, context) with ``Answer:`` and the answer's own tokens
    behind it, so that a causal model has a reason to look the answer up.
    """
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    prompt, end = tokenizer("\nAnswer:")["input_ids"], int(tokenizer.eos_token_id)
    with np.load(folder / "corpus.npz") as stored:
        corpus, valid = stored["train"], stored["valid"]
    documents = [
        np.asarray([*w["input_ids"], *prompt, *w["input_ids"][w["start"] : w["end"] + 1], end], dtype=np.uint16)
        for w in windows_of(folder)
    ]
    return np.concatenate([corpus, *documents]), valid


class PreparedSpanTask(SpanTask):
    """``squad-span`` whose training windows were made by :func:`prepare`."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        split = "validation" if scale.dev_questions is None else f"validation[:{scale.dev_questions}]"
        settings = SpanSettings(
            str(folder / "squad"), validation_split=split, max_length=scale.max_length, stride=scale.stride
        )
        super().__init__(load_tokenizer(str(folder / "tokenizer")), settings)
        self.folder = folder

    @cached_property
    def _prepared(self) -> list[Feature]:
        return windows_of(self.folder)

    def train_features(self) -> Sequence[Feature]:
        """The prepared windows."""
        return self._prepared
