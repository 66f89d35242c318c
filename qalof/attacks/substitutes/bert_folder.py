"""A model of the BERT kind in a folder: what every one of them must be, how it is loaded, and how much it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from qalof.errors import BadInputError
from qalof.model.pretrained import resolve_source
from qalof.reading import is_folder, library_errors


def bert_folder(source: str, what: str, way_out: str) -> tuple[str, PretrainedConfig, bool]:
    """Return the folder that ``source`` names, the config in it, and whether its model reads in both directions.

    Args:
        source: a folder, or ``cache:NAME``.
        what: what the folder must hold, as errors name it.
        way_out: how errors say what to give instead.

    Raises:
        BadInputError: There is no such folder, or its config cannot be read.
    """
    folder = resolve_source(source)
    if not is_folder(Path(folder)):
        raise BadInputError(f"a {what} must be a folder: {source} is none; {way_out}")
    with library_errors(f"{what} {source!r}", way_out):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    both = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return folder, config, both


def load_bert(kind: Any, folder: str, device: str, what: str, way_out: str) -> tuple[Any, Any]:
    """Load a model in fp32 and its tokenizer.

    Args:
        kind: the class of transformers that loads it, such as ``AutoModel``.
        folder: the folder, of :func:`bert_folder`.
        device: where the model runs.
        what: what the folder must hold, as errors name it.
        way_out: how errors say what to give instead.

    Raises:
        BadInputError: The weights or the tokenizer do not load.
    """
    with _quiet(), library_errors(f"{what} {folder!r}", way_out):
        model = kind.from_pretrained(folder, dtype="float32", trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return model.to(device).eval(), tokenizer


def longest_text(model: Any) -> int:
    """Return how many tokens the model reads at most, special ones included.

    RoBERTa and its kin count positions from the one after that of padding, so some of their table is never used.
    """
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return int(model.config.max_position_embeddings) - (0 if padding is None else padding + 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of heads that a folder has and nobody asked for."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
