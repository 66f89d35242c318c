"""A masked language model proposes BERT-Attack's words, on one whose logits are made by hand."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.substitutes.masked_words import MaskedWords, check_masked_lm
from qalof.attacks.words import Words
from qalof.errors import BadInputError

WORDS = ["we", "found", "the", "film", "good", "great", "bad", "fine", "##ly", ",", "room"]
LIKELY = ["good", "##ly", "great", ",", "fine", "room"]


def save(folder, kind):
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    PreTrainedTokenizerFast(tokenizer_object=core, sep_token="[SEP]", **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    model = kind(config)
    if kind is BertForMaskedLM:
        with torch.no_grad():  # the same words are likely everywhere, in this order
            for rank, word in enumerate(LIKELY):
                model.cls.predictions.bias[vocabulary[word]] = 90.0 - 10 * rank
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return save(tmp_path_factory.mktemp("masked"), BertForMaskedLM)


def test_whole_words_are_proposed_in_order_with_the_words_capitals_and_without_it(masked):
    proposer = MaskedWords(masked, 8)
    words = Words.of("We found the film Good, " + "really " * 20)
    assert proposer.candidates(words, 4)[:3] == ["Great", "Fine", "Room"]
    assert proposer.candidates(words, 3)[:4] == ["good", "great", "fine", "room"]
    assert "good" in proposer.candidates(words, 20)
    assert MaskedWords(masked, 2).candidates(words, 0) == ["Good", "Great"]


def test_bert_attack_takes_it_and_says_so(masked, victim):
    settings = BertAttackSettings(masked_lm=masked, candidates=8, least_similarity=-1.0, max_length=64, most_queries=20)
    (result,) = attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples[:1], 8, settings)
    assert result.substitutes["masked language model"].startswith("masked language model masked")
    before, after = (text.split() for text in (result.original_text, result.adversarial_text))
    new = {new.strip(".").lower() for old, new in zip(before, after, strict=True) if new != old}
    assert new <= set(LIKELY) | set(WORDS)


def test_a_model_without_its_head_is_refused_in_one_line(tmp_path):
    for source, said in ((save(tmp_path, BertModel), "must have its head"), ("nowhere", "must be a folder")):
        with pytest.raises(BadInputError, match=said) as caught:
            check_masked_lm(source)
        assert "\n" not in str(caught.value)
