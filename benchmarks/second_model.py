"""A second model to search on: a small GPT-2, trained from scratch on English prose; one JSON object on stdout.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 QALOF_DATA=../shared/data \\
        python benchmarks/second_model.py > benchmarks/results/second_model.json

GPT-2's architecture with GPT-2's tokenizer, cut to its first merges because most of the arithmetic of a small model is
its head.  The text is Wikipedia's paragraphs of SQuAD's training set and one shard of textbooks; the held-out text is
documents of both that were kept apart, and WikiText-2 raw validation.  AdamW, bfloat16 products, float32 weights.  The
batches follow from seed and step alone, and every ``SAVE_EVERY`` steps the state is written to ``--output``, so a run
that is cut off goes on to the same weights.  The model is left in ``--output``/model; it is never committed.

The two variables keep glibc from handing memory back to the system and getting it again at every step, which is half
of the time otherwise.  Minutes of training make a weak model: its numbers say how a search behaves on this
architecture, and not what pretrained weights of it would give.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import environment
from torch.nn import functional as F
from transformers import GPT2LMHeadModel, GPT2TokenizerFast, PreTrainedTokenizerBase

from qalof.tiny.pretrain import config_of, learning_rate_share

END = "<|endoftext|>"
BYTES = 256
SAVE_EVERY = 50
TEXTS = ("squad_train_contexts-00", "squad_train_contexts-01", "openstax-00")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given the text."""

    blocks: int = 8
    width: int = 256
    heads: int = 4
    context: int = 256
    vocabulary: int = 8_192
    """Bytes, GPT-2's first merges, and the end of a document."""
    steps: int = 2_000
    batch: int = 8
    """Windows of ``context`` tokens per step."""
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.4
    """The share of the steps over which the learning rate falls to zero, in a straight line."""
    weight_decay: float = 0.1
    seed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/second_model"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    print(json.dumps(made(recipe, options.data, options.output) | environment(), indent=2))


def made(recipe: Recipe, data: Path, output: Path, stop_after: int | None = None) -> dict[str, Any]:
    """Train the model of a recipe, or go on with it, and leave it in ``output``/model.

    Args:
        recipe: the shape and the schedule.
        data: the folder that holds ``corpus``, ``tokenizer`` and ``wikitext2``.
        output: where tokens, states and the model are written.
        stop_after: end after this many steps of this call, as a run that is cut off does; None trains to the end.
    """
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = cut_tokenizer(data / "tokenizer" / "gpt2", recipe.vocabulary, recipe.context)
    tokens = _tokens(tokenizer, data, output)
    trained = _Training(recipe, tokens, output / "state.pt")
    trained.run(recipe.steps if stop_after is None else min(recipe.steps, trained.step + stop_after))
    trained.model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    texts = {
        "documents kept apart": data / "corpus" / "valid.txt",
        "WikiText-2 raw validation": data / "wikitext2" / "wiki.valid.raw",
    }
    return {
        "recipe": asdict(recipe), "parameters": sum(p.numel() for p in trained.model.parameters()),
        "texts": TEXTS, "tokens_at_hand": len(tokens), "steps": trained.step,
        "tokens_seen": trained.step * recipe.batch * recipe.context, "seconds": round(trained.seconds),
        "training_loss": trained.losses,
        "held_out": {name: held_out(trained.model, tokenizer, path, recipe) for name, path in texts.items()},
    }  # fmt: skip


