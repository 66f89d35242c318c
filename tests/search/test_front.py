import math

from hypothesis import given
from hypothesis import strategies as st

from search import non_dominated

DIRECTIONS = ("max", "min")
# by hand: (f1, bytes); (70, 30) loses to (80, 20), (60, 20) to (80, 20), (50, 10) and (80, 20) and (90, 40) stand
POINTS = [(80, 20), (70, 30), (90, 40), (50, 10), (60, 20)]


def test_front_of_a_hand_worked_case():
    assert non_dominated(POINTS, DIRECTIONS) == [0, 2, 3]


def test_front_turns_with_the_directions():
    assert non_dominated(POINTS, ("min", "min")) == [3]
    assert non_dominated(POINTS, ("max", "max")) == [2]


def test_equal_points_stand_side_by_side():
    assert non_dominated([(1, 1), (1, 1), (0, 2)], DIRECTIONS) == [0, 1]


def test_a_collapsed_point_is_on_no_front():
    assert non_dominated([(math.nan, 1), (5, 2), (math.inf, 3)], DIRECTIONS) == [1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_whatever_is_off_the_front_is_beaten_by_something_on_it(points):
    front = non_dominated(points, DIRECTIONS)
    for index, (high, low) in enumerate(points):
        beaten = any(points[f][0] >= high and points[f][1] <= low and points[f] != (high, low) for f in front)
        assert beaten == (index not in front)
