"""What an attack's config says about random precision reaches the defense."""

import pytest
from pydantic import ValidationError

from orchestrate.jobs.attack.config import AttackConfig, RandomPrecisionConfig
from orchestrate.jobs.attack.job import check


@pytest.mark.parametrize("given", [{}, {"batch_size": 3}, {"batch_size": 1}])
def test_a_batch_of_the_config_shares_its_draws_and_others_draw_anew(review_checkpoint, given):
    drawn = {"bitmaps": [8, 4], "granularity": "batch", "draws": 4, **given}
    config = AttackConfig.model_validate({"checkpoint": str(review_checkpoint), "random_precision": drawn, "limit": 2})
    (defense,) = check(config).plan.defenses
    size = given.get("batch_size", 16)
    assert defense.shared == size
    for draw in range(4):
        bitmaps = [str(defense.bitmap(request, draw)) for request in range(8 * size)]
        batches = [bitmaps[start : start + size] for start in range(0, len(bitmaps), size)]
        assert all(len(set(batch)) == 1 for batch in batches)
    assert len({str(defense.bitmap(request)) for request in range(0, 8 * size, size)}) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"granularity": "batch", "batch_size": 0}, "must be a whole number of at least 1"),
        ({"granularity": "batch", "batch_size": -4}, "must be a whole number of at least 1"),
        ({"granularity": "request", "batch_size": 4}, "needs granularity batch: got 4 with request"),
        ({"granularity": "layer", "batch_size": 4}, "needs granularity batch: got 4 with layer"),
    ],
)
def test_a_batch_size_that_nothing_would_use_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        RandomPrecisionConfig.model_validate(given)