def cut_tokenizer(folder: Path, vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    """Return the tokenizer of ``vocabulary`` entries that GPT-2's first merges make: 256 bytes, merges, and the end."""
    known = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    kept = merges[: vocabulary - BYTES - 1]
    names = [*sorted(known, key=lambda name: known[name])[:BYTES], *("".join(pair) for pair in kept), END]
    return GPT2TokenizerFast(
        vocab={name: index for index, name in enumerate(names)}, merges=kept,
        bos_token=END, eos_token=END, unk_token=END, model_max_length=context,
    )  # fmt: skip


def held_out(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, path: Path, recipe: Recipe) -> dict[str, Any]:
    """Say the loss on the first 64 windows of a text, per token and per byte."""
    text = path.read_text(encoding="utf-8")
    ids = torch.tensor(_encoded(tokenizer, text[:400_000]))
    windows = ids[: len(ids) // recipe.context * recipe.context].view(-1, recipe.context)[:64]
    with torch.no_grad():
        losses = [F.cross_entropy(*_predicted(model, rows), reduction="sum").item() for rows in windows.split(8)]
    scored = windows[:, 1:]
    loss = math.fsum(losses) / scored.numel()
    size = sum(len(tokenizer.decode(row).encode()) for row in scored)
    return {
        "tokens": scored.numel(), "loss": round(loss, 4), "perplexity": round(math.exp(loss), 2),
        "bits_per_byte": round(math.fsum(losses) / math.log(2) / size, 4),
    }  # fmt: skip


class _Training:
    """The state of a run, which ``path`` holds after every :data:`SAVE_EVERY` steps."""

    def __init__(self, recipe: Recipe, tokens: np.ndarray[Any, Any], path: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.tokens, self.path = recipe, torch.from_numpy(tokens.astype(np.int64)), path
        end = recipe.vocabulary - 1
        self.model = GPT2LMHeadModel(
            config_of(recipe.width, recipe.blocks, recipe.heads, recipe.context, recipe.vocabulary, end)
        )
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
        self.step, self.seconds = 0, 0.0
        self.losses: dict[str, float] = {}
        if path.exists():
            self._load()

    def run(self, until: int) -> None:
        """Train up to step ``until``."""
        started, before, window = time.perf_counter(), self.seconds, []
        while self.step < until:
            window.append(self._step())
            self.step += 1
            if self.step % SAVE_EVERY == 0 or self.step == until:
                self.seconds = before + time.perf_counter() - started
                self.losses[str(self.step)] = round(math.fsum(window) / len(window), 4)
                print(f"step {self.step}: {self.losses[str(self.step)]}, {self.seconds:.0f} s", file=sys.stderr)
                window.clear()
                self._save()

    def _step(self) -> float:
        recipe = self.recipe
        drawn = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        starts = torch.randint(len(self.tokens) - recipe.context, (recipe.batch,), generator=drawn)
        batch = torch.stack([self.tokens[start : start + recipe.context + 1] for start in starts])
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate_share(recipe, self.step)
        with torch.autocast("cpu", torch.bfloat16):
            logits, labels = _predicted(self.model, batch)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _save(self) -> None:
        state = {
            "recipe": asdict(self.recipe), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": self.seconds, "losses": self.losses,
        }  # fmt: skip
        beside = self.path.with_suffix(".partial")
        torch.save(state, beside)
        beside.replace(self.path)

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{self.path} must be of this recipe: it is of {state['recipe']}; give another --output")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]


def rate_share(recipe: Recipe, step: int) -> float:
    """Return the share of the peak learning rate: warm-up, level, and a straight line down over the last steps."""
    return learning_rate_share(step, recipe.steps, recipe.warmup, recipe.decay)


def _predicted(model: GPT2LMHeadModel, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, vocabulary) and the tokens that come next (N,); batch: (B, T)."""
    return model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()


def _tokens(tokenizer: PreTrainedTokenizerBase, data: Path, output: Path) -> np.ndarray[Any, Any]:
    """Return the text to train on as (N,) token ids, which ``output`` keeps."""
    path = output / "tokens.npy"
    if not path.exists():
        texts = [(data / "corpus" / f"{name}.txt").read_text(encoding="utf-8") for name in TEXTS]
        ids = [_encoded(tokenizer, document) for text in texts for document in text.split(END)]
        beside = path.with_suffix(".partial.npy")
        np.save(
            beside, np.asarray([each for document in ids for each in (*document, tokenizer.eos_token_id)], "uint16")
        )
        beside.replace(path)
    loaded: np.ndarray[Any, Any] = np.load(path)
    return loaded


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text.strip(), verbose=False)["input_ids"]
    return ids


if __name__ == "__main__":
    main()
