"""Accuracy under a small attack, as a metric of a bitmap that a search can optimize (docs/methods/search.md,
"Robustness").

It is the accuracy that is left on the first texts of the split once an attacker with a stated budget has tried each of
them: per text one query for the text itself, one for each adversarial text that is tried again, and then
``attack.most_queries`` for an attack of its own.

1. A text that the bitmap gets wrong unattacked counts as wrong.
2. *Transfer first.*  The texts that attacks at the reference bitmaps came to, near misses included, are tried; one that
   fools the bitmap settles the text.
3. Only where none does, the bitmap is attacked itself.

A success whose true label changed is none (:mod:`qalof.attacks.meaning`).  The score of a text is 100 where the bitmap
still answers it rightly, and otherwise 0, so the metric has an interval over texts as every other mean has.

Under random precision the attacker knows the defense: both the old texts and the new attack are judged by the mean
over its precisions (:mod:`qalof.attacks.robustness.adaptive`), and the score of a text is the share of R draws that
answer rightly what was found for it.

The number is a function of the model, the bitmap and the settings alone, since the reference bitmaps are fixed: an
attack at one of them depends on nothing else, so whoever measures, in whichever order, tries the same old texts.  A
pool that grows with every trial was rejected.  It would save more attacks, but a bitmap would then look less robust
the later its trial came, another number of actors would give another front, and a search that was resumed would not end
like one that was not cut off.  Each actor finds the texts of the references for itself, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from transformers import PreTrainedTokenizerBase

from qalof.attacks.attack import attack_at
from qalof.attacks.examples import fitting, oracle_of
from qalof.attacks.goal import Goal
from qalof.attacks.meaning import Meaning
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.substitution import WordAttack
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import draw_table
from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT, check_masked_lm
from qalof.attacks.substitutes.sentence_encoder import STATES, check_encoder
from qalof.attacks.substitutes.synonyms import EMBEDDINGS, read_thesaurus
from qalof.attacks.victim import frozen
from qalof.attacks.words import Words
from qalof.bitmap import Bitmap
from qalof.digests import content_digest, path_digest
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.home import expanded
from qalof.laws import Count, Law, Seed, Width, check_numbers
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.paths import BitmapText
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationTask

MOST_QUERIES = 100
"""The budget of the default attack, per text and bitmap."""
DRAWS = 8
"""How often a text is read under random precision where the settings do not say."""
LAYER_DRAWS = 4
"""How many draws per step an attacker averages over where layers draw for themselves, whose bitmaps are too many."""

At = Bitmap | RandomPrecision
"""What the accuracy is left at: a fixed bitmap, or draws from a set of them."""


@dataclass(frozen=True)
class DrawnAround:
    """Random precision around the bitmap that is measured, at which a request stays unless it switches."""

    bitmaps: tuple[Width | BitmapText, ...]
    """The bitmaps to draw from when a request switches, as :meth:`qalof.bitmap.Bitmap.parse` reads them."""
    probability: Annotated[float, Law(gt=0, lt=1)] = 0.5
    """How often a request leaves the measured bitmap; at 1 every bitmap would have the same number."""
    granularity: Literal["request", "layer"] = "request"
    """What shares a draw: a ``request``, or nothing, since each ``layer`` of a request draws for itself."""
    draws: Count = DRAWS
    """How often the text that was found is read, under new draws each time."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.bitmaps:
            raise BadInputError("bitmaps must name at least one to draw from: got none; [8, 4] for example")

    def around(self, bitmap: Bitmap, seed: int) -> RandomPrecision:
        """Return the defense whose baseline is ``bitmap``.

        Raises:
            BadInputError: A bitmap does not fit the sites of ``bitmap``.
        """
        return RandomPrecision.of(
            bitmap.sites, self.bitmaps, granularity=self.granularity, seed=seed, probability=self.probability,
            baseline=bitmap,
        )  # fmt: skip


