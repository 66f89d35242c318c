"""Perplexity by strided windows: each token once, whatever the window, and the sums of a plain computation."""

import math
from pathlib import Path

import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel

WIKITEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikitext2" / "wiki.valid.raw"


@pytest.fixture(scope="module")
def model(random_model):
    return BaseModel(random_model, qalof.task("language-modeling", source=random_model).head).load().eval()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "train.txt").write_text("Anna lives in Oslo. She works at the harbour. " * 20)
    (tmp_path / "validation.txt").write_text("Ben lives in Rome, and works in a small bakery by the river. " * 7)
    return tmp_path


def make(random_model, text, **settings):
    return qalof.task("language-modeling", source=random_model, data=str(text), **settings)


@pytest.mark.parametrize(("length", "stride"), [(32, 16), (32, 32), (32, 1), (17, 5), (128, 64)])
@pytest.mark.parametrize("bos", [False, True])
def test_every_token_but_the_first_is_scored_once_with_enough_before_it(random_model, text, length, stride, bos):
    task = make(random_model, text, max_length=length, stride=stride, prepend_bos=bos)
    ids = task._ids(task.validation)
    windows = task.windows()
    scored = [token for window in windows for token in window["input_ids"][window["first"] :]]
    assert scored == ids[1:]
    assert all(len(window["input_ids"]) <= length for window in windows)
    assert all(window["first"] >= max(1, length - stride) for window in windows[1:])


def test_the_perplexity_is_that_of_the_summed_loss_and_not_of_means_of_windows(random_model, model, text):
    task = make(random_model, text, max_length=48, stride=32, eval_batch_size=2)
    found = task.evaluate(model)
    total, count, hits = 0.0, 0, 0
    for window in task.windows():
        ids = torch.tensor([window["input_ids"]])
        with torch.no_grad():
            logs = model(ids).logits[0].double().log_softmax(-1)
        for place in range(window["first"], ids.shape[1]):
            total -= float(logs[place - 1, ids[0, place]])
            count += 1
            hits += int(logs[place - 1].argmax()) == int(ids[0, place])
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    words = len(task.tokenizer.decode(task._ids(task.validation)[1:]).split())
    assert found["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-4)
    assert sum(found.per_example["loss"]) / found.examples == pytest.approx(found["loss"])
    assert sum(found.weights["loss"]) == count
    loss, by_word = found.interval("loss"), found.interval("word_perplexity")
    assert loss.low < loss.estimate < loss.high
    assert by_word.high == pytest.approx(math.exp(loss.high * count / words), rel=1e-12)
    assert found["accuracy"] == pytest.approx(100 * hits / count)
    assert sum(found.per_example["accuracy"]) / found.examples == pytest.approx(found["accuracy"])


def test_the_batch_size_changes_no_score(random_model, model, text):
    scores = [make(random_model, text, max_length=40, stride=20, eval_batch_size=n).evaluate(model) for n in (1, 5)]
    assert scores[0].per_example["loss"] == pytest.approx(scores[1].per_example["loss"], rel=1e-5)


def test_the_training_loss_of_a_block_is_its_mean_next_token_loss(random_model, model, text):
    task = make(random_model, text, max_length=24, stride=24)
    features = list(task.train_features())[:3]
    assert {len(feature["input_ids"]) for feature in features} == {24}
    batch = task.collate(features)
    logits, labels = task.label_rows(model(**task.model_inputs(batch)), batch)
    assert len(labels) == sum(task.units(feature) for feature in features) == 3 * 23
    expected = model(batch["input_ids"], labels=batch["input_ids"]).loss
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, labels), expected)


def test_the_tiny_texts_and_missing_or_broken_files(random_model, tmp_path):
    tiny = qalof.task("language-modeling", source=random_model)
    assert len(tiny.validation) > 1000
    for data, said in ((tmp_path, "validation.txt"), (tmp_path / "none.txt", "does not exist")):
        with pytest.raises(BadInputError, match=said):
            make(random_model, data).windows()
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="UTF-8"):
        make(random_model, tmp_path / "bad.txt").windows()
    with pytest.raises(BadInputError, match="stride"):
        make(random_model, tmp_path, stride=0)


def test_windows_without_overlap_score_every_token_too(random_model, model, text):
    task = make(random_model, text, max_length=32, stride=32)
    ids = task._ids(task.validation)
    assert sum(task.units(window) for window in task.windows()) == len(ids) - 1
    assert math.isfinite(task.evaluate(model)["loss"])


def strided_loss(model, ids, length, stride, last):
    """Sum of NLL of ids[1:last], each token by a pass of its own over the window that it belongs to."""
    total = 0.0
    for place in range(1, last):
        start = 0
        while start + length <= place:
            start += stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1].double()
        total -= float(logits.log_softmax(-1)[ids[place]])
    return total


@pytest.mark.slow
@pytest.mark.skipif(not WIKITEXT.is_file(), reason="shared/data/wikitext2 is not at hand")
@pytest.mark.parametrize(("length", "stride", "windows"), [(48, 24, 4), (32, 31, 3)])
def test_the_strided_perplexity_of_wikitext_is_that_of_a_computation_token_by_token(length, stride, windows):
    task = qalof.task("language-modeling", data=str(WIKITEXT), max_length=length, stride=stride)
    model = BaseModel("tiny", task.head).load().eval()
    found = task.evaluate(model, limit=windows)
    ids = task.tokenizer(task.validation, add_special_tokens=False)["input_ids"]
    assert sum(task.units(window) for window in task.windows()) == len(ids) - 1
    last = length + (windows - 1) * stride
    total = strided_loss(model, ids, length, stride, last)
    assert found["loss"] == pytest.approx(total / (last - 1), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / (last - 1)), rel=1e-4)
    words = len(task.tokenizer.decode(ids[1:last]).split())
    assert found["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-3)


@pytest.mark.skipif(not WIKITEXT.is_file(), reason="shared/data/wikitext2 is not at hand")
def test_wikitext_is_read_whole(random_model):
    task = qalof.task("language-modeling", source=random_model, data=str(WIKITEXT), max_length=128, stride=128)
    assert len(task.validation.encode()) == 1_146_846
