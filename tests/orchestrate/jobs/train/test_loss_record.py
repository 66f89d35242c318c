"""Losses of training steps: none is missing behind a checkpoint, whatever was killed."""

import pytest

from orchestrate.jobs.train.losses import by_step, entries, keep_losses, lines_of, training_loss, unrecorded
from orchestrate.runs.layout import LOSSES
from qalof.files import append_lines
from qalof.training.loop import StepMetrics


def posts(start: int, end: int) -> list[StepMetrics]:
    return [
        StepMetrics(step, 0.1 / (step + 1), {"8": step / 3, "4": step + 0.25}, step / 7) for step in range(start, end)
    ]


@pytest.fixture
def storage(tmp_path):
    """Of a run with a checkpoint at each third step up to 9; the worker was killed while it made that of 12."""
    folder = tmp_path / "ray" / "train"
    for end in (3, 6, 9, 12):
        keep_losses(folder, posts(end - 3, end))
    return folder


def test_losses_that_were_on_their_way_at_a_kill_are_filled_in_once_each_and_in_order(tmp_path, storage):
    record = tmp_path / LOSSES
    append_lines(record, lines_of(posts(0, 4)))
    with record.open("a") as file:
        file.write('{"step": 4, "learn')  # torn, so not on record
    missing = unrecorded(record, storage, before=9)
    assert missing == posts(4, 9)
    append_lines(record, lines_of(missing))
    assert [entry["step"] for entry in entries(record)] == list(range(9))
    assert unrecorded(record, storage, before=9) == []


def test_steps_after_the_checkpoint_are_left_to_the_training_that_repeats_them(tmp_path, storage):
    assert unrecorded(tmp_path / LOSSES, storage, before=6) == posts(0, 6)
    assert unrecorded(tmp_path / LOSSES, storage, before=0) == []
    assert unrecorded(tmp_path / LOSSES, tmp_path / "nothing", before=9) == []


def test_a_gap_in_the_middle_is_found_and_what_is_on_record_is_not_repeated(tmp_path, storage):
    append_lines(tmp_path / LOSSES, lines_of([*posts(0, 2), *posts(5, 9)]))
    assert unrecorded(tmp_path / LOSSES, storage, before=9) == posts(2, 5)


def test_a_line_written_right_behind_a_torn_one_counts_alone(tmp_path):
    (whole,) = lines_of(posts(7, 8))
    (tmp_path / LOSSES).write_text(f"{whole[:20]}{whole}\n{whole[:9]}")
    assert [entry["step"] for entry in entries(tmp_path / LOSSES)] == [7]


def test_the_training_loss_is_the_mean_of_the_last_tenth_and_the_last_line_of_a_step_counts(tmp_path):
    early = [StepMetrics(19, 0.1, {"8": 99.0}, 99.0)]  # of before a kill; the step was repeated
    append_lines(tmp_path / LOSSES, lines_of([*early, *posts(0, 20)]))
    assert list(by_step(tmp_path / LOSSES)) == list(range(20))
    found = training_loss(tmp_path / LOSSES, 20)
    assert found["cross_entropy"] == pytest.approx(sum((n / 3 + n + 0.25) / 2 for n in (18, 19)) / 2)
    assert found["objective"] == pytest.approx((18 / 7 + 19 / 7) / 2)
    assert found["over"] == 2


def test_a_record_from_before_the_optimized_loss_was_kept_has_none(tmp_path):
    (tmp_path / LOSSES).write_text('{"step": 0, "learning_rate": 0.1, "losses": {"8": 1.5}}\n')
    assert training_loss(tmp_path / LOSSES, 1) == {"cross_entropy": 1.5, "objective": None, "over": 1}
    with pytest.raises(ValueError, match="must hold a step"):
        training_loss(tmp_path / "none.jsonl", 1)
