"""The shipped tiny test object: a small GPT-2, its data, and the recipe that makes both.

`MODEL_DIR` opens with `transformers`, `SQUAD_DIR` holds `train.json` and `validation.json` in SQuAD v1.1 format,
`REVIEWS_DIR` holds `train.jsonl`, `validation.jsonl` and `labels.json`. Nothing is imported here, so a path costs no
time. `python -m qalof.tiny.build` makes all of it again.
"""

from pathlib import Path

TINY_DIR = Path(__file__).resolve().parent
MODEL_DIR = TINY_DIR / "model"
DATA_DIR = TINY_DIR / "data"
SQUAD_DIR = DATA_DIR / "squad"
REVIEWS_DIR = DATA_DIR / "reviews"

__all__ = ["DATA_DIR", "MODEL_DIR", "REVIEWS_DIR", "SQUAD_DIR", "TINY_DIR"]
