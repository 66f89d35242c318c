"""GBDA, the gradient-based distributional attack (Guo et al., EMNLP 2021, arXiv 2104.13733; docs/methods/attacks.md).

The text of n tokens becomes a distribution, Theta (n, V) with Theta[i, x_i] = C and 0 elsewhere, and Adam minimizes
over Gumbel-softmax samples pi (n, V) of it

    L = mean max(0, h_y - max_{k != y} h_k + kappa) + lambda_lm NLL_g(pi) - lambda_sim R(x, pi)

h: the victim's logits for the inputs pi E.  NLL_g: how unlikely the language model g finds pi.  R: BERTScore recall
between the last hidden states of g on x and on pi.  Then hard samples are drawn, decoded, *tokenized again* (a
sample's tokens need not be the ones that its text has) and classified.

The defaults are the official code's; those that suit the shipped tiny model are :data:`TINY_SETTINGS`.  Choices:

- C is 15 for GPT-2's vocabulary and changes with V, so a token always starts with 98.5 % probability.
- First and last token are *held*, hard one-hot rows.  The official code only keeps their gradient at zero, so a sample
  still changes each of them with 1.5 % probability, and the last is where GPT-2 classifies.
- Special tokens have probability 0 unless they stand in the text: no text that a user writes holds them.
- An attack succeeds when any hard sample is misclassified at the attacked precision.  What is kept is the wrong sample
  with the fewest changed words (the official code keeps the first); if none is wrong, the nearest miss.
- An attacker who knows that precisions are drawn takes the mean of the first term over them at every step.
- All noise of an example comes from one generator keyed by (seed, example, bitmap): the order of examples and the
  worker change nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch.nn import functional

from qalof.attacks.attack import Work
from qalof.attacks.examples import labeled_texts, text_misfit
from qalof.attacks.goal import LabelGoal
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus, words_changed
from qalof.attacks.victim import Precisions, Victim, classifier, embedding_matrix, frozen, margins, transformers_model
from qalof.errors import BadInputError
from qalof.laws import Count, Law, Natural, Positive, Weight, check_numbers
from qalof.precision import at_least_float32
from qalof.tasks.base import Task

REFERENCE_COEFFICIENT = 15.0
REFERENCE_VOCABULARY = 50_257
_TINY_FLOAT = 1e-20


@dataclass(frozen=True)
class GbdaSettings:
    """The settings of GBDA; the module's docstring has the symbols."""

    uses_lm: ClassVar[bool] = True
    """Whether the attack needs a language model."""

    iterations: Natural = 100
    """How many steps Adam takes."""
    batch: Count = 10
    """How many Gumbel-softmax samples a step averages over."""
    samples: Count = 100
    """How many hard samples are drawn at the end."""
    learning_rate: Positive = 0.3
    """The learning rate of Adam."""
    temperature: Positive = 1.0
    """The temperature of the Gumbel-softmax."""
    coefficient: Annotated[float, Law(ge=0, off="null is 15, moved to this vocabulary")] | None = None
    """The logit with which a token of the text begins (C); null takes 15, moved to the size of this vocabulary."""
    kappa: Annotated[float, Law(ge=0)] = 5.0
    """The margin that is aimed at, in logits."""
    lambda_lm: Weight = 1.0
    """The weight of fluency, which is NLL_g in the objective."""
    lambda_sim: Weight = 1.0
    """The weight of similarity to the original text."""
    idf: tuple[Weight, ...] | None = field(default=None, repr=False)
    """The weight of each token id in the similarity R; null weighs all alike."""
    max_length: Count = 128
    """The most tokens of a text; a longer text keeps its beginning."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def examples(self, task: Task) -> list[AttackExample]:
        """Return a classifier's validation texts."""
        return labeled_texts(task)

    def work(self, tokens: int) -> Work:
        """Return the passes of the victim and of the language model, with the hard samples at the end."""
        return Work(2 * self.iterations * self.batch, self.samples)

    def misfit(self, example: AttackExample, model: Any, tokenizer: Any) -> str | None:
        """Say why a text cannot be attacked: it has no words, or a label that the classifier does not have."""
        return text_misfit(example, model)

    def build(self, model: Any, tokenizer: Any, lm: Any, seed: int = 0, precisions: Precisions | None = None) -> Gbda:
        """Build the attack on a classifier, with ``lm`` as g."""
        return Gbda(classifier(model, tokenizer, self.max_length, precisions), lm, self, seed)

    def judge(self, model: Any, tokenizer: Any) -> LabelGoal:
        """Return the judge, which uses the label that the classifier gives."""
        return LabelGoal(classifier(model, tokenizer, self.max_length))


TINY_SETTINGS = GbdaSettings(
    iterations=40, batch=5, samples=50, learning_rate=0.5, kappa=1.0, lambda_lm=0.3, lambda_sim=20.0
)
"""Settings for the tiny model and its reviews, which change half as many words as the defaults in a fifth of the
time."""


