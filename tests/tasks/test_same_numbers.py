"""A language model's score does not depend on the batch size or the threads, to what the task's module states."""

import pytest
import torch

import qalof
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.language_modeling import FLOAT32_TOLERANCE, FLOAT64_TOLERANCE, ROUNDED_TOLERANCE

WAYS = {"large batch": (32, 1), "two threads": (1, 2), "large batch, two threads": (32, 2)}
BITMAPS = {
    "32": FLOAT32_TOLERANCE, "w4a32kv32": FLOAT32_TOLERANCE, "8": ROUNDED_TOLERANCE, "w4a8kv4": ROUNDED_TOLERANCE,
    "4": ROUNDED_TOLERANCE,
}  # fmt: skip


def scored(model, bitmap, batch, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task = qalof.task("language-modeling", max_length=96, stride=48, eval_batch_size=batch)
        model.set_bitmap(bitmap)
        return task.evaluate(model, limit=4)
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["float32", "float64"])
def model(request):
    head = qalof.task("language-modeling").head
    made = build(BaseModel("tiny", head), {"4": AdapterSpec(4, 8), "8": AdapterSpec(4, 8)}).eval()
    return made.double() if request.param == "float64" else made


@pytest.mark.parametrize("bitmap", BITMAPS)
def test_batch_size_and_threads_change_no_score_beyond_the_stated_tolerance(model, bitmap):
    exact = next(model.parameters()).dtype is torch.float64
    alone = scored(model, bitmap, 1, 1)
    for way in WAYS.values():
        found = scored(model, bitmap, *way)
        for name in ("loss", "perplexity", "word_perplexity"):
            # a perplexity is the exponential of a loss of several nats per word
            slack = 1 if name == "loss" else 30
            limit = slack * (FLOAT64_TOLERANCE if exact else BITMAPS[bitmap])
            assert found[name] == pytest.approx(alone[name], rel=limit), (name, way)
        if exact:
            assert found.per_example["loss"] == pytest.approx(alone.per_example["loss"], rel=FLOAT64_TOLERANCE)
