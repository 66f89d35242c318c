"""Pretraining of the tiny model: next-token prediction on retrieval documents, with helper losses alongside it.

    loss = sum over kinds of document of  CE(all) + CE(answer) + note + match + span     (each a mean)

The answer tokens count twice since they are few among many that cannot be foreseen (which town comes next is
chance). All other terms come from throw-away linear heads on marked tokens, which are not shipped:

* *note*, after block 2: a value's tokens, a question's end and `Answer:` must say which entity and relation they
  are about. One set of heads reads questions and values alike, so both are written in one code and a later block can
  match them by a dot product.
* *match*, of question-first documents: is this name, or this value's entity or relation, the one asked for?
* *span*, after the last block: start and end of the answer. A task's own span head still starts from nothing.

Without note and match the model distinguished the kinds of value and then stopped improving (span loss 0.87 with four
facts after 900 steps); with them it is at 0.25 with three facts after 200 steps and 0.04 with four after 575. Muon for
the matrices halved the steps that AdamW needed to get as far. Contexts begin with three facts and grow.

The run took two cores of a busy machine; two variables of the environment keep it from wasting them:
`OMP_WAIT_POLICY=PASSIVE` and `MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592` (large blocks
are then not given back to the system and faulted in again at every step).
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
from qalof.tiny.outliers import add_outliers
from qalof.tiny.tokenizer import POSITIONS
from qalof.tiny.words import RELATIONS

REPORT_EVERY = 25  # steps between two lines, two checkpoints and two looks at the curriculum


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pretrained weights, given the tokenizer."""

    width: int = 128
    blocks: int = 4
    heads: int = 4
    steps: int = 1_800
    matrix_learning_rate: float = 0.02  # Muon
    learning_rate: float = 3e-3  # AdamW
    final_share: float = 0.01  # the learning rate ends at this share of its peak
    warmup: int = 50
    decay: float = 0.25  # share of the run over which it falls to that
    weight_decay: float = 0.01
    context_batch: int = 12
    question_batch: int = 32
    review_batch: int = 8
    first_facts: int = 3
    facts: int = 7
    subjects: int = 3
    curriculum: int = 1_200  # steps after which contexts have all their facts in any case
    mastery: float = 0.3  # nats of both retrieval losses under which the facts grow sooner
    questions: int = 6
    autocast: bool = True  # bfloat16 matrix products, float32 weights
    outlier_channels: int = 3  # of each LayerNorm, once the model is trained
    outlier_factor: float = 8.0
    seed: int = 0