@dataclass(frozen=True)
class AdversarialAccuracySettings:
    """The texts, the attack and its budget, and the defense, if any."""

    texts: Count = 32
    """How many texts are attacked: the first of those that are scored."""
    attack: TextFoolerSettings | BertAttackSettings = field(
        default_factory=lambda: TextFoolerSettings(most_queries=MOST_QUERIES)
    )
    """The attack and its settings, whose ``most_queries`` is the budget of one attack."""
    references: tuple[Width | str, ...] = (32, 4)
    """The bitmaps that are attacked first, as :meth:`qalof.bitmap.Bitmap.parse` reads them, whose texts are then tried
    at every bitmap; none tries no old text."""
    random_precision: DrawnAround | None = None
    """The defense around each bitmap that is measured; null measures the fixed bitmap."""
    seed: Seed = 0
    """The seed of the defense's draws; the attacks draw nothing else."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def fingerprint(self) -> str:
        """Return a digest of all that the metric depends on besides model and task, contents of files included."""
        models = [] if self.attack.encoder == STATES else [check_encoder(self.attack.encoder)]
        if isinstance(self.attack, BertAttackSettings) and self.attack.masked_lm != LEFT_CONTEXT:
            models.append(check_masked_lm(self.attack.masked_lm))
        files = [path_digest(Path(expanded(path))) for path in (*self.attack.lists(), *models)]
        named = ("synonyms", "antonyms", "encoder", "masked_lm")  # their contents count, not their names
        attack = {name: value for name, value in asdict(self.attack).items() if name not in named}
        others = asdict(replace(self, attack=TextFoolerSettings()))
        return content_digest(ADVERSARIAL_ACCURACY, type(self.attack).__name__, attack, files, others)


class AdversarialAccuracy:
    """Measures the accuracy that is left, of one model whose weights do not change.

    Args:
        model: a :class:`~qalof.model.switchable.SwitchableModel` with a classifier head.
        task: its task, which gives texts and tokenizer.
        settings: of the attack.

    Raises:
        BadInputError: The task is no classification, a list, encoder or bitmap of the settings cannot be used, or no
            text can be attacked.
    """

    def __init__(self, model: Any, task: Task, settings: AdversarialAccuracySettings | None = None) -> None:
        self.settings = settings or AdversarialAccuracySettings()
        if not isinstance(task, ClassificationTask):
            raise BadInputError(
                f"{ADVERSARIAL_ACCURACY} must have a task of classification: got {task.name}; take a classifier's "
                "checkpoint, or another objective"
            )
        self._model: Any = model
        self._tokenizer: PreTrainedTokenizerBase = task.tokenizer
        names = [site.name for site in model.sites]
        self._references: list[Bitmap] = [Bitmap.parse(each, names) for each in self.settings.references]
        if self.settings.random_precision is not None:
            self.settings.random_precision.around(Bitmap.parse(32, names), self.settings.seed)
        self._examples: list[AttackExample] = self.settings.attack.examples(task)
        self._meaning: Meaning = Meaning(oracle=oracle_of(task))
        self._known: dict[tuple[str, int], AttackResult] = {}
        self._fitting(None, 0)
        self._check_list()

    def measure(self, at: At, limit: int | None = None, skip: int = 0) -> Evaluation:
        """Return the accuracy that is left, in percent, with a score per text.

        Args:
            at: the bitmap; or the defense, such as random precision over a front's bitmaps.
            limit: how many examples are scored, from which the first texts are taken; None for all.
            skip: how many examples come before them.

        Raises:
            BadInputError: No text is left, or none of their words has a candidate to replace it.
        """
        examples = self._fitting(limit, skip)
        chosen = self.settings.random_precision
        if chosen is not None and isinstance(at, Bitmap):
            at = chosen.around(at, self.settings.seed)
        with frozen(self._model, self._lm):
            scores = self._fixed(at, examples) if isinstance(at, Bitmap) else self._drawn(at, examples)
        return Evaluation({ADVERSARIAL_ACCURACY: fmean(scores)}, len(scores), {ADVERSARIAL_ACCURACY: scores})

    def added(self, evaluation: Evaluation, at: At, limit: int | None = None, skip: int = 0) -> Evaluation:
        """Return ``evaluation`` with what :meth:`measure` finds; its examples stay those of the evaluation."""
        return with_robustness(evaluation, self.measure(at, limit, skip))

    def _fixed(self, bitmap: Bitmap, examples: Sequence[AttackExample]) -> list[float]:
        with self._model.at(bitmap):
            return [0.0 if self._found(self._attack.goal, example)[1] else 100.0 for example in examples]

    def _drawn(self, defense: RandomPrecision, examples: Sequence[AttackExample]) -> list[float]:
        draws = LAYER_DRAWS if defense.weights() is None else None
        goal = self.settings.attack.goal(self._model, self._tokenizer, Expectation(defense, draws))
        found = [self._found(goal, example)[0] for example in examples]
        judge = self.settings.attack.judge(self._model, self._tokenizer)
        chosen = self.settings.random_precision
        answers = draw_table(judge, [found], defense, DRAWS if chosen is None else chosen.draws).adversarial[0]
        return [100.0 * float((row == example.label).mean()) for row, example in zip(answers, examples, strict=True)]

    def _found(self, goal: Goal, example: AttackExample) -> tuple[AttackResult, bool]:
        """Return what was found for a text, and whether ``goal`` is reached with it: the model is wrong."""
        goal.begin(example.id)
        original = goal.read(example.text)
        if not goal.lost(original, example.label):
            old = [each for each in self._old(example) if each.valid_text != original]
            again = goal.get_results(original, example.label, [each.valid_text for each in old])
            for each, read in zip(old, again, strict=True):
                if read.succeeded:
                    return each, True
        result = self._meaning.judged(self._attack.against(goal).run(example))
        return result, result.status in (AttackStatus.SUCCESS, AttackStatus.SKIPPED)

    def _old(self, example: AttackExample) -> list[AttackResult]:
        """Return what attacks at the references came to."""
        for bitmap in self._references:
            if (str(bitmap), example.id) not in self._known:
                result = self._meaning.judged(attack_at(bitmap, self._model, self._attack, example))
                self._known[str(bitmap), example.id] = result
        return [self._known[str(bitmap), example.id] for bitmap in self._references]

    def _fitting(self, limit: int | None, skip: int) -> list[AttackExample]:
        chosen = self._examples[skip:][:limit][: self.settings.texts]
        return fitting(self.settings.attack, chosen, self._model, self._tokenizer)[0]

    @cached_property
    def _lm(self) -> Any:
        lm: Any = load_pretrained(self._model.base.source, HeadKind.CAUSAL_LM)
        return lm.to(self._model.device)

    @cached_property
    def _attack(self) -> WordAttack:
        attack = self.settings.attack.build(self._model, self._tokenizer, self._lm, self.settings.seed)
        for example in self._fitting(None, 0):
            words = Words.of(attack.goal.read(example.text))
            if any(attack.allowed(words, index) for index in range(len(words.words))):
                return attack
        raise BadInputError(
            f"{ADVERSARIAL_ACCURACY} must have a word to replace: no word of {self.settings.texts} texts has a "
            "candidate; lower least_cosine, or name another list of synonyms"
        )

    def _check_list(self) -> None:
        """Refuse a list that has no word of the texts, before a language model is loaded."""
        settings = self.settings.attack
        if not isinstance(settings, TextFoolerSettings) or settings.synonyms == EMBEDDINGS:
            return
        listed = read_thesaurus(settings.synonyms)
        texts = self._fitting(None, 0)
        if not any(word.lower() in listed for example in texts for word in Words.of(example.text).words):
            raise BadInputError(
                f"{ADVERSARIAL_ACCURACY} must have a word to replace: word list {settings.synonyms} has no word of the "
                f"{len(texts)} texts; name a longer list, or {EMBEDDINGS}"
            )


def with_robustness(evaluation: Evaluation, robustness: Evaluation) -> Evaluation:
    """Return ``evaluation`` with the metrics and scores of ``robustness``; its number of examples stays."""
    return replace(
        evaluation,
        metrics={**evaluation.metrics, **robustness.metrics},
        per_example={**evaluation.per_example, **robustness.per_example},
    )
