"""Zero-shot scoring: the prompts, hand-made likelihoods, and the numbers of lm-evaluation-harness."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import qalof
from qalof.errors import BadInputError
from qalof.evaluation.loglikelihood import encode_pair, score_pairs
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.zero_shot_data import clean, load_items

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "zeroshot"

BOOLQ = [
    {"question": "is rome in italy", "passage": "Rome is the capital of Italy.", "answer": True},
    {"question": "is oslo in italy", "passage": "Oslo is a city by the sea. " * 3, "answer": False},
    {"question": "does anna fear cats", "passage": "Anna Berg fears a small white duck.", "answer": False},
]
HELLASWAG = [
    {
        "ind": i,
        "activity_label": label,
        "ctx_a": a,
        "ctx_b": b,
        "ctx": f"{a} {b}",
        "endings": endings,
        "label": str(gold),
        "split": "val",
        "split_type": "indomain",
        "source_id": "x",
    }
    for i, (label, a, b, endings, gold) in enumerate(
        [
            (
                "Cooking",
                "[header] How to cook [title] Wash it. [step] Use  water.",
                "",
                ["[substeps] Dry it.", "Go home", "Sing [a] song.", "Sleep."],
                0,
            ),
            (
                "Motocross",
                "We see a man.",
                "a bike",
                ["falls.", "goes up a hill and then down again.", "is  red.", "sings."],
                1,
            ),
        ]
    )
]  # fmt: skip
WINOGRANDE = [
    {"sentence": "Anna was faster than Ben so _ won the race.", "option1": "Anna", "option2": "Ben", "answer": "1"},
    {"sentence": "The house of Ben is cold because _ is poor.", "option1": "the duck", "option2": "Ben", "answer": "2"},
    {"sentence": "_ lives in Rome, and Anna in Oslo.", "option1": "Ben", "option2": "Anna", "answer": "1"},
]
ARC = [
    {
        "question": "What falls?",
        "answerKey": "B",
        "choices": {"text": ["a road", "rain", "the sky above"], "label": ["A", "B", "C"]},
    },
    {"question": "What is cold?", "answerKey": "1", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}},
]
PIQA = [{"goal": "To open a door,", "sol1": "push it.", "sol2": "eat the whole door slowly.", "label": 0}]
DATA = {"boolq": BOOLQ, "hellaswag": HELLASWAG, "winogrande": WINOGRANDE, "arc_easy": ARC, "piqa": PIQA}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zeroshot")
    for name, rows in DATA.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def model(random_model):
    built = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2)}).eval()
    built.set_bitmap(4)
    return built


def make(random_model, data, dataset, **settings):
    return qalof.task("zero-shot", source=random_model, dataset=dataset, data=str(data), **settings)


def test_the_prompts_are_the_harness_s(files):
    (first, *_) = load_items("boolq", str(files))
    context = "Rome is the capital of Italy.\nQuestion: is rome in italy?\nAnswer:"
    assert (first.choices, first.gold) == (((context, " no"), (context, " yes")), 1)
    cooking, motocross = load_items("hellaswag", str(files))
    assert cooking.choices[0] == ("Cooking: How to cook. Wash it. Use water.", "  Dry it.")
    assert motocross.choices[1] == ("Motocross: We see a man. A bike", " goes up a hill and then down again.")
    assert motocross.lengths == [6, 35, 7, 6]
    first, second, third = load_items("winogrande", str(files))
    assert first.choices == (
        ("Anna was faster than Ben so Anna", " won the race."),
        ("Anna was faster than Ben so Ben", " won the race."),
    )
    assert (first.gold, second.gold) == (0, 1)
    assert third.choices[1] == ("Anna", " lives in Rome, and Anna in Oslo.")
    arc = load_items("arc_easy", str(files))
    assert arc[0].choices[1] == ("Question: What falls?\nAnswer:", " rain")
    assert [item.gold for item in arc] == [1, 0]
    (piqa,) = load_items("piqa", str(files))
    assert piqa.choices[0] == ("Question: To open a door,\nAnswer:", " push it.")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" [header] How to cook [title] Wash it. ", " How to cook. Wash it."),
        ("Use  water [step] now", "Use water now"),
        ("plain", "plain"),
    ],
)
def test_brackets_are_cleaned_away(text, cleaned):
    assert clean(text) == cleaned


def test_log_likelihoods_are_those_of_one_plain_pass(model, random_model):
    tokenizer = load_tokenizer(random_model)
    texts = [
        ("Anna lives", " in Rome."),
        ("Ben ", "works at the harbour"),
        ("", "Oslo"),
        ("a b c d e f g h " * 12, " end"),
    ]
    pairs = [encode_pair(tokenizer, *text) for text in texts]
    for batch in (1, 4):
        scored, cut = score_pairs(model, pairs, 40, batch)
        assert cut == 1
        for pair, score in zip(pairs, scored, strict=True):
            ids = torch.tensor([(pair.context + pair.continuation)[-41:]])
            with torch.no_grad():
                logs = model(ids[:, :-1]).logits[0].double().log_softmax(-1)
            count = len(pair.continuation)
            expected = sum(float(logs[-count + k, token]) for k, token in enumerate(pair.continuation))
            assert score.log_likelihood == pytest.approx(expected, rel=1e-5)
    assert pairs[1].context == tokenizer("Ben")["input_ids"]
    assert pairs[2].context == [tokenizer.bos_token_id]


class Favourite(torch.nn.Module):
    """A model that expects each token of ``likes`` at any place, by its weight in nats."""

    def __init__(self, vocabulary, likes):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(vocabulary))
        for token, nats in likes.items():
            self.bias.data[token] = nats
        self.config = SimpleNamespace(max_position_embeddings=64)
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.bias.expand(*input_ids.shape, -1))


def test_acc_sums_and_acc_norm_divides_by_characters(random_model, tmp_path):
    tokenizer = load_tokenizer(random_model)
    row = {"goal": "Go", "sol1": "a", "sol2": "a a a a", "label": 1}
    (tmp_path / "piqa.jsonl").write_text(json.dumps(row) + "\n")
    task = make(random_model, tmp_path, "piqa")
    (one,), four = tokenizer(" a")["input_ids"], tokenizer(" a a a a")["input_ids"]
    assert four == [one] * 4
    found = task.evaluate(Favourite(len(tokenizer), {one: 3.0}))
    # four times the nats, but seven characters rather than one: -4n / 7 against -n / 1
    assert found.metrics == {"acc": 0.0, "acc_norm": 100.0}
    assert found.per_example == {"acc": [0.0], "acc_norm": [100.0]}


def test_settings_and_metrics(random_model, files):
    assert make(random_model, files, "boolq").metrics == ("acc",)
    assert make(random_model, files, "hellaswag").metrics == ("acc", "acc_norm")
    limited = make(random_model, files, "boolq", limit=2)
    assert len(limited.validation) == 2
    assert limited.fingerprint() != make(random_model, files, "boolq").fingerprint()
    with pytest.raises(BadInputError, match="for evaluation only"):
        limited.train_features()
    with pytest.raises(BadInputError, match="limit must be a whole number of at least 1"):
        make(random_model, files, "boolq", limit=0)


@pytest.mark.parametrize(
    ("line", "law"),
    [
        ("{oops", "line 3 is not JSON"),
        ("[1]", "line 3 must be a JSON object"),
        ('{"sentence": "a _ b", "option1": "x", "answer": "1"}', "line 3 lacks 'option2'"),
        ('{"sentence": "no blank", "option1": "x", "option2": "y", "answer": "1"}', "line 3 is not an item"),
        ('{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "3"}', "line 3 must have a right choice"),
        ('{"sentence": "a _", "option1": "x", "option2": "y", "answer": "1"}', "none that is empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, law):
    good = json.dumps(WINOGRANDE[0]) + "\n"
    (tmp_path / "winogrande.jsonl").write_text(good * 2 + line + "\n")
    with pytest.raises(BadInputError, match=law):
        load_items("winogrande", str(tmp_path))


def test_missing_data_and_unknown_benchmarks(tmp_path):
    with pytest.raises(BadInputError, match="did you mean 'boolq'"):
        load_items("boolk", None)
    with pytest.raises(BadInputError, match=r"piqa.jsonl does not exist"):
        load_items("piqa", str(tmp_path))
    (tmp_path / "piqa.jsonl").write_text("\n")
    with pytest.raises(BadInputError, match="at least one item"):
        load_items("piqa", str(tmp_path))


def harness_tasks(folder, files):
    """The harness's own task files over local data."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent
    places = {
        "boolq": "super_glue/boolq/default.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "winogrande": "winogrande/default.yaml",
        "arc_easy": "arc/arc_easy.yaml",
        "piqa": "piqa/piqa.yaml",
    }
    for name, place in places.items():
        local = files / f"{name}.jsonl"
        if name == "boolq":  # SuperGLUE calls the answer a label
            local = folder / "boolq.jsonl"
            local.write_text("".join(json.dumps(row | {"label": int(row["answer"])}) + "\n" for row in BOOLQ))
        over = {
            "include": str(own / place), "task": f"local_{name}", "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {"data_files": {"train": str(local), "validation": str(local), "test": str(local)}},
            "tag": None,
        }  # fmt: skip
        (folder / f"local_{name}.yaml").write_text(yaml.safe_dump(over))
    return [f"local_{name}" for name in places]


