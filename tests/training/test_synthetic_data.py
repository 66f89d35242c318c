"""What generated texts begin with, and that tasks train on them."""

import json
from collections import Counter

import pytest

from qalof.digests import tokenizer_digest
from qalof.errors import BadInputError
from qalof.files import seal
from qalof.model.pretrained import HeadKind, load_pretrained, load_tokenizer
from qalof.tasks.factory import task
from qalof.tasks.generated_data import open_generated, to_line
from qalof.tasks.squad_data import load_squad
from qalof.training.synthetic_data import GenerationSettings, TextSource, generate, writer_for


@pytest.fixture(scope="module")
def tokenizer(random_model):
    return load_tokenizer(random_model)


@pytest.fixture(scope="module")
def model(random_model):
    return load_pretrained(random_model, HeadKind.CAUSAL_LM)


def source(tokenizer, **settings):
    return TextSource(GenerationSettings(**{"max_length": 32, **settings}), tokenizer, 128)


def write(model, tokenizer, count, **settings):
    found = source(tokenizer, count=count, **settings)
    return list(generate(writer_for(model, found), found, range(count), 4))


def folder(path, rows, tokenizer, kind, digest=None):
    """A finished folder of two shards."""
    (path / "train").mkdir(parents=True)
    for number, part in enumerate((rows[:2], rows[2:])):
        (path / "train" / f"shard-{number:05d}.jsonl").write_text("".join(map(to_line, part)))
    header = {"format_version": 1, "kind": kind, "texts": len(rows), "tokenizer": digest or tokenizer_digest(tokenizer)}
    seal(path, header)
    return path


def test_the_sweep_starts_once_at_every_id_but_eos_for_each_length(tokenizer):
    sweep = source(tokenizer)
    eos, size = tokenizer.eos_token_id, len(tokenizer)
    assert sweep.count == 3 * (size - 1)
    plans = [sweep.plan(index) for index in range(sweep.count)]
    found = Counter((plan.start, plan.greedy_until) for plan in plans)
    assert found == {((i,), j): 1 for i in range(size) if i != eos for j in (3, 4, 5)}
    assert {plan.longest for plan in plans} == {32}
    assert source(tokenizer, start_at_eos=True).count == 3 * size


def test_gpt2s_sweep_has_as_many_texts_as_its_paper_would_say():
    class Gpt2:
        eos_token_id = 50256

        def __len__(self):
            return 50257

    assert TextSource(GenerationSettings(start_at_eos=True), Gpt2(), 1024).count == 150_771
    assert TextSource(GenerationSettings(), Gpt2(), 1024).count == 150_768


def test_drawn_starts_follow_their_distribution_and_bos_is_bos(tokenizer, tmp_path):
    uniform = source(tokenizer, start="uniform", count=4000)
    starts = [uniform.plan(index).start[0] for index in range(4000)]
    assert tokenizer.eos_token_id not in starts
    assert sum(starts) / 4000 == pytest.approx(len(tokenizer) / 2, rel=0.05)
    assert {uniform.plan(index).greedy_until for index in range(100)} == {3, 4, 5}
    (tmp_path / "train.txt").write_text("Anna Anna Anna Ben")
    counts = Counter(tokenizer("Anna Anna Anna Ben")["input_ids"])
    unigram = source(tokenizer, start="unigram", data=str(tmp_path), count=3000)
    drawn = Counter(unigram.plan(index).start[0] for index in range(3000))
    assert set(drawn) == set(counts)
    for token, count in counts.items():
        assert drawn[token] / 3000 == pytest.approx(count / sum(counts.values()), abs=0.04)
    bos = source(tokenizer, start="bos", count=2)
    assert bos.plan(1).start == (tokenizer.bos_token_id,)


def test_prompts_are_those_that_completion_is_trained_on_and_leave_room(tokenizer, model):
    prompts = source(tokenizer, start="prompts", data="tiny", max_length=80, max_new_tokens=10)
    examples = load_squad("tiny", "train")
    assert prompts.count == len(examples)
    trained = task("squad-completion", source=str(model.name_or_path), max_length=80, train_split="train[:40]")
    for index, feature in enumerate(trained.train_features()):
        plan = prompts.plan(index)
        assert len(plan.start) <= 70
        assert plan.longest == len(plan.start) + 10
        assert 3 <= plan.greedy_until - len(plan.start) <= 5
        if len(feature["input_ids"]) < 70:
            assert list(plan.start) == feature["input_ids"][: -feature["answer_tokens"]]
    row = next(generate(writer_for(model, prompts), prompts, [len(examples) + 3]))
    assert (row["question"], row["id"]) == (examples[3].question, f"{examples[3].id}-{len(examples) + 3}")
    assert "\n" not in row["answer"]
    assert len(row["ids"]) <= 10


