"""What all tools get, made once, and the judge of their recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exchange import WINDOW, spread
from search_real import SOURCE, switchable, task_on, write_parts

import search
from qalof.bitmap import Bitmap
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
from qalof.statistics import Interval, bootstrap_mean, paired_difference
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
        "sites": [site.name for site in switchable(SOURCE).sites],
    }  # fmt: skip
    known.write_text(json.dumps(shared), encoding="utf-8")
    return shared


class Judge:
    """Scores recipes as bitmaps, each once and for good; the empty recipe is full precision."""

    def __init__(self, output: Path, windows: int) -> None:
        model, task = switchable(SOURCE), task_on(SOURCE, output / "parts", "judge")
        self._evaluator = search.LocalEvaluator(model, task, windows)
        self._space = search.BitmapSpace.of(model, weight=(3, 4, 5, 6, 7, 8), activation=(32,), kv=None)
        self.sites = [site.name for site in self._space.sites]
        self.windows = [window["input_ids"] for window in task.windows()[:windows]]
        self._record, self._fingerprint = EvaluationRecord(output / "judge.jsonl"), self._evaluator.fingerprint()
        self._known = self._record.load(self._fingerprint, windows, self.sites)

    def average_bits(self, recipe: Mapping[str, int]) -> float:
        """Return the average bits by QaLoF's own cost."""
        return round(self._space.cost(self._bitmap(recipe)).average_bits, 4)

    def losses(self, recipe: Mapping[str, int]) -> list[float]:
        """Return the mean loss of every window."""
        bitmap = self._bitmap(recipe)
        if bitmap not in self._known:
            (self._known[bitmap],) = self._evaluator.evaluate([bitmap])
            self._record.add(self._fingerprint, len(self.windows), bitmap, self._known[bitmap])
        return list(self._known[bitmap].per_example["loss"])

    def _bitmap(self, recipe: Mapping[str, int]) -> Bitmap:
        return Bitmap.uniform(self.sites, "w32").replace({site: f"w{bits}" for site, bits in recipe.items()})


def perplexity(losses: Sequence[float]) -> list[float]:
    """Return the perplexity of windows of equal length, with its interval."""
    return _exponential(bootstrap_mean(losses), 3)


def ratio(mine: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the paired ratio of perplexities over the same windows, with its interval."""
    return _exponential(paired_difference(mine, other), 4)


def _exponential(nats: Interval, digits: int) -> list[float]:
    return [round(math.exp(value), digits) for value in (nats.estimate, nats.low, nats.high)]
