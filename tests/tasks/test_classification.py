import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2TokenizerFast

from qalof.batching import by_equal_length
from qalof.errors import BadInputError
from qalof.tasks.base import loss_sum
from qalof.tasks.classification import ClassificationSettings, ClassificationTask, class_logits

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "classification"
ROWS = [("good", 1), ("not good at all", 0), ("bad", 0), ("fine", 1), ("a long, long, long story", 0)]


@pytest.fixture(scope="module")
def tokenizer() -> GPT2TokenizerFast:
    """Bytes as tokens."""
    vocabulary = {symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return GPT2TokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end, pad_token=end)


@pytest.fixture(scope="module")
def model() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2, num_labels=2, pad_token_id=256,
        bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "words"
    data.mkdir()
    write(data / "train.jsonl", ROWS)
    write(data / "dev.jsonl", ROWS[:4])
    (data / "labels.json").write_text('["negative", "positive"]')
    return data


def write(path: Path, rows: list[tuple[str, int]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def task_of(tokenizer: Any, folder: Path, **settings: Any) -> ClassificationTask:
    return ClassificationTask(tokenizer, ClassificationSettings(data=str(folder), **{"max_length": 40, **settings}))


def test_accuracy_and_loss_are_those_of_each_text_alone(tokenizer: Any, folder: Path, model: Any) -> None:
    evaluation = task_of(tokenizer, folder).evaluate(model)
    logits = torch.stack([model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text, _ in ROWS[:4]])
    labels = torch.tensor([label for _, label in ROWS[:4]])
    hits = (logits.argmax(-1) == labels).tolist()
    assert evaluation.examples == 4
    assert evaluation.per_example["accuracy"] == [100.0 * hit for hit in hits]
    assert evaluation["accuracy"] == 100 * sum(hits) / 4
    assert evaluation["loss"] == pytest.approx(loss_sum(logits, labels).item() / 4, abs=1e-6)
    assert evaluation.interval("accuracy").low <= evaluation["accuracy"] <= evaluation.interval("accuracy").high


def test_scores_do_not_depend_on_batch_size_or_limit(tokenizer: Any, folder: Path, model: Any) -> None:
    whole = task_of(tokenizer, folder).evaluate(model)
    single = task_of(tokenizer, folder, eval_batch_size=1).evaluate(model)
    first = task_of(tokenizer, folder).evaluate(model, limit=2)
    assert single.per_example["loss"] == pytest.approx(whole.per_example["loss"], abs=1e-6)
    assert first.per_example["loss"] == pytest.approx(whole.per_example["loss"][:2], abs=1e-6)
    assert first.examples == 2


def test_a_padded_training_batch_gives_each_text_its_own_logits(tokenizer: Any, folder: Path, model: Any) -> None:
    task = task_of(tokenizer, folder)
    features = task.train_features()
    batch = task.collate(features)
    logits, labels = task.label_rows(model(**task.model_inputs(batch)), batch)
    assert labels.tolist() == [label for _, label in ROWS]
    alone = class_logits(model, [feature["input_ids"] for feature in features], 1).detach()
    torch.testing.assert_close(logits.detach(), alone, atol=1e-5, rtol=0)
    assert sum(task.units(feature) for feature in features) == len(labels)


def test_batches_hold_one_length_each_and_every_index_once() -> None:
    lengths = [3, 1, 3, 2, 3, 1]
    batches = list(by_equal_length(lengths, 2))
    assert batches == [[1, 5], [3], [0, 2], [4]]


def test_progress_counts_every_text(tokenizer: Any, folder: Path, model: Any) -> None:
    seen: list[tuple[int, int]] = []
    task_of(tokenizer, folder).evaluate(model, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_long_texts_keep_their_beginning_and_are_counted(tokenizer: Any, folder: Path) -> None:
    task = task_of(tokenizer, folder, max_length=5)
    features = task.train_features()
    assert max(len(feature["input_ids"]) for feature in features) == 5
    assert tokenizer.decode(features[1]["input_ids"]) == "not g"
    assert task.train_counts() == {"truncated": 2}


def test_the_fingerprint_follows_data_and_settings_but_not_batches(tokenizer: Any, folder: Path) -> None:
    before = task_of(tokenizer, folder).fingerprint()
    assert task_of(tokenizer, folder, eval_batch_size=1).fingerprint() == before
    assert task_of(tokenizer, folder, max_length=5).fingerprint() != before
    write(folder / "dev.jsonl", [*ROWS[:3], ("fine", 0)])
    assert task_of(tokenizer, folder).fingerprint() != before


def test_a_pair_of_files_and_a_map_of_names_serve_as_well(tokenizer: Any, folder: Path) -> None:
    (folder / "labels.json").unlink()
    (folder.parent / "labels.json").write_text('{"words": ["no", "yes"], "other": ["x", "y", "z"]}')
    files = {"data": str(folder / "train.jsonl"), "validation_data": str(folder / "dev.jsonl")}
    task = ClassificationTask(tokenizer, ClassificationSettings(**files, validation_split="validation[:3]"))
    assert (task.labels, task.label_names, len(task.validation)) == (2, ("no", "yes"), 3)
    assert len(task.train_features()) == 5


def test_validation_elsewhere_goes_by_the_label_names_of_the_data(tokenizer: Any, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "attack.jsonl", ROWS[:1])
    task = task_of(tokenizer, folder, validation_data=str(tmp_path / "attack.jsonl"))
    assert [example.text for example in task.validation] == ["good"]
    assert task.label_names == ("negative", "positive")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "good"}', "line 3 .*'label' is missing"),
        ('{"label": 1}', "line 3 .*'text' is missing"),
        ('["good", 1]', "line 3 .*'text' is missing"),
        ('{"text": "good", "label": 1', "line 3 is not JSON"),
        (
            '{"text": "good", "label": 2}',
            "line 3: label must be a whole number from 0 to 1, or one of negative, positive: got 2",
        ),
        ('{"text": "good", "label": -1}', "got -1"),
        ('{"text": "good", "label": "1"}', "got '1'"),
        ('{"text": "good", "label": true}', "got True"),
        ('{"text": "  ", "label": 1}', "line 3: text must be a string that is not empty"),
        ('{"text": null, "label": 1}', "got None"),
    ],
)
def test_a_bad_line_is_named(tokenizer: Any, folder: Path, line: str, message: str) -> None:
    with (folder / "dev.jsonl").open("w") as file:
        file.write('{"text": "good", "label": 1}\n\n' + line + "\n")
    with pytest.raises(BadInputError, match=message) as caught:
        _ = task_of(tokenizer, folder).validation
    assert str(folder / "dev.jsonl") in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_line_separator_inside_a_text_ends_no_line(tokenizer: Any, folder: Path) -> None:
    (folder / "dev.jsonl").write_text('{"text": "good\u2028or not", "label": 1}\n', encoding="utf-8")
    assert task_of(tokenizer, folder).validation[0].text == "good\u2028or not"