def test_all_scores_are_those_of_the_harness(model, random_model, files, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="the extra zeroshot is not installed")
    from lm_eval.tasks import TaskManager

    from qalof.evaluation.lm_eval_adapter import HarnessModel

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = harness_tasks(tmp_path, files)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    adapter = HarnessModel(model, load_tokenizer(random_model), batch_size=3)
    theirs = lm_eval.simple_evaluate(
        model=adapter, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    for name in names:
        ours = make(random_model, files, name.removeprefix("local_")).evaluate(model)
        for metric, value in ours.metrics.items():
            assert value == pytest.approx(100 * theirs["results"][name][f"{metric},none"]), (name, metric)
            each = [100 * sample[metric] for sample in sorted(theirs["samples"][name], key=lambda s: s["doc_id"])]
            assert ours.per_example[metric] == each, (name, metric)


def test_the_harness_s_rolling_likelihood_and_generation(model, random_model):
    pytest.importorskip("lm_eval", reason="the extra zeroshot is not installed")
    from qalof.evaluation.lm_eval_adapter import HarnessModel

    tokenizer = load_tokenizer(random_model)
    adapter = HarnessModel(model, tokenizer, max_length=16)
    text = "Anna lives in Oslo. She works at the harbour with a small white duck. " * 2
    (found,) = adapter.loglikelihood_rolling([SimpleNamespace(args=(text,))])
    # sixteen tokens at a time, bos before the first; the last window is shown all it has room for
    ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    expected = 0.0
    for first in range(1, len(ids), 16):
        end = min(first + 16, len(ids))
        with torch.no_grad():
            logs = model(torch.tensor([ids[end - 17 : end - 1]])).logits[0].double().log_softmax(-1)
        expected += sum(float(logs[place - end, ids[place]]) for place in range(first, end))
    assert found == pytest.approx(expected, rel=1e-5)
    (out,) = adapter.generate_until([SimpleNamespace(args=("Anna lives", {"until": ["\n"], "max_gen_toks": 5}))])
    assert "\n" not in out


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/zeroshot is not at hand")
@pytest.mark.parametrize(
    ("dataset", "file", "count"),
    [
        ("boolq", "boolq", 1000),
        ("hellaswag", "hellaswag", 501),
        ("hellaswag", "hellaswag_text", 1000),
        ("winogrande", "winogrande", 634),
    ],
)
def test_real_benchmarks_are_read_whole_and_scored(dataset, file, count):
    task = qalof.task("zero-shot", dataset=dataset, data=str(REAL / f"{file}.jsonl"))
    assert len(task.validation) == count
    if dataset == "hellaswag":
        assert not any(re.search(r"\[.*?\]", "".join(choice)) for item in task.validation for choice in item.choices)
    model = build(BaseModel("tiny", HeadKind.CAUSAL_LM)).eval()
    found = task.evaluate(model, limit=20)
    assert found.examples == 20
    assert set(found.metrics) == set(task.metrics)
    low, high = found.interval("acc").low, found.interval("acc").high
    assert 0 <= low <= found["acc"] <= high <= 100