def test_language_modeling_trains_on_the_sampled_tokens_one_text_after_the_other(tokenizer, model, tmp_path):
    rows = write(model, tokenizer, 5, max_length=16)
    assert [row["index"] for row in rows] == list(range(5))
    assert all(tokenizer.eos_token_id not in row["ids"] for row in rows)
    data = folder(tmp_path / "data", rows, tokenizer, "texts")
    work = task(
        "language-modeling", source=model.name_or_path, data=str(data), validation_data="tiny", max_length=8, stride=8
    )
    ids = [token for row in rows for token in row["ids"]]
    features = work.train_features()
    assert [token for feature in features for token in feature["input_ids"]] == ids[: len(ids) // 8 * 8]
    assert work.train_counts() == {"rest_tokens": len(ids) % 8}
    assert work.evaluate(model, limit=2).examples == 2
    # under another tokenizer each text is tokenized anew
    other = folder(tmp_path / "other", rows, tokenizer, "texts", digest="another")
    again = [token for row in rows for token in tokenizer(row["text"])["input_ids"]]
    assert open_generated(other, "texts").token_ids(tokenizer) == again


def test_completions_are_answers_and_only_whole_ones_teach_an_end(tokenizer, model, tmp_path):
    rows = write(model, tokenizer, 4, start="prompts", data="tiny", max_length=96, max_new_tokens=12)
    rows = [row | {"answer": answer} for row, answer in zip(rows, ("Rome", "in Oslo", " ", "by the"), strict=True)]
    rows = [row | {"ended": ended} for row, ended in zip(rows, (True, True, True, False), strict=True)]
    data = folder(tmp_path / "data", rows, tokenizer, "completions")
    work = task("squad-completion", source=model.name_or_path, data=str(data), validation_data="tiny", max_length=96)
    answers = [f["input_ids"][-f["answer_tokens"] :] for f in work.train_features()]
    eos = tokenizer.eos_token_id
    assert answers == [
        [*tokenizer(" Rome")["input_ids"], eos],
        [*tokenizer(" in Oslo")["input_ids"], eos],
        tokenizer(" by the")["input_ids"],
    ]
    assert work.train_counts()["no_answer"] == 1
    assert [example.span for example in load_squad(str(data), "train")] == [None] * 4


def test_folders_that_cannot_be_trained_on(tokenizer, model, tmp_path):
    rows = write(model, tokenizer, 3, max_length=8)
    data = folder(tmp_path / "data", rows, tokenizer, "texts")
    make = {"source": model.name_or_path, "data": str(data), "max_length": 8}
    with pytest.raises(BadInputError, match="set validation_data"):
        _ = task("language-modeling", **make, stride=8).validation
    with pytest.raises(BadInputError, match="needs generated completions: .* holds texts, for language-modeling"):
        task("squad-completion", **make, max_new_tokens=4).train_features()
    shard = data / "train" / "shard-00001.jsonl"
    manifest, text = (data / "manifest.json").read_text(), shard.read_text()
    (data / "manifest.json").unlink()
    with pytest.raises(BadInputError, match="unfinished"):
        task("language-modeling", **make, stride=8).train_features()
    (data / "manifest.json").write_text(manifest)
    shard.write_text(text[:-9])
    with pytest.raises(BadInputError, match=r"damaged: train/shard-00001.jsonl"):
        task("language-modeling", **make, stride=8).train_features()
    short = json.loads(text)
    del short["ended"]
    shard.write_text(to_line(short))
    seal(data, {key: value for key, value in json.loads(manifest).items() if key != "files"})
    with pytest.raises(BadInputError, match=r"shard-00001.jsonl line 1 lacks 'ended'"):
        task("language-modeling", **make, stride=8).train_features()


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"greedy_length": (0, 3)}, "greedy_length must be a whole number of at least 1"),
        ({"greedy_length": (5, 3)}, "greedy_length must read lowest, highest"),
        ({"count": 0}, "count must be a whole number of at least 1"),
        ({"start": "bos"}, "say how many texts"),
        ({"max_length": 1}, "max_length must be a whole number of at least 2"),
        ({"max_length": 129}, "must fit the model's 128 positions: got 129"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"start": "prompts", "data": "/no/such"}, "/no/such"),
    ],
)
def test_settings_that_cannot_be(tokenizer, settings, law):
    with pytest.raises(BadInputError, match=law):
        source(tokenizer, **settings)
