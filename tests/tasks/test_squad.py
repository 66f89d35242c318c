import json
from types import SimpleNamespace

import pytest
import torch

from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.base import loss_sum
from qalof.tasks.factory import make_task
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_data import load_squad, parse_split
from qalof.tasks.squad_span import SpanSettings, SpanTask


def squad_file(path, pairs):
    """``pairs``: (question, context, answer text, answer start)."""
    paragraphs = [
        {"context": c, "qas": [{"id": str(i), "question": q, "answers": [{"text": a, "answer_start": s}]}]}
        for i, (q, c, a, s) in enumerate(pairs)
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(random_model):
    return load_tokenizer(random_model)


class Oracle(torch.nn.Module):
    """A span model that puts all its logits on given tokens of the rows it is shown."""

    def __init__(self, wanted):
        super().__init__()
        self.device = torch.device("cpu")
        self.wanted = wanted

    def forward(self, input_ids, attention_mask):
        start, end = torch.zeros(input_ids.shape), torch.zeros(input_ids.shape)
        for row, ids in enumerate(input_ids.tolist()):
            for first, last, score in self.wanted(ids):
                start[row, first] = end[row, last] = score
        return SimpleNamespace(start_logits=start, end_logits=end)


@pytest.fixture(scope="module")
def tiny_span(tokenizer):
    return SpanTask(
        tokenizer, SpanSettings(train_split="train[:60]", validation_split="validation[:40]", max_length=128, stride=32)
    )


def test_training_labels_decode_to_the_answers(tiny_span, tokenizer):
    answers = {e.id: e.texts[0] for e in load_squad("tiny", "train[:60]")}
    features = tiny_span.train_features()
    assert {f["id"] for f in features} == set(answers)
    for feature in features:
        text = tokenizer.decode(feature["input_ids"][feature["start"] : feature["end"] + 1])
        assert text.strip().startswith(answers[feature["id"]])


def test_an_oracle_scores_a_hundred_and_an_idle_model_does_not(tiny_span):
    features = {tuple(w.input_ids): w for w in tiny_span._validation_windows}
    spans = {i: e.span for i, e in enumerate(tiny_span.validation)}

    def find(ids):
        window = next(w for key, w in features.items() if tuple(ids[: len(key)]) == key)
        first, last = spans[window.example]
        tokens = [t for t in window.context_tokens if window.offsets[t][1] > first and window.offsets[t][0] < last]
        return [(tokens[0], tokens[-1], 10.0)]

    perfect = tiny_span.evaluate(Oracle(find))
    # a token may reach past the answer (its comma or full stop), which the metric forgives
    assert perfect["exact_match"] == perfect["f1"] == 100
    assert tiny_span.evaluate(Oracle(lambda ids: []))["exact_match"] < 50


def test_scores_do_not_depend_on_the_batch(tokenizer, random_model):
    model = build(BaseModel(random_model, HeadKind.SPAN))
    model.set_bitmap(4)
    results = []
    for batch in (1, 7, 64):
        settings = SpanSettings(validation_split="validation[:20]", max_length=128, stride=32, eval_batch_size=batch)
        results.append(SpanTask(tokenizer, settings).evaluate(model).per_example)
    assert results[0] == results[1] == results[2]


def test_a_long_context_is_cut_into_overlapping_windows_and_the_best_one_answers(tokenizer, tmp_path):
    filler = "Mara lives here and there . " * 30
    context = filler + "The key is Zebra !"
    path = squad_file(tmp_path / "d.json", [("What is the key?", context, "Zebra", context.index("Zebra"))])
    task = SpanTask(tokenizer, SpanSettings(data=path, max_length=64, stride=16))
    windows = task._validation_windows
    assert len(windows) > 3
    assert all(len(w.input_ids) <= 64 for w in windows)
    first, second = (w.offsets[w.context_tokens[0]][0] for w in windows[:2])
    assert 0 < second - first < len(context)
    (feature,) = {f["id"]: f for f in task.train_features()}.values()
    assert tokenizer.decode(feature["input_ids"][feature["start"] : feature["end"] + 1]).strip() == "Zebra"

    def find(ids):
        holds = "Zebra" in tokenizer.decode(ids)
        labeled = feature["input_ids"] == ids[: len(feature["input_ids"])]
        return [(feature["start"], feature["end"], 9.0)] if holds and labeled else [(20, 20, 1.0)]

    assert task.evaluate(Oracle(find))["exact_match"] == 100


def test_an_answer_outside_its_context_is_skipped_counted_and_still_scored(tokenizer, tmp_path):
    pairs = [("Who?", "Bob sings .", "Bob", 0), ("Who else?", "Bob sings .", "Ann", 0)]
    task = SpanTask(tokenizer, SpanSettings(data=squad_file(tmp_path / "d.json", pairs), max_length=64, stride=0))
    assert len(task.train_features()) == 1
    assert task.train_counts()["no_answer_in_window"] == 1
    assert task.evaluate(Oracle(lambda ids: [])).examples == 2


def test_predictions_are_longest_thirty_tokens_and_never_backwards(tokenizer, tmp_path):
    context = "one two three four five six seven"
    path = squad_file(tmp_path / "d.json", [("Which?", context, "two three", 4)])
    task = SpanTask(tokenizer, SpanSettings(data=path, max_length=64, stride=0, max_answer_length=3))
    (window,) = task._validation_windows
    tokens = window.context_tokens
    start, end = torch.zeros(len(window.input_ids)).numpy(), torch.zeros(len(window.input_ids)).numpy()
    start[tokens[5]], end[tokens[1]] = 5.0, 5.0
    _, text = task._decode(window, start, end, context)
    assert text
    assert len(tokenizer(text)["input_ids"]) <= 4


def test_padding_gets_no_probability(tiny_span):
    features = sorted(tiny_span.train_features(), key=lambda f: len(f["input_ids"]))
    batch = tiny_span.collate([features[0], features[-1]])
    outputs = SimpleNamespace(
        start_logits=torch.zeros(batch["input_ids"].shape), end_logits=torch.zeros(batch["input_ids"].shape)
    )
    logits, labels = tiny_span.label_rows(outputs, batch)
    lengths = batch["attention_mask"].sum(1)
    expected = 2 * lengths.double().log().sum()
    assert float(loss_sum(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_completion_labels_are_the_answer_and_its_eos(tokenizer):
    task = CompletionTask(tokenizer, CompletionSettings(train_split="train[:8]", max_length=128))
    examples = load_squad("tiny", "train[:8]")
    batch = task.collate(task.train_features())
    for row, example in enumerate(examples):
        labeled = batch["labels"][row][batch["labels"][row] != -100]
        assert labeled[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(labeled[:-1]) == " " + example.texts[0]
        # each label stands one place before its token
        at = int((batch["labels"][row] != -100).nonzero()[0])
        assert batch["input_ids"][row, at + 1] == labeled[0]


def test_completion_scores_do_not_depend_on_left_padding(tokenizer, random_model):
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM))
    model.set_bitmap(4)
    results = [
        CompletionTask(
            tokenizer,
            CompletionSettings(
                validation_split="validation[:6]", max_length=128, max_new_tokens=4, eval_batch_size=batch
            ),
        ).evaluate(model)
        for batch in (1, 6)
    ]
    for name in ("exact_match", "f1"):
        assert results[0].per_example[name] == results[1].per_example[name]
    assert results[0].per_example["loss"] == pytest.approx(results[1].per_example["loss"], rel=1e-5)
    assert sum(results[0].per_example["loss"]) / 6 == pytest.approx(results[0]["loss"], rel=1e-12)
    assert results[0].interval("loss").low < results[0]["loss"] < results[0].interval("loss").high


def test_a_prompt_too_long_loses_the_beginning_of_its_context(tokenizer, tmp_path):
    context = "word " * 100 + "end"
    path = squad_file(tmp_path / "d.json", [("Which?", context, "end", len(context) - 3)])
    task = CompletionTask(tokenizer, CompletionSettings(data=path, max_length=40))
    (feature,) = task.train_features()
    assert len(feature["input_ids"]) == 40
    assert task.train_counts()["truncated"] == 1
    assert "word end\nQuestion: Which?\nAnswer: end" in tokenizer.decode(feature["input_ids"])


def test_equal_data_and_settings_have_equal_fingerprints(tokenizer):
    one, other = SpanTask(tokenizer, SpanSettings()), SpanTask(tokenizer, SpanSettings(eval_batch_size=3))
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != SpanTask(tokenizer, SpanSettings(validation_split="validation[:3]")).fingerprint()


@pytest.mark.parametrize("split", ["test", "validation[3:]", "", "train[:x]"])
def test_splits_that_are_none_are_refused(split):
    with pytest.raises(BadInputError, match="a split must read like"):
        parse_split(split)


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("{", "is not JSON"),
        ("{}", "must follow SQuAD v1.1: .* lacks 'data'"),
        ('{"data": []}', "at least one question"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path, text, law):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=law):
        load_squad(str(path), "train")


def test_missing_files_and_unreachable_hubs_are_one_clear_error(tmp_path):
    with pytest.raises(BadInputError, match="does not exist"):
        load_squad(str(tmp_path / "none.json"), "train")
    with pytest.raises(BadInputError, match=r"must hold train.json"):
        load_squad(str(tmp_path), "train")


def test_unknown_task_names_the_nearest(random_model):
    with pytest.raises(BadInputError, match="did you mean 'squad-span'"):
        make_task("squad-spam", {}, random_model)
