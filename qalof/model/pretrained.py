"""Pretrained models and tokenizers: by hub name, local folder, GGUF file, ``cache:NAME`` or the name ``tiny``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from qalof.cache import CACHED, models_dir
from qalof.errors import BadInputError, nearest_hint
from qalof.home import expanded
from qalof.hub import check_hub
from qalof.model.gguf_source import converted, find_gguf
from qalof.reading import exists, is_folder, library_errors
from qalof.rng import portable_draws
from qalof.tiny import MODEL_DIR

_WAY_OUT = "give a local folder that is whole, a GGUF file, or a hub name with the hub in reach"

TINY = "tiny"
"""The name of the shipped model."""


class HeadKind(StrEnum):
    """The head on top of the transformer."""

    CAUSAL_LM = "causal-lm"
    SPAN = "span"
    CLASSIFIER = "classifier"


_AUTO_CLASSES = {
    HeadKind.CAUSAL_LM: AutoModelForCausalLM,
    HeadKind.SPAN: AutoModelForQuestionAnswering,
    HeadKind.CLASSIFIER: AutoModelForSequenceClassification,
}


def resolve_source(source: str) -> str:
    """Return the folder that a source means, or the hub name that it is.

    Args:
        source: ``tiny``, the shipped model; ``cache:NAME``, a model in the cache folder (``make real-model``); a
            local folder; a GGUF file, or a folder that holds one, which is converted on first use; or a hub name.

    Raises:
        BadInputError: The file or folder does not exist, or the GGUF file cannot be used.
    """
    if source == TINY:
        return str(MODEL_DIR)
    if source.startswith(CACHED):
        path = _cached(source)
    else:
        path = expanded(source)
        looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(".gguf")
        if not exists(path):
            if looks_local:
                raise BadInputError(
                    f"a model's source must exist, or be a hub name: got {source}; give a folder or a GGUF file"
                )
            return source
    gguf = find_gguf(path)
    return str(path if gguf is None else converted(gguf))


def _cached(source: str) -> Path:
    path = models_dir() / source.removeprefix(CACHED)
    if not path.exists():
        there = [folder.name for folder in path.parent.glob("[!.]*") if folder.is_dir()]
        raise BadInputError(
            f"model {source} must be in {models_dir()}: it is not; `make real-model` fetches two, "
            f"and {nearest_hint(path.name, there) if there else 'none is there yet'}"
        )
    return path


def load_pretrained(source: str, head: HeadKind, *, seed: int = 0, labels: int | None = None) -> PreTrainedModel:
    """Load a transformers model in fp32 and eval mode; a new head is drawn from ``seed``.

    Args:
        source: see :func:`resolve_source`.
        head: which head to put on it.
        seed: the seed of a head that the pretrained weights lack.
        labels: the number of classes of a classifier.

    Raises:
        BadInputError: The source does not load, or the hub cannot be reached.
    """
    extra: dict[str, Any] = {"num_labels": labels} if labels is not None else {}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a freshly drawn head is intended here
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]), portable_draws():
        torch.manual_seed(seed)
        try:
            with library_errors(f"model {source!r}", _WAY_OUT):
                model, report = _AUTO_CLASSES[head].from_pretrained(
                    _checked(source), dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **extra
                )
                _complete(model, report["missing_keys"], source)
        finally:
            transformers_logging.set_verbosity(verbosity)
    if head is HeadKind.CLASSIFIER and model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id  # batches of unequal length need one
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of ``source``; it pads on the right, with eos where it has no pad token.

    Raises:
        BadInputError: The source does not load, or its tokenizer gives no character offsets.
    """
    with library_errors(f"tokenizer {source!r}", _WAY_OUT):
        tokenizer = AutoTokenizer.from_pretrained(_checked(source), trust_remote_code=False)
    if not tokenizer.is_fast:
        raise BadInputError(f"a tokenizer must be a fast one to give character offsets: {source} has none")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def weights_digest(model: PreTrainedModel) -> str:
    """Return the SHA-256 over the pretrained tensors by name, which says whether a checkpoint belongs to this base.

    The tensors are those of the transformer, and those of a language-modeling head that is not tied to it.  Other heads
    are trained and stored in the checkpoint.
    """
    digest = hashlib.sha256()
    tensors = dict(getattr(model, model.base_model_prefix, model).state_dict())
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().to(torch.float32).reshape(-1).contiguous().numpy())
    return digest.hexdigest()


def _complete(model: PreTrainedModel, missing: Collection[str], source: str) -> None:
    """Load the transformer by itself where a head class looked for it under another name.

    ``LlamaForQuestionAnswering`` and similar classes call it ``transformer``, find nothing of that name in a checkpoint
    of ``LlamaForCausalLM``, and would go on with random weights.
    """
    prefix = f"{model.base_model_prefix}."
    if not any(name.startswith(prefix) for name in missing):
        return
    base, report = AutoModel.from_pretrained(
        _checked(source), dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])[0]
        raise BadInputError(f"model {source!r} must hold its whole transformer: {lacking} is missing; get it again")
    getattr(model, model.base_model_prefix).load_state_dict(base.state_dict())


def _checked(source: str) -> str:
    path = resolve_source(source)
    if not is_folder(Path(path)):
        check_hub()
    return path


@dataclass(frozen=True)
class BaseModel:
    """The pretrained model underneath, with what is needed to load it again."""

    source: str
    head: HeadKind
    seed: int = 0
    labels: int | None = None

    def load(self) -> PreTrainedModel:
        """Load the plain transformers model."""
        return load_pretrained(self.source, self.head, seed=self.seed, labels=self.labels)
