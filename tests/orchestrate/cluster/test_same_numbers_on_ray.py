"""A language model's score does not depend on how many actors take part, nor on how many share one bitmap."""

import pytest

import qalof
from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import WorkersConfig
from qalof.bitmap import Bitmap
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
