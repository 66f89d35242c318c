"""llama.cpp reads text as the tokenizer does that went into the file."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from qalof.errors import BadInputError
from qalof.export.gguf_file import write_gguf
from qalof.model.byte_level_splits import pre_tokenizer
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build

pytestmark = pytest.mark.runtime
SENTENCES = [
    "The tower was built in 1889, and it's 330 metres tall.",
    "Which NFL team represented the AFC at Super Bowl 50?",
    "We'll see: they've said \"don't\", haven't they?  Two  spaces, and three   more.",
    "Prices rose by 12345.67 % (from €1,000 to £2 000) — naïve café, Straße, Ærøskøbing.",
    "東京は日本の首都です。 Москва — столица России. 🙂👩‍👩‍👧",
    "line one\nline two\r\n\n\tindented\t\n   trailing   ",
    " leading space", "", "x", "   ", "I'M SHOUTING, YOU'RE NOT", "snake_case camelCase http://a.b/c?d=e&f=1",
]  # fmt: skip
TEXT = [*SENTENCES, "the quick brown fox jumps over the lazy dog", "in the town of the king", "1889 1890 2024"] * 3


def trained(kind):
    """A small tokenizer that splits as ``kind`` does."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer(kind)
    if kind == "qwen2":
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator(TEXT, trainer)
    if kind == "llama-bpe":
        core.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|begin|>", eos_token="<|end|>")


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """``write(tokenizer)``: a file of a random model with it."""

    def of(tokenizer):
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=512, n_positions=256, n_embd=32, n_layer=1, n_head=1)
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = build(BaseModel(str(folder), HeadKind.CAUSAL_LM), {}).eval()
        write_gguf(model, 32, folder / "m.gguf", tokenizer)
        return folder / "m.gguf"

    return of


@pytest.mark.parametrize("kind", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_tokens_are_those_of_the_tokenizer(write, read, kind):
    tokenizer = trained(kind)
    reader = read(write(tokenizer))
    for text in SENTENCES:
        assert reader.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
    # the file says itself whether text begins with a token of its own
    assert reader.tokenize("a b", add_bos=True) == tokenizer("a b")["input_ids"]
    assert reader.tokenize("a<|end|>b") == tokenizer("a<|end|>b", add_special_tokens=False)["input_ids"]


def test_the_shipped_tokenizer_agrees(write, read, tokenizer, bases, switchable, tmp_path):
    write_gguf(switchable("tiny"), 32, tmp_path / "m.gguf", tokenizer)
    reader = read(tmp_path / "m.gguf")
    for text in SENTENCES:
        assert reader.tokenize(text) == tokenizer(text)["input_ids"], text
        assert reader.model.detokenize(reader.tokenize(text)).decode() == text


def test_a_tokenizer_that_splits_otherwise_is_refused(write):
    tokenizer = trained("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(BadInputError, match="leading space"):
        write(tokenizer)
