"""Pretraining of the tiny model: next-token prediction on retrieval documents, with a span loss beside it.

    loss = CE(all tokens) + answer_weight * CE(answer tokens) + span_weight * (CE(start) + CE(end)) / 2

The answer tokens count twice since they are few among many that cannot be foreseen (which town comes next is
chance). The span head is a throw-away `Linear(hidden, 2)`: it makes the *base* mark answers while it reads a
question-first document; the head that a task trains later starts from nothing. The number of facts grows from
two to its full value over the first part of the run: matching is found on short contexts and then kept on long.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.tiny.documents import IGNORE, Batch, DocumentMaker
from qalof.tiny.tokenizer import POSITIONS


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pretrained weights, given the tokenizer."""

    width: int = 128
    blocks: int = 4
    heads: int = 4
    steps: int = 5_000
    learning_rate: float = 3e-3
    final_share: float = 0.05  # the learning rate ends at this share of its peak
    warmup: int = 100
    weight_decay: float = 0.01
    context_batch: int = 16
    question_batch: int = 32
    review_batch: int = 12
    facts: int = 7
    subjects: int = 3
    curriculum: float = 0.5  # share of the run after which contexts have all their facts in any case
    mastery: float = 0.25  # nats of both retrieval losses under which the facts grow sooner
    questions: int = 6
    answer_weight: float = 1.0
    span_weight: float = 1.0
    autocast: bool = True  # bfloat16 matrix products, float32 weights
    seed: int = 0


def new_model(recipe: Recipe, vocabulary: int, end: int) -> GPT2LMHeadModel:
    """A GPT-2 with fresh weights; no dropout, because the documents never repeat.

    The (trained) position embeddings start as sines and cosines: under them "the token before this one" is one
    linear map for all positions, and the heads that retrieval is made of appear several times sooner.
    """
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=POSITIONS,
        n_embd=recipe.width,
        n_layer=recipe.blocks,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(_waves(POSITIONS, recipe.width, config.initializer_range))
    return model


def _waves(positions: int, width: int, scale: float) -> Tensor:
    """(positions, width) sines and cosines of geometric wavelengths, with root mean square `scale`."""
    rates = torch.exp(-math.log(2.0 * positions) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(positions).unsqueeze(1) * rates
    return scale * math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], dim=1)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_share` of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    share = recipe.final_share + (1 - recipe.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * share


def next_facts(recipe: Recipe, facts: int, step: int, losses: dict[str, float]) -> int:
    """Facts a context tells from here on, given the mean losses of the last lines.

    One more once both ways of reading are mastered at the present number, and in any case as many as a straight
    line from 2 to the full number over the share `curriculum` of the run asks for.
    """
    due = 2 + int((recipe.facts - 2) * step / max(1.0, recipe.curriculum * recipe.steps))
    mastered = max(losses["context.answer"], losses["question.span"]) < recipe.mastery
    return min(recipe.facts, max(due, facts + mastered))


def batch_losses(model: GPT2LMHeadModel, span_head: nn.Linear, batch: Batch) -> dict[str, Tensor]:
    """Mean losses of one batch: "all" tokens, "answer" tokens where there are any, "span" where there are spans."""
    hidden = model.transformer(batch.ids).last_hidden_state
    counted = batch.labels[:, 1:] != IGNORE
    logits = model.lm_head(hidden[:, :-1][counted])
    each = F.cross_entropy(logits.float(), batch.labels[:, 1:][counted], reduction="none")
    answers = batch.answers[:, 1:][counted]
    losses = {"all": each.mean(), "answer": each[answers].mean()}
    if batch.spans is not None and batch.context is not None:
        scores = span_head(hidden).float().masked_fill(~batch.context.unsqueeze(-1), -1e9)
        losses["span"] = F.cross_entropy(scores.transpose(1, 2)[:, 0], batch.spans[:, 0]) / 2
        losses["span"] = losses["span"] + F.cross_entropy(scores[..., 1], batch.spans[:, 1]) / 2
    return losses


def _optimizer(recipe: Recipe, modules: list[nn.Module]) -> torch.optim.AdamW:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))


def _batches(recipe: Recipe, documents: DocumentMaker, facts: int) -> dict[str, Batch]:
    subjects = min(recipe.subjects, max(2, (facts + 1) // 2))
    batches = {
        "context": documents.context_first(recipe.context_batch, facts, subjects, recipe.questions),
        "question": documents.question_first(recipe.question_batch, facts, subjects),
    }
    if recipe.review_batch:
        batches["review"] = documents.reviews(recipe.review_batch)
    return batches


def pretrain(
    recipe: Recipe,
    documents: DocumentMaker,
    report: Callable[[str], None] = print,
    checkpoints: Path | None = None,
    every: int = 50,
) -> GPT2LMHeadModel:
    """Train a new model; `report` gets a line every `every` steps, `checkpoints` a copy every ten lines."""
    torch.manual_seed(recipe.seed)
    tokenizer = documents.tokenizer
    model = new_model(recipe, len(tokenizer), tokenizer.eos_token_id)
    span_head = nn.Linear(recipe.width, 2)
    optimizer = _optimizer(recipe, [model, span_head])
    trained = [*model.parameters(), *span_head.parameters()]
    sums: dict[str, float] = {}
    facts = 2
    started = time.monotonic()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad(set_to_none=True)
        for kind, batch in _batches(recipe, documents, facts).items():
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                losses = batch_losses(model, span_head, batch)
            weights = {"all": 1.0, "answer": recipe.answer_weight, "span": recipe.span_weight}
            torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
            for name, loss in losses.items():
                sums[f"{kind}.{name}"] = sums.get(f"{kind}.{name}", 0.0) + loss.item() / every
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % every == 0:
            means = "  ".join(f"{name} {value:.3f}" for name, value in sums.items())
            seconds = time.monotonic() - started
            report(f"step {step + 1}/{recipe.steps}  {seconds:.0f} s  facts {facts}  {means}")
            facts = next_facts(recipe, facts, step, sums)
            sums.clear()
            if checkpoints is not None and (step + 1) % (10 * every) == 0:
                model.save_pretrained(checkpoints / "latest")
    return model
