import pytest

from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search import BitmapSpace, Objective, Score, parse_objectives


@pytest.mark.parametrize("text", ["max:f1", "min:weight_bytes", "worst:loss", "worst:f1", "max:agreement"])
def test_an_objective_reads_as_it_prints(text):
    assert str(Objective.parse(text)) == text


def test_values_come_from_the_evaluation_or_the_cost(sites):
    space = BitmapSpace.of(sites, weight=(2, 4, 8))
    bitmap = space.uniform()[0]
    objectives = parse_objectives(["max:f1", "min:average_bits"])
    score = Score.of(bitmap, Evaluation({"f1": 70.0}, 5), space.cost(bitmap), objectives)
    assert score.values == (70.0, 2.0)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "must read like"),
        ("exact_mach", "max:exact_mach or min:exact_mach; did you mean 'exact_match'"),
        ("agreement", "direction of 'agreement' is not known: write max:agreement or min:agreement"),
        ("maxi:f1", "did you mean 'max'"),
        ("max:", "must read like"),
        ("up:f1", "known: max, min"),
    ],
)
def test_another_form_is_refused_with_a_hint(text, hint):
    with pytest.raises(BadInputError, match=hint):
        Objective.parse(text)


@pytest.mark.parametrize(
    ("objectives", "message"), [((), "at least one"), ("max:f1", "a list"), (("max:f1", "f1"), "once")]
)
def test_lists_that_make_no_sense_are_refused(objectives, message):
    with pytest.raises(BadInputError, match=message):
        parse_objectives(objectives)


def test_an_unknown_metric_names_the_nearest(sites):
    cost = BitmapSpace.of(sites, weight=(2, 4, 8)).cost(BitmapSpace.of(sites, weight=(2, 4, 8)).uniform()[0])
    with pytest.raises(BadInputError, match="did you mean 'exact_match'"):
        Objective.parse("max:exact_mach").value(Evaluation({"f1": 1.0, "exact_match": 1.0}, 1), cost)
    with pytest.raises(BadInputError, match="did you mean 'weight_bytes'"):
        Objective.parse("min:weigth_bytes").value(Evaluation({"f1": 1.0}, 1), cost)
