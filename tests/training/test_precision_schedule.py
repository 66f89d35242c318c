from collections import Counter

import pytest

from qalof.errors import BadInputError
from qalof.training.objectives.precision_schedule import CyclicPrecision


def test_reference_run_has_no_remainder_and_ends_at_the_highest_width():
    schedule = CyclicPrecision(4, 8, cycles=32, steps=1000)
    assert schedule.bits(0) == 4
    assert schedule.bits(999) == 8
    drops = sum(schedule.bits(t) < schedule.bits(t - 1) for t in range(1, 1000))
    assert drops == 31


def test_official_remainder_is_spent_at_the_lowest_width():
    schedule = CyclicPrecision(4, 8, cycles=32, steps=1000, official_remainder=True)
    assert [schedule.bits(t) for t in range(992, 1000)] == [4] * 8
    # the known switch points of a period of 31
    first = [schedule.bits(t) for t in range(31)]
    assert [t for t in range(1, 31) if first[t] != first[t - 1]] == [8, 14, 18, 24]


def test_occupancy_of_three_to_eight_matches_the_known_shares():
    schedule = CyclicPrecision(3, 8, cycles=1, steps=100_000)
    share = {bits: count / 1000 for bits, count in Counter(schedule.bits(t) for t in range(100_000)).items()}
    assert share == pytest.approx({3: 20.5, 4: 16.5, 5: 13, 6: 13, 7: 16.5, 8: 20.5}, abs=0.15)


def test_width_only_rises_within_a_cycle():
    schedule = CyclicPrecision(2, 8, cycles=3, steps=300)
    for start in (0, 100, 200):
        bits = [schedule.bits(t) for t in range(start, start + 100)]
        assert bits == sorted(bits)


@pytest.mark.parametrize("options", [{"lowest": 9}, {"cycles": 0}, {"cycles": 1001}, {"lowest": 1}])
def test_impossible_schedules_are_refused(options):
    with pytest.raises(BadInputError):
        CyclicPrecision(**{"highest": 8, "steps": 1000, **options})


# widths of ten steps of one cycle from 2 to 8, worked out by hand from the formulas
ONE_CYCLE = {
    "cosine": [2, 2, 3, 3, 4, 5, 6, 7, 7, 8],
    "linear": [2, 3, 3, 4, 4, 5, 6, 6, 7, 7],
    "exponential": [2, 4, 5, 6, 7, 7, 7, 8, 8, 8],
    "rex": [2, 2, 2, 2, 2, 3, 3, 3, 4, 5],
}


@pytest.mark.parametrize("shape", ONE_CYCLE)
def test_each_shape_gives_its_widths(shape):
    schedule = CyclicPrecision(2, 8, cycles=1, steps=10, shape=shape)
    assert [schedule.bits(t) for t in range(10)] == ONE_CYCLE[shape]


@pytest.mark.parametrize("shape", ONE_CYCLE)
@pytest.mark.parametrize("official", [False, True])
def test_repeated_cycles_are_all_alike(shape, official):
    schedule = CyclicPrecision(2, 8, cycles=4, steps=40, official_remainder=official, shape=shape)
    assert [schedule.bits(t) for t in range(40)] == ONE_CYCLE[shape] * 4


@pytest.mark.parametrize("shape", ONE_CYCLE)
def test_triangular_cycles_fall_first_and_rise_then(shape):
    schedule = CyclicPrecision(2, 8, cycles=4, steps=400, shape=shape, form="triangular")
    bits = [schedule.bits(t) for t in range(400)]
    assert bits[0] == 8
    assert bits[:100] == sorted(bits[:100], reverse=True)
    assert bits[100:200] == sorted(bits[100:200])
    assert bits[:200] == bits[200:]


def test_a_vertical_fall_mirrors_the_widths_and_a_horizontal_one_the_time():
    rise, vertical, horizontal = (
        CyclicPrecision(2, 8, cycles=2, steps=20, shape="exponential", form=form, flip=flip)
        for form, flip in (("repeated", "vertical"), ("triangular", "vertical"), ("triangular", "horizontal"))
    )
    for t in range(1, 10):
        assert vertical.rise(t) == 1 - rise.rise(t)
        assert horizontal.rise(t) == pytest.approx(rise.rise(10 - t))
    for t in range(10, 20):
        assert vertical.rise(t) == horizontal.rise(t) == rise.rise(t)


@pytest.mark.parametrize("options", [{"shape": "cosin"}, {"form": "square"}, {"flip": "both"}])
def test_unknown_shapes_are_refused_with_those_there_are(options):
    with pytest.raises(BadInputError, match="must be one of"):
        CyclicPrecision(**options)
