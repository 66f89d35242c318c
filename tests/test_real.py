"""The real model, from its GGUF file through training to a GGUF file and back.

SmolLM2-135M's weights are dequantized Q4_1, so "full precision" is that here.  Perplexities are of windows of 512
tokens of WikiText-2 raw; unquantized, plain transformers computes the same.
"""

import math
import os
from pathlib import Path

import pytest
import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.export.gguf_file import write_gguf
from qalof.model.adapters import AdapterSpec
from qalof.model.gguf_source import stored_as
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained, load_tokenizer
from qalof.model.switchable import build
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives.switchable import SwitchablePrecision

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]  # minutes on two calm cores, more beside other work
WINDOWS = 2
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module", autouse=True)
def all_cores():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def threads(one_thread):
    torch.set_num_threads(os.cpu_count() or 1)


@pytest.fixture(scope="module")
def base(real_gguf):
    return BaseModel(str(real_gguf), HeadKind.CAUSAL_LM)


@pytest.fixture(scope="module")
def model(base):
    return build(base, {"4": AdapterSpec(4, 8), "8": AdapterSpec(4, 8)}).eval()


@pytest.fixture(scope="module")
def text(real_gguf, real_data):
    return qalof.task(
        "language-modeling", source=str(real_gguf), data=str(real_data / "wikitext2" / "wiki.valid.raw"),
        max_length=512, stride=256, eval_batch_size=4,
    )  # fmt: skip


def test_all_210_layers_are_sites_and_the_file_s_type_is_known(model):
    assert len(model.sites) == 210
    assert {site.name.rsplit(".", 1)[1] for site in model.sites} == set(KINDS)
    assert sum(site.in_features * site.out_features for site in model.sites) == 106_168_320
    assert stored_as(model.model.config) == "Q4_1"


def test_perplexity_is_that_of_plain_transformers_and_grows_as_widths_shrink(model, text, base):
    found = {}
    for bitmap in ("w32a32kv32", "w8a8kv8", "w4a16kv16"):
        model.set_bitmap(bitmap)
        found[bitmap] = text.evaluate(model, limit=WINDOWS)["perplexity"]
    assert found["w32a32kv32"] == pytest.approx(plain_perplexity(base.load(), text.windows()[:WINDOWS]), rel=1e-4)
    assert 1.0 < found["w8a8kv8"] / found["w32a32kv32"] < 1.15
    assert 1.3 < found["w4a16kv16"] / found["w32a32kv32"] < 6


@torch.no_grad()
def plain_perplexity(plain, windows):
    """Of a transformers model, window by window, without anything of this project's tasks."""
    nats, tokens = 0.0, 0
    for window in windows:
        ids, first = window["input_ids"], window["first"]
        scores = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= float(scores[first - 1 : -1].gather(1, torch.tensor(ids[first:])[:, None]).sum())
        tokens += len(ids) - first
    return math.exp(nats / tokens)


def test_a_bitmap_changes_what_runs_and_comes_back_exactly(model):
    ids = torch.arange(100, 116)[None]
    with torch.no_grad():
        model.set_bitmap("w8a8kv8")
        first = model(ids).logits
        model.set_bitmap(Bitmap.parse("striped:w4a8kv8/w8a8kv8", model.site_names))
        mixed = model(ids).logits
        model.set_bitmap("w8a8kv8")
        again = model(ids).logits
    assert torch.equal(first, again)
    assert not torch.equal(first, mixed)


@pytest.fixture(scope="module")
def trained(base, real_gguf, real_data, tmp_path_factory):
    """A checkpoint after three steps on the same two questions of SQuAD, with the loss of each step."""
    torch.set_num_threads(os.cpu_count() or 1)
    task = qalof.task(
        "squad-completion", source=str(real_gguf), data=str(real_data / "squad" / "dev-v1.1.json"),
        train_split="train[:2]", max_length=128, max_new_tokens=8,
    )  # fmt: skip
    model = build(base, {"4": AdapterSpec(4, 8), "8": AdapterSpec(4, 8)})
    bitmaps = [Bitmap.parse(text, model.site_names) for text in ("w8a8kv8", "w4a8kv8")]
    settings = TrainSettings(steps=3, batch_size=2, learning_rate=1e-3, schedule="constant")
    trainer = Trainer(model, task, SwitchablePrecision(bitmaps, model.sites), settings)
    losses = [trainer.train_step().losses for _ in range(3)]
    folder: Path = tmp_path_factory.mktemp("real") / "checkpoint"
    qalof.save(model, folder)
    return folder, losses, model.eval()


def test_a_few_steps_lower_the_loss_at_both_widths(trained):
    _, losses, _ = trained
    for name in losses[0]:
        assert losses[-1][name] < losses[0][name], name


def test_a_checkpoint_gives_the_same_model_again(trained):
    folder, _, model = trained
    again = qalof.load(folder)
    ids = torch.arange(100, 132)[None]
    with torch.no_grad():
        for bitmap in ("w8a8kv8", "w4a8kv8"):
            model.set_bitmap(bitmap)
            again.set_bitmap(bitmap)
            assert torch.equal(model(ids).logits, again(ids).logits)


def test_a_file_of_8_bits_is_read_back_by_transformers_as_the_model_that_was_written(trained, real_gguf, tmp_path):
    _, _, model = trained
    write_gguf(model, "w8a32kv32", tmp_path / "m.gguf", load_tokenizer(str(real_gguf)))
    back = load_pretrained(str(tmp_path / "m.gguf"), HeadKind.CAUSAL_LM)
    assert stored_as(back.config) == "Q8_0"
    ids = load_tokenizer(str(tmp_path / "m.gguf"))("The tower was built in 1889.", return_tensors="pt")["input_ids"]
    model.set_bitmap("w8a32kv32")
    with torch.no_grad():
        ours, theirs = model(ids).logits.softmax(-1), back(ids).logits.softmax(-1)
    # a file has the adapter within its weights, and rounds their sum in blocks: it is near the model, and not the same
    apart = 0.5 * (ours - theirs).abs().sum(-1)
    assert apart.mean() < 0.1, apart
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.7
