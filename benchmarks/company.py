"""How far a model's logits move when a text is read in a padded batch instead of alone, by what is rounded.

    make real-model
    python benchmarks/company.py > benchmarks/results/company.json

Nothing but the order of sums differs between the two, which moves logits by about 1e-6 of their spread. Where
activations are rounded, a sum that lies between two levels goes to the other one, and what follows is rounded anew.
Beside it stands what rounding itself moves: the distance from full precision.  Both are means of absolute differences
at the last token, over the standard deviation of the logits there.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measure import environment, report

import qalof
from qalof.batching import attention_mask, pad_right
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer

BITMAPS = ("w32a32kv32", "w8a32kv32", "w4a32kv32", "w8a8kv32", "w8a8kv8", "w4a8kv8", "w8a16kv16")
TEXTS = (
    "The river rose in the night and took the lower bridge with it.",
    "She opened the letter",
    "A long list of names was read aloud while the rain went on, and nobody in the square left before the end of it.",
    "It was the best meal",
    "He had never seen the sea before that summer, he said later.",
    "Two of the engines failed within a minute of each other.",
    "No one knows",
    "The committee will meet again in March to vote on the proposal, which has changed twice since the autumn.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="cache:SmolLM2-135M-Instruct")
    options = parser.parse_args()
    model = qalof.build(BaseModel(options.model, HeadKind.CAUSAL_LM)).eval()
    tokenizer: Any = load_tokenizer(options.model)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    full = alone(model, ids, "w32a32kv32")
    rows = []
    for bitmap in BITMAPS:
        single, batch = alone(model, ids, bitmap), together(model, ids, bitmap)
        rows.append(
            {"bitmap": bitmap, "moved_by_company": apart(batch, single), "moved_by_rounding": apart(single, full)}
        )
    report({"benchmark": "company", "model": options.model, "texts": len(ids), "rows": rows, **environment()})


@torch.no_grad()
def alone(model: Any, ids: list[list[int]], bitmap: str) -> list[torch.Tensor]:
    """The logits of each text's last token, each text by itself."""
    model.set_bitmap(bitmap)
    return [model(input_ids=torch.tensor([row])).logits[0, -1] for row in ids]


@torch.no_grad()
def together(model: Any, ids: list[list[int]], bitmap: str) -> list[torch.Tensor]:
    """The same in one batch, padded on the right."""
    model.set_bitmap(bitmap)
    logits = model(input_ids=pad_right(ids, 0), attention_mask=attention_mask(ids)).logits
    return [each[len(row) - 1] for each, row in zip(logits, ids, strict=True)]


def apart(ones: list[torch.Tensor], others: list[torch.Tensor]) -> dict[str, float]:
    """Median, least and most of the mean absolute difference over the standard deviation."""
    found = torch.stack([(a - b).abs().mean() / b.std() for a, b in zip(ones, others, strict=True)])
    return {"median": found.median().item(), "least": found.min().item(), "most": found.max().item()}


if __name__ == "__main__":
    main()
