import math

import pytest

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search import EvaluationRecord

NAMES = ("h.0.a", "h.0.b")
BITMAPS = [Bitmap.uniform(NAMES, bits) for bits in (2, 4, 8)]


def evaluation(value):
    return Evaluation({"f1": value}, 2, {"f1": [value, 1 / 3]})


@pytest.fixture
def record(tmp_path):
    return EvaluationRecord(tmp_path / "folder" / "record.jsonl")


def test_evaluations_come_back_exactly(record):
    for bitmap, value in zip(BITMAPS, (0.1 + 0.2, math.inf, 1e-300), strict=True):
        record.add("model", 8, bitmap, evaluation(value))
    assert EvaluationRecord(record.path).load("model", 8, NAMES) == {
        bitmap: evaluation(value) for bitmap, value in zip(BITMAPS, (0.1 + 0.2, math.inf, 1e-300), strict=True)
    }


def test_other_models_and_limits_are_passed_over(record):
    record.add("model", 8, BITMAPS[0], evaluation(1.0))
    record.add("model", None, BITMAPS[1], evaluation(2.0))
    record.add("other", 8, BITMAPS[2], evaluation(3.0))
    assert list(record.load("model", 8, NAMES)) == [BITMAPS[0]]
    assert list(record.load("model", None, NAMES)) == [BITMAPS[1]]


def test_a_missing_record_knows_nothing(record):
    assert record.load("model", None, NAMES) == {}


@pytest.mark.parametrize("lost", [1, 20])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(record, lost):
    for bitmap in BITMAPS[:2]:
        record.add("model", None, bitmap, evaluation(1.0))
    record.path.write_bytes(record.path.read_bytes()[:-lost])
    again = EvaluationRecord(record.path)
    assert list(again.load("model", None, NAMES)) == BITMAPS[:1]
    again.add("model", None, BITMAPS[2], evaluation(1.0))
    assert list(again.load("model", None, NAMES)) == [BITMAPS[0], BITMAPS[2]]


def test_a_line_that_is_no_evaluation_is_named(record):
    record.add("model", None, BITMAPS[0], evaluation(1.0))
    record.path.write_text(record.path.read_text() + "{broken\n")
    with pytest.raises(BadInputError, match=r"line 2 of .*record.jsonl does not"):
        record.load("model", None, NAMES)


def test_a_newer_record_is_refused(record):
    record.path.parent.mkdir()
    record.path.write_text('{"version": 4}\n')
    with pytest.raises(BadInputError, match="must have a version from 1 to 3: got 4"):
        record.load("model", None, NAMES)
