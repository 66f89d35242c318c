"""The tiny model's tokenizer: a byte-level BPE trained on the tiny world's own text.

It is GPT-2's scheme with a small vocabulary (`<|endoftext|>` is bos and eos, there is no pad token), stored in the
Hugging Face format, so `AutoTokenizer` opens it without a hub. Rare words are shown to the trainer as often as common
ones, because every name and value should be one token: the model is to match, not to spell.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2TokenizerFast

from qalof.tiny import words
from qalof.tiny.reviews import ADVERBS, OPINIONS, SUBJECTS, VERBS, make_reviews
from qalof.tiny.world import World

END = "<|endoftext|>"
VOCABULARY = 2048
POSITIONS = 256
PASSAGES = 4_000
WORD_REPEATS = 40


def _corpus(seed: int) -> Iterator[str]:
    """Yield the training text: passages with their questions, reviews, and every listed word often enough."""
    rng = random.Random(seed)
    world = World("train", rng)
    for _ in range(PASSAGES):
        passage = world.passage(6, 3)
        yield f"Context: {passage.context}"
        for question in passage.questions:
            yield f"\nQuestion: {question.text}\nAnswer: {question.answer}"
            yield f"{question.text}\n{passage.context}"
    for review in make_reviews(rng, PASSAGES):
        yield f"{review.text}\nSentiment: {('negative', 'positive')[review.label]}"
    values = [value for group in words.VALUES.values() for value in group]
    names = (*words.FIRST_NAMES, *words.LAST_NAMES, *words.PLACE_HEADS, *words.PLACE_TAILS)
    listed = " ".join([*values, *names, *OPINIONS, *VERBS, *ADVERBS, *SUBJECTS])
    for _ in range(WORD_REPEATS):
        yield " " + listed


def train_tokenizer(directory: Path, seed: int) -> GPT2TokenizerFast:
    """Train on the tiny world's text and save `tokenizer.json`, its configuration, vocabulary and merges."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(seed), trainer)
    tokenizer = GPT2TokenizerFast(
        tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END, model_max_length=POSITIONS
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    core.model.save(str(directory))
    return tokenizer
