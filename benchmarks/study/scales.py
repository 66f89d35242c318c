"""How large a study is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One size of the whole study; lengths in tokens, batches in sequences."""

    width: int
    blocks: int
    heads: int
    positions: int
    pretrain_steps: int
    pretrain_batch: int
    pretrain_context: int
    steps: int
    batch: int
    micro_batch: int | None
    max_length: int
    stride: int
    train_questions: int | None = None
    corpus_tokens: int | None = None
    dev_questions: int | None = None
    sensitivity_questions: int = 500
    search_evaluations: int = 60
    learning_rate: float = 3e-3
    pretrain_rate: float = 1e-3


SCALES = {
    # GPT-2 small's own shape; 7 passes over 29 M tokens
    "gpu": Scale(768, 12, 12, 1024, 3200, 128, 512, 600, 64, 32, 320, 96),
    # 33 M parameters, for a GPU of which only a few minutes are left
    "gpu-short": Scale(512, 6, 8, 1024, 1200, 128, 512, 300, 64, 64, 256, 64, dev_questions=4000),
    # minutes on two cores: every stage runs, nothing is learned worth reading
    "cpu": Scale(
        64, 2, 2, 256, 12, 4, 64, 4, 8, None, 192, 32,
        train_questions=200, corpus_tokens=40_000, dev_questions=24, sensitivity_questions=12, search_evaluations=12,
    ),
}  # fmt: skip
