"""How large a study is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One size of the whole study; lengths in tokens, batches in sequences."""

    passes: int
    """Forward and backward passes of ``batch`` sequences that every method may spend."""
    batch: int
    max_length: int
    dev_questions: int
    """Questions that models are judged on."""
    choose_questions: int
    """Other questions, on which a search chooses."""
    text_windows: int
    zero_shot_items: int
    generated_texts: int
    generated_length: int
    gptq_examples: int
    sensitivity_windows: int
    eval_batch: int
    precision: str = "fp32"
    max_new_tokens: int = 16
    text_length: int = 512
    learning_rate: float = 5e-4
    checkpoint_every: int = 100
    whole: bool = False
    """Whether only questions whose whole context fits into ``max_length`` are drawn."""
    judged_at: tuple[int, ...] = (32, 8, 6, 5, 4, 3)
    """Weight bits of the uniform bitmaps that models are judged at."""
    mixed: tuple[str, ...] | None = None
    """Names of the mixed bitmaps that models are judged at; None for all."""


SCALES = {
    # a few minutes of one large GPU, whose matrix units take fp32 as TF32
    "gpu": Scale(400, 16, 320, 600, 128, 12, 500, 512, 64, 32, 8, 300),
    # half an hour of one core with bf16 instructions for each method, and ten minutes for its scores
    "cpu": Scale(
        160, 16, 160, 300, 64, 12, 100, 128, 64, 16, 4, 32, precision="bf16", checkpoint_every=10, whole=True,
        judged_at=(8, 4), mixed=("striped", "MLP at 4"),
    ),
    # minutes on two cores with the tiny model: every stage runs, and nothing is learned that is worth reading
    "tiny": Scale(8, 4, 128, 8, 4, 2, 3, 6, 12, 4, 2, 8, max_new_tokens=4, text_length=64, checkpoint_every=2),
}  # fmt: skip
