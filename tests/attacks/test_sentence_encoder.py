"""A sentence encoder in place of the stand-in: what it must be, and what it says."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.substitutes.sentence_encoder import EncoderSimilarity, check_encoder
from qalof.cache import models_dir
from qalof.errors import BadInputError
from qalof.real_model import SENTENCE_ENCODER
from qalof.tiny import MODEL_DIR

WORDS = ["the", "film", "was", "good", "bad", "great", "awful", "room", "food"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    save_model(folder, BertModel, BertConfig)
    return str(folder)


def save_model(folder: Path, model: Any, config: Any) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 4 + len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model(config(**sizes, intermediate_size=16, max_position_embeddings=12)).save_pretrained(folder)


def test_a_text_longer_than_an_encoder_reads_keeps_its_beginning_wherever_its_positions_begin(
    encoder: str, tmp_path: Path
) -> None:
    roberta = tmp_path / "roberta"
    shutil.copytree(encoder, roberta)
    save_model(roberta, RobertaModel, RobertaConfig)  # its positions begin at 2
    for folder, longest in ((encoder, 12), (str(roberta), 10)):
        similarity = EncoderSimilarity(folder, "cosine")
        read = "room " * (longest - 2)
        assert torch.equal(similarity.vectors([read + "good bad"]), similarity.vectors([read]))
        assert not torch.equal(similarity.vectors([read]), similarity.vectors([read[5:]]))


def test_a_text_is_like_itself_and_the_order_of_others_is_kept(encoder: str) -> None:
    texts = ["the film was good", "the film was bad", "", "room " * 30, "the film was good"]
    cosines = EncoderSimilarity(encoder, "cosine").of(texts[0], texts)
    assert cosines[0] == cosines[4] == 1.0
    assert all(-1 <= cosine < 1 for cosine in cosines[1:4])
    alone = [EncoderSimilarity(encoder, "cosine").of(texts[0], [text])[0] for text in texts]
    assert alone == pytest.approx(cosines, abs=1e-6)
    angular = EncoderSimilarity(encoder, "angular").of(texts[0], texts)
    assert angular == pytest.approx([1 - math.acos(cosine) / math.pi for cosine in cosines], abs=1e-6)


@pytest.mark.parametrize("settings", [TextFoolerSettings(least_cosine=-1.0), BertAttackSettings()])
def test_every_word_attack_takes_it_and_names_it(victim: Any, encoder: str, settings: Any) -> None:
    for source, name in ((encoder, f"sentence encoder {Path(encoder).name}"), ("states", "mean states")):
        own = replace(settings, encoder=source, max_length=64)
        (result,) = attack_examples(victim.model, victim.lm, victim.tokenizer, victim.examples[:1], 8, own)
        assert result.substitutes["similarity"].startswith(name)


@pytest.mark.parametrize("kind", ["absent", "file", "empty", "decoder", "cut"])
def test_a_folder_that_is_no_encoder_is_refused_before_any_attack(tmp_path: Path, encoder: str, kind: str) -> None:
    place = {"absent": tmp_path / "absent", "decoder": MODEL_DIR}.get(kind, tmp_path / kind)
    if kind == "file":
        place.write_text("no folder")
    elif kind in ("empty", "cut"):
        place.mkdir()
    if kind == "cut":
        (place / "config.json").write_text("{")
    task: Any = SimpleNamespace()
    for settings in (TextFoolerSettings, BertAttackSettings):
        with pytest.raises(BadInputError, match="encoder|GGUF|exist"):
            settings(encoder=str(place)).examples(task)
    assert check_encoder(encoder) == encoder


@pytest.mark.real
def test_the_real_encoder_tells_a_paraphrase_from_another_subject() -> None:
    if not (models_dir() / SENTENCE_ENCODER.name).is_dir():
        pytest.skip("the real sentence encoder is not in the cache: make real-model fetches it")
    similarity = EncoderSimilarity(f"cache:{SENTENCE_ENCODER.name}", "cosine")
    same, near, far = similarity.of("a great film .", ["a great film .", "a superb movie .", "it rained all day ."])
    assert same == 1.0 > near > 0.7 > 0.3 > far
