"""Generated data is a folder that ``qalof generate-data`` writes and tasks read.

    manifest.json          kind, counts, settings, the tokenizer's digest; SHA-256 of each shard
    train/shard-00000.jsonl ...

A folder without its manifest is unfinished and is refused.  Training uses the token ids that were sampled: bytes that
do not form a whole character would become other tokens if the decoded text were tokenized. Under another tokenizer each
text is tokenized again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from qalof.digests import tokenizer_digest
from qalof.errors import BadInputError
from qalof.files import MANIFEST, open_sealed, read_json, read_json_lines
from qalof.home import expanded
from qalof.reading import is_file, is_folder

FORMAT_VERSION = 1
SHARDS = "train"
Kind = Literal["texts", "completions"]


@dataclass(frozen=True)
class GeneratedData:
    """An opened folder, whose checksums were verified."""

    folder: Path
    manifest: dict[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all records, in the order of their index.

        Raises:
            BadInputError: A record lacks a field.
        """
        fields = ("text",) if self.manifest["kind"] == "texts" else ("id", "question", "context", "answer")
        wanted = {"ids", "ended", *fields}
        for path in sorted((self.folder / SHARDS).glob("*.jsonl")):
            for number, row in read_json_lines(path, "generated data"):
                if missing := sorted(wanted - set(row)):
                    raise BadInputError(f"generated data {path} line {number} lacks {missing[0]!r}; generate it again")
                yield row

    def token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return all texts one after the other, without their boundaries."""
        if self.manifest["tokenizer"] == tokenizer_digest(tokenizer):
            return [token for row in self.rows() for token in row["ids"]]
        texts = (row["text"] for row in self.rows())
        encode = tokenizer.backend_tokenizer.encode
        return [token for text in texts for token in encode(text, add_special_tokens=False).ids]


def find_generated(source: str) -> Path | None:
    """Return the folder if ``source`` is generated data, finished or not; otherwise None."""
    path = expanded(source)
    if is_folder(path / SHARDS) and any((path / SHARDS).glob("shard-*.jsonl")):
        return path
    if not is_file(path / MANIFEST):
        return None
    manifest = read_json(path / MANIFEST, "manifest")
    return path if isinstance(manifest, dict) and "kind" in manifest and "texts" in manifest else None


def open_generated(path: str | Path, kind: Kind) -> GeneratedData:
    """Open generated data for a task.

    Raises:
        BadInputError: The folder is unfinished, damaged, of another version, or of the other kind.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise BadInputError(f"generated data {path} is unfinished: it has no {MANIFEST}; run the same command again")
    manifest = open_sealed(path, "generated data", FORMAT_VERSION)
    if manifest.get("kind") != kind:
        task = {"texts": "language-modeling", "completions": "squad-completion"}
        found = str(manifest.get("kind"))
        raise BadInputError(
            f"task {task[kind]} needs generated {kind}: {path} holds {found}, for {task.get(found, 'no task')}"
        )
    return GeneratedData(path, manifest)


def to_line(row: dict[str, Any]) -> str:
    """Return a record as one line."""
    return json.dumps(row, ensure_ascii=False) + "\n"
