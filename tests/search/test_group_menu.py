"""A search in this process over a menu with group sizes, on the shipped tiny model."""

import pytest

import qalof
import search
from qalof.export.packed import save_packed
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build


@pytest.fixture(scope="module")
def model():
    return build(BaseModel("tiny", HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4), "8": AdapterSpec(2, 4)}).eval()


def test_the_tiny_model_is_searched_over_bits_and_group_sizes_within_true_bytes(model, tmp_path):
    task = qalof.task("language-modeling", source="tiny", max_length=64, stride=64)
    menu = {"weight": (4, "4g64", "4g16", 8), "activation": (32,), "kv": None, "group": "block"}
    space = search.BitmapSpace.of(model, **menu)
    low, high = space.reachable("weight_bytes")
    limit = low + 0.6 * (high - low)
    evaluator = search.LocalEvaluator(model, task, limit=4)
    result = search.run(
        space, evaluator, ("min:loss", "min:weight_bytes"), "random", 12, limits={"weight_bytes": limit}, seed=1
    )
    assert len(result.points) == 12
    assert all(point.cost.weight_bytes <= limit for point in result.points)
    used = {bits.group_size for point in result.points for bits in point.bitmap.values()}
    assert used == {None, 64, 16}
    best = result.best(weight_bytes=limit)
    assert best in result.points
    # what the search promises in bytes is what is packed
    assert save_packed(model, best.bitmap, tmp_path / "packed").weight_bytes == best.cost.weight_bytes
    losses = {str(point.bitmap): point.values[0] for point in result.points if point.bitmap.is_uniform}
    assert losses["w4g16a32"] < losses["w4a32"], "finer groups lose less at 4 bits"
