from collections import Counter

import pytest

from qalof.errors import BadInputError
from qalof.training.precision_schedule import CyclicPrecision


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
