"""``kl`` of a task is the mean divergence of its labeled positions; other metrics keep their bits."""

import numpy as np
import pytest
import torch

import qalof
import search
from qalof.errors import BadInputError
from qalof.evaluation.full_precision import FullPrecision
from qalof.metrics import METRICS, requested
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.site import HeadMode
from qalof.tasks.base import on_request
from qalof.tasks.factory import TASKS

TASKS_WITH_KL = {
    "language-modeling": {"max_length": 48, "stride": 24, "eval_batch_size": 3},
    "squad-completion": {"max_length": 96, "max_new_tokens": 2, "eval_batch_size": 3},
}
BITMAPS = ("w8", "w3", "w4a8kv8")


def made(source, head_mode=None):
    settings = SwitchSettings() if head_mode is None else SwitchSettings(head_mode=head_mode)
    head = qalof.task("language-modeling").head
    model = build(BaseModel(source, head), {"8": AdapterSpec(2)} if head_mode is None else {}, settings).double().eval()
    return model


@pytest.fixture(scope="module", params=[None, HeadMode.UNTIED], ids=["plain", "head as a site"])
def model(request, random_model):
    return made(random_model, request.param)


@pytest.fixture(scope="module", params=sorted(TASKS_WITH_KL))
def task(request, random_model):
    return qalof.task(request.param, source=random_model, **TASKS_WITH_KL[request.param])


def scored(model, task, bitmap, full=None, limit=5):
    with model.at(bitmap):
        return task.evaluate(model, limit=limit, **({} if full is None else {"full_precision": full}))


def by_hand(model, task, bitmap, limit=5):
    """Sums of p (log p - log q) over the labeled positions of each example, from whole logits."""
    if task.name == "language-modeling":
        features = task.windows()[:limit]
    else:
        encoded = [task._encode(e.question, e.context, e.texts[0]) for e in task.validation[:limit]]
        features = [{"input_ids": ids, "answer_tokens": count} for ids, count in encoded]
    found = []
    for feature in features:
        batch = task.collate([feature])
        logs = []
        for at in (32, bitmap):
            with model.at(at), torch.no_grad():
                logs.append(task.label_rows(model(**task.model_inputs(batch)), batch)[0].log_softmax(-1))
        found.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
    return found, [task.units(feature) for feature in features]


def test_kl_is_the_divergence_per_labeled_position_of_the_whole_logits(model, task):
    for bitmap in BITMAPS:
        found = scored(model, task, bitmap, FullPrecision())
        sums, tokens = by_hand(model, task, bitmap)
        assert found["kl"] == pytest.approx(sum(sums) / sum(tokens), rel=1e-6)
        scale = len(sums) / sum(tokens)
        np.testing.assert_allclose(found.per_example["kl"], [value * scale for value in sums], rtol=1e-6)
        interval = found.interval("kl")
        assert interval.low < interval.estimate < interval.high


def test_kl_of_full_precision_is_zero_and_of_all_else_positive(model, task):
    full = FullPrecision()
    assert scored(model, task, 32, full)["kl"] == 0.0
    assert all(scored(model, task, bitmap, full)["kl"] > 0 for bitmap in BITMAPS)


def test_other_metrics_keep_their_bits_where_kl_is_asked_for(model, task):
    without, with_kl = scored(model, task, "w4"), scored(model, task, "w4", FullPrecision())
    assert "kl" not in without.metrics
    assert {name: value for name, value in with_kl.metrics.items() if name != "kl"} == without.metrics
    assert set(with_kl.metrics) == set(task.metrics)


def test_full_precision_is_run_once_per_batch_and_what_does_not_fit_is_run_again_to_the_same_number(model, task):
    runs = []
    handle = model.model.register_forward_hook(lambda *_: runs.append(model.bitmap))
    try:
        full, none = FullPrecision(), FullPrecision(most_bytes=0)
        kept = [scored(model, task, bitmap, full)["kl"] for bitmap in ("w8", "w3")]
        at_full = sum(str(bitmap) == "32" for bitmap in runs)
        runs.clear()
        again = [scored(model, task, bitmap, none)["kl"] for bitmap in ("w8", "w3")]
    finally:
        handle.remove()
    assert kept == again
    assert 0 < full.held_bytes <= full.most_bytes
    assert none.held_bytes == 0
    # the check of the head takes two passes of its own
    assert sum(str(bitmap) == "32" for bitmap in runs) - 2 == 2 * (at_full - 2)


def test_a_search_and_a_ranking_by_kl_measure_it_and_a_record_of_the_loss_alone_is_not_taken_for_it(
    random_model, tmp_path
):
    model = made(random_model)
    task = qalof.task("language-modeling", source=random_model, **TASKS_WITH_KL["language-modeling"])
    space = search.BitmapSpace.of(model, weight=(3, 8), activation=(32,), kv=None)
    given = {"strategy": "random", "max_evaluations": 4, "storage": tmp_path / "record.jsonl"}
    evaluator = search.LocalEvaluator(model, task, 3)
    search.run(space, evaluator, ("min:loss",), **given)
    result = search.run(space, evaluator, ("min:kl", "min:average_bits"), **given)
    assert all(point.metrics["kl"].estimate > 0 for point in result.points)
    lines = (tmp_path / "record.jsonl").read_text().count("\n")
    search.run(space, evaluator, ("kl",), **given)
    assert (tmp_path / "record.jsonl").read_text().count("\n") == lines
    ranking = search.run(space, evaluator, ("kl",), "one_at_a_time", None)
    assert all(row["kl_drop"] == row["kl_drop"] for row in ranking.trace)


def test_guided_takes_kl_for_a_likelihood(random_model):
    model = made(random_model)
    task = qalof.task("language-modeling", source=random_model, **TASKS_WITH_KL["language-modeling"])
    space = search.BitmapSpace.of(model, weight=(3, 4, 8), activation=(32,), kv=None)
    options = {"budgets": [4.5], "examples": 2}
    result = search.run(space, search.LocalEvaluator(model, task, 3), ("min:kl",), "guided", None, options=options)
    assert METRICS["kl"].is_likelihood
    assert not result.best(average_bits=4.5).bitmap.is_uniform
    assert not any(row["stage"] == "refined" for row in result.trace)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_without_a_language_head_has_no_kl_and_says_what_it_has(name):
    kind = TASKS[name][0]
    if name in TASKS_WITH_KL:
        assert set(on_request(kind, ("kl",))) == {"full_precision"}
    else:
        assert "kl" not in kind.metrics
        has = ", ".join(requested(kind.metrics)) or "none"
        with pytest.raises(BadInputError, match=f"got 'kl', {name} has {has}"):
            on_request(kind, ("kl",))


def test_a_model_without_full_precision_is_refused(model, task):
    with pytest.raises(BadInputError, match="kl needs a switchable model"):
        task.evaluate(model.model, limit=2, full_precision=FullPrecision())
