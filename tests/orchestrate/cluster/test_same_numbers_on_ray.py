"""A language model's score does not depend on how many actors take part, nor on how many share one bitmap; nor does
what comes of texts that are attacked together.
"""

import json

import pytest

import qalof
from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import WorkersConfig
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.run import execute
from qalof.bitmap import Bitmap
from qalof.files import read_whole_lines
from qalof.tasks import parts
from qalof.tasks.language_modeling import ROUNDED_TOLERANCE

pytestmark = pytest.mark.ray


def test_one_actor_and_several_score_a_language_model_as_this_process_does(ray_session, lm_checkpoint, monkeypatch):
    # eight examples in four parts, so one bitmap alone keeps two actors busy
    monkeypatch.setattr(parts, "LEAST", 2)
    monkeypatch.setattr(parts, "BATCHES", 0)
    model, task = qalof.load(lm_checkpoint), qalof.task_of(lm_checkpoint)
    bitmaps = [Bitmap.parse(spec, model.site_names) for spec in ("8", "w4a8kv4", "striped84", "32")]
    here = []
    for bitmap in bitmaps:
        model.set_bitmap(bitmap)
        here.append(task.evaluate(model, limit=8))
    found_by = []
    for count in (1, 2):
        pool = EvaluationPool(lm_checkpoint, model.sites, 8, WorkersConfig(count=count, threads=1))
        try:
            found_by.append(pool.evaluate(bitmaps))
            for found, expected in zip(found_by[-1], here, strict=True):
                assert found.examples == expected.examples
                assert found["loss"] == pytest.approx(expected["loss"], rel=ROUNDED_TOLERANCE)
        finally:
            pool.close()
    assert found_by[0] == found_by[1]


def test_one_actor_and_several_find_the_same_texts_where_some_are_attacked_together(
    ray_session, review_checkpoint, tmp_path
):
    found = []
    for workers in ({"count": 1, "in_process": True, "threads": 1}, {"count": 2, "threads": 1}):
        folder = tmp_path / str(workers["count"])
        config = {
            "checkpoint": str(review_checkpoint), "limit": 5, "bitmaps": [8, 4], "texts_at_once": 2, "adaptive": {},
            "method": {"name": "textfooler", "settings": {"least_cosine": 0.5, "least_similarity": 0.5}},
            "random_precision": {"draws": 2}, "workers": workers, "tracking": {"root": str(tmp_path)},
        }  # fmt: skip
        result = execute("attack", AttackConfig.model_validate(config), folder)
        rows = [json.loads(line) for line in read_whole_lines(folder / "attacks.jsonl")]
        texts = {(row["example_id"], row["bitmap"]): row["adversarial_text"] for row in rows}
        found.append((result["robustness"], texts))
    assert len(found[0][1]) == 5 * 3
    assert found[0] == found[1]
