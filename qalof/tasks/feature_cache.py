"""Tokenized examples, cached on disk by content.

The key is the digest of the texts, the tokenizer and the settings, so that equal inputs share a cache file
whoever asks, eight workers among them, and nothing stale is ever read.  ``datasets`` writes the file beside
and renames it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

SMALL = 20_000
"""Below this many rows a map in memory is faster than a file."""


def cache_dir() -> Path:
    """``$QALOF_CACHE``, or ``qalof`` in the user's cache folder."""
    root = os.environ.get("QALOF_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "qalof"
    return Path(root).expanduser()


def content_digest(*parts: Any) -> str:
    """SHA-256, in hex, of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of the tokenizer's whole definition."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def map_cached(
    rows: Sequence[dict[str, Any]], encode: Callable[[dict[str, list[Any]]], dict[str, list[Any]]], key: str
) -> datasets.Dataset:
    """Apply ``encode`` (batched; may return more or fewer rows) to ``rows``; equal ``key`` means equal result."""
    datasets.disable_progress_bars()
    raw = datasets.Dataset.from_list(list(rows))
    if len(rows) < SMALL:
        return raw.map(
            encode, batched=True, remove_columns=raw.column_names, keep_in_memory=True, load_from_cache_file=False
        )
    folder = cache_dir() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    cache_file = str(folder / f"{key}.arrow")
    return raw.map(
        encode, batched=True, remove_columns=raw.column_names, cache_file_name=cache_file, new_fingerprint=key[:32]
    )