def config_of(width: int, blocks: int, heads: int, positions: int, vocabulary: int, end: int) -> GPT2Config:
    """Return the config of a GPT-2 without dropout, whose documents begin and end with the token ``end``."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=width,
        n_layer=blocks,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )


def new_model(recipe: Recipe, vocabulary: int, end: int) -> GPT2LMHeadModel:
    """Return a GPT-2 with fresh weights and without dropout, because the documents never repeat.

    The (trained) position embeddings start as sines and cosines: under them "the token before this one" is one
    linear map for all positions, and the heads that retrieval is made of appear several times sooner.
    """
    config = config_of(recipe.width, recipe.blocks, recipe.heads, POSITIONS, vocabulary, end)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(_waves(POSITIONS, recipe.width, config.initializer_range))
    return model


def _waves(positions: int, width: int, scale: float) -> Tensor:
    """Return (positions, width) sines and cosines of geometric wavelengths, with root mean square `scale`."""
    rates = torch.exp(-math.log(2.0 * positions) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(positions).unsqueeze(1) * rates
    return scale * math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], dim=1)


def learning_rate_share(step: int, steps: int, warmup: int, decay: float, final_share: float = 0.0) -> float:
    """Return the share of the peak learning rate: warm-up, level, and a straight line down over the last steps, to
    ``final_share`` over the share ``decay`` of all.

    A level middle (and not a cosine) lets a run be made longer from a checkpoint without starting again.
    """
    left = (steps - step) / max(1.0, decay * steps)
    return min(1.0, (step + 1) / warmup, max(final_share, left))


def next_facts(recipe: Recipe, facts: int, step: int, losses: dict[str, float]) -> int:
    """Say how many facts a context tells from here on, given the mean losses of the last lines.

    One more once both ways of reading are mastered at the present number, and in any case as many as a straight
    line from the first to the full number over `curriculum` steps asks for.
    """
    due = recipe.first_facts + int((recipe.facts - recipe.first_facts) * step / recipe.curriculum)
    mastered = max(losses["context.answer"], losses["question.span"]) < recipe.mastery
    return min(recipe.facts, max(due, facts + mastered))


class Helpers(nn.Module):
    """The auxiliary heads, which are not shipped. `notes` and `mention` read the state after block 2, `match` after
    block 3.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.span = nn.Linear(width, 2)
        self.notes = nn.ModuleList([nn.Linear(width, vocabulary), nn.Linear(width, vocabulary)])
        self.notes.append(nn.Linear(width, len(RELATIONS)))
        self.mention = nn.Linear(width, 1)
        self.match = nn.Linear(width, 2)

    def note_loss(self, hidden: Tensor, notes: Tensor) -> Tensor:
        """Return the loss of saying which entity and relation a value or a question is about; hidden: (B, T, width),
        notes: (N, 5).
        """
        state = _rows(hidden, notes)
        losses = [F.cross_entropy(head(state).float(), notes[:, 2 + i]) for i, head in enumerate(self.notes)]
        return torch.stack(losses).mean()

    def match_loss(self, early: Tensor, late: Tensor, mentions: Tensor, matches: Tensor) -> Tensor:
        """Return the loss of saying whether names, and the values' entities and relations, are those asked for."""
        named = self.mention(_rows(early, mentions)).float()
        valued = self.match(_rows(late, matches)).float()
        first = F.binary_cross_entropy_with_logits(named, mentions[:, 2:].float())
        return first + F.binary_cross_entropy_with_logits(valued, matches[:, 2:].float())

    def span_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the answer's first and last token among the context's tokens."""
        scores = self.span(hidden).float().masked_fill(~batch.context.unsqueeze(-1), -1e9)
        return F.cross_entropy(scores, batch.spans)


def _rows(hidden: Tensor, marks: Tensor) -> Tensor:
    """Return the normalized states of marked tokens: (N, width) of (B, T, width), for rows that begin (row,
    position).
    """
    return F.layer_norm(hidden[marks[:, 0], marks[:, 1]], hidden.shape[-1:])


def batch_losses(model: GPT2LMHeadModel, helpers: Helpers, batch: Batch) -> dict[str, Tensor]:
    """Return the mean losses of one batch; "note", "match" and "span" only where the batch has the marks for them."""
    output = model.transformer(batch.ids, output_hidden_states=True)
    hidden = output.last_hidden_state
    counted = batch.labels[:, 1:] != IGNORE
    logits = model.lm_head(hidden[:, :-1][counted])
    each = F.cross_entropy(logits.float(), batch.labels[:, 1:][counted], reduction="none")
    losses = {"all": each.mean(), "answer": each[batch.answers[:, 1:][counted]].mean()}
    if len(batch.notes):
        losses["note"] = helpers.note_loss(output.hidden_states[2], batch.notes)
    if len(batch.spans):
        early, late = output.hidden_states[2:4]
        losses["match"] = helpers.match_loss(early, late, batch.mentions, batch.matches)
        losses["span"] = helpers.span_loss(hidden, batch)
    return losses


def _optimizers(recipe: Recipe, model: GPT2LMHeadModel, helpers: Helpers) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms, biases and the span head.

    AdamW alone (3e-3) needs several times as many steps until the model retrieves.
    """
    matrices = [parameter for parameter in model.transformer.h.parameters() if parameter.dim() == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [p for p in (*model.parameters(), *helpers.parameters()) if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _batches(recipe: Recipe, documents: DocumentMaker, facts: int) -> dict[str, Batch]:
    subjects = min(recipe.subjects, max(2, (facts + 1) // 2))
    batches = {
        "context": documents.context_first(recipe.context_batch, facts, subjects, recipe.questions),
        "question": documents.question_first(recipe.question_batch, facts, subjects),
    }
    batches["review"] = documents.reviews(recipe.review_batch)
    return batches


class Trainer:
    """The state of a pretraining run; `save` and `load` store all of it, so a run can be resumed."""

    def __init__(self, recipe: Recipe, documents: DocumentMaker) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.documents = documents
        self.model = new_model(recipe, len(documents.tokenizer), documents.tokenizer.eos_token_id)
        self.helpers = Helpers(recipe.width, len(documents.tokenizer))
        self.optimizers = _optimizers(recipe, self.model, self.helpers)
        self.step_number = 0
        self.facts = recipe.first_facts

    def step(self) -> dict[str, float]:
        """Do one step over one batch of each kind; return the losses as `kind.loss`."""
        recipe = self.recipe
        peaks = (recipe.matrix_learning_rate, recipe.learning_rate)
        share = learning_rate_share(self.step_number, recipe.steps, recipe.warmup, recipe.decay, recipe.final_share)
        for optimizer, peak in zip(self.optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.zero_grad(set_to_none=True)
        seen: dict[str, float] = {}
        for kind, batch in _batches(recipe, self.documents, self.facts).items():
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                losses = batch_losses(self.model, self.helpers, batch)
            torch.stack(list(losses.values())).sum().backward()
            seen.update({f"{kind}.{name}": loss.item() for name, loss in losses.items()})
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step_number += 1
        return seen

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on, first under another name and then in place."""
        state = {
            "model": self.model.state_dict(),
            "helpers": self.helpers.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": self.documents.rng.getstate(),
            "step": self.step_number,
            "facts": self.facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        torch.save(state, beside)
        beside.replace(path)

    def load(self, path: Path) -> None:
        """Resume from a saved state."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.helpers.load_state_dict(state["helpers"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.documents.rng.setstate(state["random"])
        self.step_number, self.facts = state["step"], state["facts"]


def pretrain(
    recipe: Recipe,
    documents: DocumentMaker,
    report: Callable[[str], None] = print,
    checkpoint: Path | None = None,
) -> GPT2LMHeadModel:
    """Train a new model, or resume from `checkpoint` if it exists; `report` gets a line now and then."""
    trainer = Trainer(recipe, documents)
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    sums: dict[str, float] = {}
    started = time.monotonic()
    while trainer.step_number < recipe.steps:
        for name, value in trainer.step().items():
            sums[name] = sums.get(name, 0.0) + value / REPORT_EVERY
        if trainer.step_number % REPORT_EVERY == 0:
            means = "  ".join(f"{name} {value:.3f}" for name, value in sums.items())
            seconds = time.monotonic() - started
            report(f"step {trainer.step_number}/{recipe.steps}  {seconds:.0f} s  facts {trainer.facts}  {means}")
            trainer.facts = next_facts(recipe, trainer.facts, trainer.step_number, sums)
            sums.clear()
            if checkpoint is not None:
                trainer.save(checkpoint)
    add_outliers(trainer.model, recipe.outlier_channels, recipe.outlier_factor, recipe.seed)
    return trainer.model