class Gbda:
    """See the module's docstring; an :class:`~qalof.attacks.attack.Attack`.

    Raises:
        BadInputError: The language model or ``idf`` has another vocabulary than the victim.
    """

    name = "gbda"

    def __init__(self, victim: Victim, lm: Any, settings: GbdaSettings, seed: int = 0) -> None:
        self.victim, self.lm, self.settings, self.seed = victim, lm, settings, seed
        self.embedding, self.lm_embedding = embedding_matrix(victim.model), embedding_matrix(lm)
        # mostly g is what the victim was made of, and then its samples are embedded once for both
        self.one_embedding = torch.equal(self.embedding, self.lm_embedding)
        size = len(self.embedding)
        lengths = {"the language model's embedding": len(self.lm_embedding), "idf": len(settings.idf or range(size))}
        for what, length in lengths.items():
            if length != size:
                raise BadInputError(f"{what} must have the victim's {size} tokens: got {length}; share the tokenizer")
        self.device = self.embedding.device
        self.forbidden = _forbidden(victim.tokenizer, size).to(self.device)
        self.dtype = at_least_float32(self.embedding).dtype
        self.idf = torch.tensor(settings.idf or [1.0] * size, dtype=self.dtype, device=self.device)

    def run(self, example: AttackExample) -> AttackResult:
        """Attack one text at the victim's bitmap, or in the mean over its precisions."""
        self.victim.begin(example.id)
        paid = self.victim.queries_per_text
        ids = self.victim.encode([example.text])[0]
        original = self.victim.decode(ids)
        if self.victim.predict([original])[0] != example.label:
            return self._result(example, AttackStatus.SKIPPED, original, original, queries=paid)
        generator = torch.Generator(self.device).manual_seed(example_seed(self.seed, example.id, self.victim.bitmap))
        with frozen(self.victim.model, self.lm):
            theta, losses = self.optimize(ids, example.label, generator)
        texts = [self.victim.decode(row) for row in self.hard_samples(theta, ids, generator)]
        logits = self.victim.logits(texts)
        lead = margins(logits, example.label)
        wrong = [index for index, predicted in enumerate(logits.argmax(-1).tolist()) if predicted != example.label]
        changed = {text: words_changed(original, text) for text in {texts[index] for index in wrong}}
        best = min(wrong, key=lambda index: (changed[texts[index]], lead[index].item()), default=int(lead.argmin()))
        return self._result(
            example,
            AttackStatus.SUCCESS if wrong else AttackStatus.FAILED,
            original,
            texts[best],
            queries=paid * (1 + len(losses) * self.settings.batch + len(texts)),
            samples=len(texts),
            wrong_samples=len(wrong),
            losses=tuple(losses),
        )

    def _result(
        self, example: AttackExample, status: AttackStatus, original: str, found: str, **figures: Any
    ) -> AttackResult:
        at = self.victim.bitmap
        return AttackResult.of(example, self.name, at, status, original, found, seed=self.seed, **figures)

    def initial(self, ids: Sequence[int]) -> torch.Tensor:
        """Return Theta before the first step, of the free (inner) positions: (n - 2, V), or (0, V) for two tokens or
        fewer.
        """
        size = len(self.embedding)
        coefficient = self.settings.coefficient
        if coefficient is None:
            coefficient = coefficient_for(size)
        inner = torch.tensor(ids[1:-1], dtype=torch.int64, device=self.device)
        theta = torch.zeros(len(inner), size, dtype=self.dtype, device=self.device)
        return theta.masked_fill_(self.forbidden, -torch.inf).scatter_(1, inner[:, None], coefficient)

    def optimize(
        self, ids: Sequence[int], label: int, generator: torch.Generator,
        objective: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
        """Return theta (n - 2, V) after all steps, and the loss of each; ``objective`` replaces L (pi -> loss)."""
        theta = self.initial(ids)
        losses: list[float] = []
        if not len(theta):
            return theta, losses
        loss_of = objective or self.objective(ids, label)
        theta.requires_grad_(True)
        adam = torch.optim.Adam([theta], lr=self.settings.learning_rate)
        ends = functional.one_hot(torch.tensor([ids[0], ids[-1]], device=self.device), theta.shape[1]).to(theta.dtype)
        first, last = (row.expand(self.settings.batch, 1, -1) for row in ends)
        for _ in range(self.settings.iterations):
            noise = gumbel((self.settings.batch, *theta.shape), generator, self.dtype)
            soft = torch.softmax((theta + noise) / self.settings.temperature, dim=-1)
            loss = loss_of(torch.cat([first, soft, last], dim=1))
            (theta.grad,) = torch.autograd.grad(loss, [theta])
            adam.step()
            losses.append(loss.item())
        return theta.detach(), losses

    def objective(self, ids: Sequence[int], label: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return L, a function of samples pi (batch, n, V) for one text."""
        with torch.no_grad():
            reference = self._read(self.lm_embedding[torch.tensor([list(ids)], device=self.device)])[1]
        weights = self.idf[torch.tensor(list(ids), device=self.device)]

        def loss(pi: torch.Tensor) -> torch.Tensor:
            embedded = pi @ self.embedding
            adversarial = pi.new_zeros(())
            for weight in self.victim.readings():
                logits = at_least_float32(self.victim.model(inputs_embeds=embedded).logits)
                hinge = functional.relu(margins(logits, label) + self.settings.kappa)
                adversarial = adversarial + weight * hinge.mean()
            log_p, states = self._read(embedded if self.one_embedding else pi @ self.lm_embedding)
            likelihood = soft_nll(pi, log_p).mean()
            similarity = soft_recall(reference, states, weights).mean()
            return adversarial + self.settings.lambda_lm * likelihood - self.settings.lambda_sim * similarity

        return loss

    def _read(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities (B, n, V) and last hidden states (B, n, features) of the language model."""
        outputs = transformers_model(self.lm)(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        states = at_least_float32(outputs.hidden_states[-1])
        return functional.log_softmax(at_least_float32(outputs.logits), dim=-1), states

    def hard_samples(self, theta: torch.Tensor, ids: Sequence[int], generator: torch.Generator) -> list[list[int]]:
        """Draw ``samples`` token rows from softmax(Theta) between the fixed ends."""
        if not len(theta):
            return [list(ids)] * self.settings.samples
        rows = []
        for _ in range(self.settings.samples):  # one by one: 100 noise tensors of a whole vocabulary take gigabytes
            inner = (theta + gumbel(tuple(theta.shape), generator, self.dtype)).argmax(-1).tolist()
            rows.append([ids[0], *inner, ids[-1]])
        return rows


def soft_nll(pi: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Return -mean_t sum_v pi[t+1, v] log p(v | pi[<= t]).  (B, n, V), (B, n, V) -> (B,)."""
    return -(pi[:, 1:] * log_p[:, :-1]).sum(-1).mean(-1)


def soft_recall(reference: torch.Tensor, states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return R = sum_i w_i max_j cos(u_i, v_j), with first and last positions dropped, and weights that sum to 1 over
    the rest.

    reference: (1, n, F); states: (B, n, F); weights: (n,) -> (B,).
    """
    u = functional.normalize(reference[:, 1:-1], dim=-1)
    v = functional.normalize(states[:, 1:-1], dim=-1)
    inner = weights[1:-1] / weights[1:-1].sum().clamp_min(_TINY_FLOAT)
    return ((u @ v.transpose(1, 2)).amax(-1) * inner).sum(-1)


def gumbel(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Draw standard Gumbel noise, -log of an exponential variable, in ``dtype``, the same on every processor.

    torch's own ``exponential_`` takes another library's generator on Intel processors.
    """
    exponential = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    exponential.neg_().log1p_().neg_()
    return exponential.clamp_min_(_TINY_FLOAT).log_().neg_().to(dtype)


def coefficient_for(vocabulary: int, coefficient: float = REFERENCE_COEFFICIENT) -> float:
    """Return the C that gives a token the starting probability that ``coefficient`` gives it among GPT-2's 50,257.

    e^C / (e^C + V - 1) is the same for both, so C moves by log((V - 1) / 50,256).
    """
    if vocabulary < 2:
        raise BadInputError(f"a vocabulary must have at least 2 tokens to attack with: got {vocabulary}")
    return coefficient + math.log((vocabulary - 1) / (REFERENCE_VOCABULARY - 1))


def inverse_document_frequency(documents: Iterable[Sequence[int]], vocabulary: int) -> tuple[float, ...]:
    """Return log((N + 1) / (df + 1)) of every token id, as BERTScore weighs them."""
    counts, total = [0] * vocabulary, 0
    for total, document in enumerate(documents, 1):  # noqa: B007  # the count outlives the loop
        for token in set(document):
            counts[token] += 1
    return tuple(math.log((total + 1) / (count + 1)) for count in counts)


def example_seed(seed: int, example: int, bitmap: str) -> int:
    """Return 63 bits of (seed, example, bitmap), the same in every process."""
    key = hashlib.sha256(f"gbda/{seed}/{example}/{bitmap}".encode()).digest()
    return int.from_bytes(key[:8], "big") >> 1


def _forbidden(tokenizer: Any, size: int) -> torch.Tensor:
    """Return a mask, (V,) bool, of special tokens and of embedding rows beyond the tokenizer's vocabulary."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[[token for token in tokenizer.all_special_ids if token < size]] = True
    mask[len(tokenizer) :] = True
    return mask
