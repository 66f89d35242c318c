"""The committed data, tokenizer and model are what the recipe says they are."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel

from qalof.tiny import DATA_DIR, MODEL_DIR, REVIEWS_DIR, SQUAD_DIR
from qalof.tiny import words as lists
from qalof.tiny.build import QUESTIONS, REVIEWS, build_data, build_tokenizer
from qalof.tiny.reviews import ADVERBS, LABELS, OPINIONS, SUBJECTS, VERBS
from qalof.tiny.world import KINDS, World, entities

MIB = 2**20


def _questions(split: str) -> list[tuple[str, dict[str, Any]]]:
    data = json.loads((SQUAD_DIR / f"{split}.json").read_text(encoding="utf-8"))["data"]
    return [
        (paragraph["context"], question)
        for article in data
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _reviews(split: str) -> list[dict[str, Any]]:
    lines = (REVIEWS_DIR / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_recipe_gives_the_committed_data_byte_for_byte(tmp_path: Path) -> None:
    build_data(tmp_path)
    assert _files(tmp_path) == _files(DATA_DIR)


@pytest.mark.slow
def test_the_recipe_gives_the_committed_tokenizer_byte_for_byte(tmp_path: Path) -> None:
    build_tokenizer(tmp_path)
    made = _files(tmp_path)
    assert {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"} <= made.keys()
    assert made == {name: content for name, content in _files(MODEL_DIR).items() if name in made}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_answers_stand_where_the_file_says_and_nowhere_else(split: str) -> None:
    questions = _questions(split)
    assert len(questions) == QUESTIONS[split]
    assert len({question["id"] for _, question in questions}) == len(questions)
    for context, question in questions:
        (answer,) = question["answers"]
        start = answer["answer_start"]
        assert context[start : start + len(answer["text"])] == answer["text"]
        assert 1 <= len(answer["text"].split()) <= 3


def test_the_splits_share_no_entity_and_so_no_fact() -> None:
    train, validation = entities("train"), entities("validation")
    for kind in KINDS:
        assert not set(train[kind]) & set(validation[kind])
    for split, strangers in (("train", validation), ("validation", train)):
        for context, question in _questions(split):
            asked = question["question"] + " " + context
            assert not [name for kind in KINDS for name in strangers[kind] if name in asked]


def test_every_word_of_a_validation_name_occurs_in_training() -> None:
    for kind in KINDS:
        seen = {word for name in entities("train")[kind] for word in name.split()}
        assert {word for name in entities("validation")[kind] for word in name.split()} <= seen


def test_an_answer_needs_entity_and_relation() -> None:
    world = World("train", random.Random(0))
    for _ in range(50):
        facts = [question.fact for question in world.passage(7, 3).questions]
        assert len({(fact.entity, fact.relation.name) for fact in facts}) == 7
        assert len({fact.entity for fact in facts}) < 7
        assert len({fact.relation.name for fact in facts}) < 7


def test_no_value_begins_another() -> None:
    for values in lists.VALUES.values():
        for value in values:
            assert not [other for other in values if other.startswith(value + " ")]


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="must be one of train, validation: got 'test'"):
        entities("test")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_reviews_are_balanced_and_different(split: str) -> None:
    reviews = _reviews(split)
    assert len(reviews) == REVIEWS[split] == len({review["text"] for review in reviews})
    assert sum(review["label"] for review in reviews) * 2 == len(reviews)
    assert json.loads((REVIEWS_DIR / "labels.json").read_text(encoding="utf-8")) == list(LABELS)


def test_no_review_is_in_both_splits() -> None:
    assert not {review["text"] for review in _reviews("train")} & {review["text"] for review in _reviews("validation")}


def test_the_tokenizer_gives_text_back_and_words_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert tokenizer.is_fast
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token is None
    for context, question in _questions("validation"):
        text = f"{question['question']}\n{context}"
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert tokenizer.decode(encoded["input_ids"]) == text
        assert len(encoded["input_ids"]) <= 96
        assert "".join(text[start:stop] for start, stop in encoded["offset_mapping"]) == text
    values = [word for group in lists.VALUES.values() for value in group for word in value.split()]
    names = [*lists.FIRST_NAMES, *lists.LAST_NAMES, *lists.PLACE_HEADS, *lists.PLACE_TAILS]
    adverbs = [word for word in ADVERBS if word]
    for word in (*values, *names, *OPINIONS, *VERBS, *adverbs, *SUBJECTS):
        assert len(tokenizer(" " + word)["input_ids"]) == 1, word


def test_the_model_opens_and_is_small() -> None:
    model = GPT2LMHeadModel.from_pretrained(MODEL_DIR)
    assert model.config.n_layer >= 4
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    assert (MODEL_DIR / "model.safetensors").exists()
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 8 * MIB
    assert sum(path.stat().st_size for path in DATA_DIR.rglob("*") if path.is_file()) <= 1.5 * MIB
