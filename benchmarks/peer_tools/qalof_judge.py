"""What all tools get, made once, and the judge of their recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exchange import WINDOW, spread
from search_real import SOURCE, write_parts
from with_qalof import switchable, task_of

import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
from qalof.statistics import paired_difference
from search.record import EvaluationRecord


def prepared(data: Path, output: Path, windows: int) -> dict[str, Any]:
    """Return model folder, text folder, windows with their texts, and the names of the sites; files are kept."""
    folder, parts, known = output / "model", output / "parts", output / f"shared-{windows}.json"
    if known.is_file():
        found: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
        return found
    parts.mkdir(parents=True, exist_ok=True)
    write_parts(data, parts)
    tokenizer = load_tokenizer(SOURCE)
    load_pretrained(SOURCE, HeadKind.CAUSAL_LM).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = spread((parts / "calibrate.txt").read_text(encoding="utf-8"), windows)
    ids = [tokenizer(text)["input_ids"][:WINDOW] for text in texts]
    shared = {
        "model": str(folder), "parts": str(parts), "texts": texts, "windows": ids,
        "sites": [site.name for site in switchable(str(folder)).sites],
    }  # fmt: skip
    known.write_text(json.dumps(shared), encoding="utf-8")
    return shared


class Judge:
    """Scores recipes as bitmaps, each once and for good."""

    source = SOURCE

    def __init__(self, folder: str, output: Path, windows: int) -> None:
        model = switchable(folder)
        self._evaluator = search.LocalEvaluator(model, task_of(folder, output / "parts", "judge"), windows)
        self._space = search.BitmapSpace.of(model, weight=(3, 4, 5, 6, 7, 8), activation=(32,), kv=None)
        self._windows, self._names = windows, [site.name for site in self._space.sites]
        self._record, self._fingerprint = EvaluationRecord(output / "judge.jsonl"), self._evaluator.fingerprint()
        self._known = self._record.load(self._fingerprint, windows, self._names)

    def uniform(self, width: int) -> dict[str, int]:
        return dict.fromkeys(self._names, width)

    def full(self) -> list[float]:
        return _three(self._scored(Bitmap.uniform(self._names, "w32")).interval("perplexity"))

    def of(self, recipe: Mapping[str, int]) -> dict[str, Any]:
        """Return the average bits by QaLoF's own cost, and the perplexity with its interval."""
        bitmap = self._bitmap(recipe)
        return {
            "average_bits": round(self._space.cost(bitmap).average_bits, 4),
            "perplexity": _three(self._scored(bitmap).interval("perplexity")),
        }

    def ratio(self, mine: Mapping[str, int], other: Mapping[str, int]) -> list[float]:
        """Return the paired ratio of perplexities over the same windows, with its interval."""
        pair = [self._scored(self._bitmap(each)).per_example["loss"] for each in (mine, other)]
        difference = paired_difference(*pair)
        return [round(math.exp(value), 4) for value in (difference.estimate, difference.low, difference.high)]

    def _bitmap(self, recipe: Mapping[str, int]) -> Bitmap:
        return Bitmap.uniform(self._names, "w32").replace({site: f"w{bits}" for site, bits in recipe.items()})

    def _scored(self, bitmap: Bitmap) -> Evaluation:
        if bitmap not in self._known:
            (self._known[bitmap],) = self._evaluator.evaluate([bitmap])
            self._record.add(self._fingerprint, self._windows, bitmap, self._known[bitmap])
        return self._known[bitmap]


def _three(interval: Any) -> list[float]:
    return [round(value, 3) for value in (interval.estimate, interval.low, interval.high)]