def test_missing_data_is_named(tokenizer: Any, folder: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere does not exist"):
        task_of(tokenizer, folder / "nowhere")
    (folder / "dev.jsonl").write_text("")
    with pytest.raises(BadInputError, match="at least one text"):
        _ = task_of(tokenizer, folder).validation
    (folder / "dev.jsonl").unlink()
    with pytest.raises(BadInputError, match=r"must hold validation.jsonl or dev.jsonl"):
        _ = task_of(tokenizer, folder).validation
    (folder / "labels.json").write_text('["one"]')
    with pytest.raises(BadInputError, match="two or more names"):
        task_of(tokenizer, folder)
    (folder / "labels.json").unlink()
    with pytest.raises(BadInputError, match="needs its label names"):
        task_of(tokenizer, folder)
    with pytest.raises(BadInputError, match="max_length must be a whole number of at least 1"):
        ClassificationSettings(max_length=0)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="shared/data is not beside this checkout")
@pytest.mark.parametrize(("name", "labels", "dev"), [("sst2", 2, 839), ("trec", 6, 500), ("ag_news", 4, 1000)])
def test_real_data_sets_open(tokenizer: Any, name: str, labels: int, dev: int) -> None:
    task = task_of(tokenizer, SHARED_DATA / name)
    assert (task.labels, len(task.validation)) == (labels, dev)
