"""A classifier of a few thousand parameters that learns the sentiment of single words in seconds."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2TokenizerFast

from qalof.attacks.result import AttackExample
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.switchable import SwitchableModel, build
from qalof.rng import portable_draws

SUBJECTS = ("film", "play", "room", "food", "music", "book")
GOOD = ("good", "great", "lovely", "fine")
BAD = ("bad", "awful", "dull", "poor")
ENDINGS = ("in the evening", "on a Monday", "by the window", "for two days")


class Victim(NamedTuple):
    model: SwitchableModel
    lm: GPT2LMHeadModel
    tokenizer: GPT2TokenizerFast
    examples: list[AttackExample]
    folder: Path


def sentence(rng: random.Random, label: int) -> str:
    word = rng.choice(GOOD if label else BAD)
    return f"We found the {rng.choice(SUBJECTS)} {word} {rng.choice(ENDINGS)}."


def small_tokenizer(folder: Path) -> GPT2TokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    core.train_from_iterator([sentence(rng, n % 2) for n in range(400)], trainer)
    end = "<|endoftext|>"
    GPT2TokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end).save_pretrained(folder)
    return load_tokenizer(str(folder))


def train(model: torch.nn.Module, tokenizer: GPT2TokenizerFast, steps: int, *, as_lm: bool) -> None:
    rng = random.Random(1)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        labels = [n % 2 for n in range(16)]
        batch = tokenizer([sentence(rng, label) for label in labels], padding=True, return_tensors="pt")
        # no text holds eos, so every pad may be told by its id
        targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100) if as_lm else torch.tensor(labels)
        loss = model(**batch, labels=targets).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.zero_grad()
    model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other cost far more than these small products
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    folder = tmp_path_factory.mktemp("victim")
    tokenizer = small_tokenizer(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    # drawn alike and trained in float64, the weights that are left in float32 are the same on every processor
    with portable_draws():
        lm, classifier = GPT2LMHeadModel(config).double(), GPT2ForSequenceClassification(config).double()
    train(lm, tokenizer, 80, as_lm=True)
    classifier.transformer.load_state_dict(lm.transformer.state_dict())
    train(classifier, tokenizer, 60, as_lm=False)
    lm, classifier = lm.float(), classifier.float()
    classifier.save_pretrained(folder)
    rng = random.Random(2)
    examples = [AttackExample(n, sentence(rng, n % 2), n % 2) for n in range(6)]
    model = build(BaseModel(str(folder), HeadKind.CLASSIFIER, labels=2))
    return Victim(model, lm, tokenizer, examples, folder)


@pytest.fixture(scope="module")
def language(victim: Victim) -> SwitchableModel:
    """The language model as a victim."""
    return SwitchableModel.of(victim.lm, BaseModel("in memory", HeadKind.CAUSAL_LM), {})


@pytest.fixture
def tokens_read(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens every pass of the victim computes, padding included; it grows with each pass."""
    seen: list[int] = []
    forward = type(victim.model).forward

    def counted(self: Any, *args: Any, **given: Any) -> Any:
        seen.append(given["input_ids"].numel())
        return forward(self, *args, **given)

    monkeypatch.setattr(type(victim.model), "forward", counted)
    return seen
