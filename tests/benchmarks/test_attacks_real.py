"""The study of attacks, on a model of a few thousand parameters: no result depends on how it is cut or shared out."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qalof.errors import BadInputError
from qalof.tiny import MODEL_DIR, REVIEWS_DIR
from tests.benchmarks.ticks import Ticks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("attacks_real")
    for name in [name for name in sys.modules if name.split(".")[0] in ("study", "attack_study", "attacks_real")]:
        del sys.modules[name]


@pytest.fixture
def place(study, tmp_path, monkeypatch):
    from attack_study import work

    data = tmp_path / "data" / "sst2"
    data.mkdir(parents=True)
    for split, name in (("train", "train"), ("validation", "dev")):
        lines = (REVIEWS_DIR / f"{split}.jsonl").read_text().splitlines()[:16]
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    shutil.copyfile(REVIEWS_DIR / "labels.json", data / "labels.json")
    (data.parent / "synonyms.jsonl").write_text('{"word": "great", "synonyms": ["nice", "superb"]}\n')
    scale = replace(
        study.SCALES["mini"], groups=(("textfooler", "sst2", "sp", 3),), train_texts=None, judge_texts=2, steps=4,
        learning_rate=3e-3, batch=8, max_length=32,
    )  # fmt: skip
    monkeypatch.setattr(work.Worker, "meaning", work.Meaning(None))
    return work.Place(data.parent, MODEL_DIR, "states", tmp_path / "state", scale, torch.device("cpu"))


def figures(study, place):
    return study.figures_of(next(place.scale.of_groups()), study.Records(place.state, 0, 1))


@pytest.mark.slow
def test_a_study_in_pieces_by_several_processes_finds_what_one_finds(study, place, tmp_path):
    assert study.train_all(place, Ticks(10**6))
    trained = tmp_path / "other" / "sst2-sp"
    for cut in range(20):
        if study.train_all(place._replace(state=tmp_path / "other"), Ticks(cut)):
            break
    torch.testing.assert_close(*(load(folder) for folder in (place.state / "sst2-sp", trained)), rtol=0, atol=0)
    assert study.attack_all(place, Ticks(10**6))
    whole = figures(study, place)
    pieces = place._replace(state=tmp_path / "other", of=2)
    for cut in range(40):
        done = [study.attack_all(pieces._replace(shard=shard), Ticks(3 + cut)) for shard in range(2)]
        if all(done):
            break
    assert json.dumps(figures(study, pieces)) == json.dumps(whole)
    assert (whole["texts"], whole["skipped"]) == (3, {})
    assert len(whole["random_precision"]["layer"]["attackers"]) == 4
    result = {"groups": {"textfooler/sst2/sp": whole}}
    assert study.table_of(result).count("\n") == 1 + 2 * 3 + 2 * 4


def load(folder):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "trainer.safetensors")


def test_a_text_that_raises_is_skipped_with_its_reason_and_the_rest_goes_on(study, place, monkeypatch):
    from attack_study import work

    true = work.attack_at

    def broken(at, model, attack, example):
        if example.id == 1:
            raise RuntimeError("this one cannot be read")
        return true(at, model, attack, example)

    monkeypatch.setattr(work, "attack_at", broken)
    study.train_all(place, Ticks(10**6))
    assert study.attack_all(place, Ticks(10**6))
    found = figures(study, place)
    assert found["texts"] == 2
    assert list(found["skipped"]) == [1]
    assert "this one cannot be read" in found["skipped"][1]


def test_a_run_takes_the_attacks_and_the_number_of_texts_that_are_asked_for(study):
    for scale in study.SCALES.values():
        assert scale.only(None, None) == scale
        cut = scale.only(["gbda", "bert-attack"], 1) if scale is not study.SCALES["mini"] else scale.only(["gbda"], 1)
        assert cut.groups
        assert {group.method for group in cut.of_groups()} <= {"gbda", "bert-attack"}
        assert {group.texts for group in cut.of_groups()} == {1}
    for unknown in ("no", "gbda/sst2", "gbda/sst2/rpt"):
        with pytest.raises(
            BadInputError, match=f"attacks must be among .*gbda/sst2/sp.* at this scale: got '{unknown}'"
        ):
            study.SCALES["cpu"].only(["textfooler", unknown], None)


def test_groups_are_done_in_the_order_in_which_they_are_named_and_once(study):
    cut = study.SCALES["cpu"].only(["gbda", "textfooler/ag_news/sp", "textfooler"], None)
    names = [group.name for group in cut.of_groups()]
    assert names[:2] == ["gbda/sst2/sp", "textfooler/ag_news/sp"]
    assert sorted(names) == sorted(
        group.name for group in study.SCALES["cpu"].of_groups() if group.method in ("gbda", "textfooler")
    )


def test_packed_blocks_decode_to_what_gguf_gives(study):
    from attack_study.bundle import _decoded
    from gguf import GGMLQuantizationType, dequantize, quantize

    weights = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    for name in ("Q4_1", "Q8_0"):
        kind = GGMLQuantizationType[name]
        blocks = quantize(weights, kind)
        assert np.array_equal(_decoded(name, blocks).numpy(), dequantize(blocks, kind))


def test_words_are_proposed_once_for_all_precisions_and_are_those_that_bert_attack_proposes(study):
    from attack_study.proposals import RememberingBertAttack

    from qalof.attacks.methods.bert_attack import BertAttackSettings
    from qalof.attacks.words import Words
    from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer

    lm, tokenizer = load_pretrained(str(MODEL_DIR), HeadKind.CAUSAL_LM), load_tokenizer(str(MODEL_DIR))
    words = Words.of("the film was great and the cast was good")
    expected = BertAttackSettings(candidates=4).proposer(lm, tokenizer).candidates(words, 3)
    settings = RememberingBertAttack(candidates=4)
    asked = []
    lm.register_forward_hook(lambda *_: asked.append(1))
    assert settings.proposer(lm, tokenizer).candidates(words, 3) == expected
    first = len(asked)
    assert settings.proposer(lm, tokenizer).candidates(words, 3) == expected
    assert len(asked) == first
    settings.proposer(lm, tokenizer).candidates(words, 4)
    assert len(asked) > first
    assert len(expected) == 4
