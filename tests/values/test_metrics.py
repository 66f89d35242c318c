"""A metric's direction is its own: registered once, and asked for by whoever shows, ranks or optimizes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.jobs.attack.cells import AT, BETWEEN, UNDER
from orchestrate.jobs.profile.job import METRICS as PROFILE
from orchestrate.jobs.train.best_checkpoint import TRAIN_LOSS
from orchestrate.jobs.train.cells import PARAMETERS
from qalof.attacks.rates import Rate
from qalof.attacks.robustness.report import RandomPrecisionReport, RobustnessResult, SourceUnderDraws
from qalof.cost import COST_NAMES
from qalof.errors import BadInputError
from qalof.metrics import METRICS, Metric, described, mentioned, metric_of, register
from qalof.tasks.factory import TASKS
from search import Objective, parse_objectives
from tests.sources import SOURCES, name_of, nodes, parsed

OF_TASKS = sorted({name for kind, _ in TASKS.values() for name in kind.metrics})
DIRECTED = [metric for metric in METRICS.values() if metric.direction]
RATES = [
    name
    for report in (RobustnessResult, RandomPrecisionReport, SourceUnderDraws)
    for name, field in report.__dataclass_fields__.items()
    if Rate.__name__ in str(field.type)
]


@pytest.mark.parametrize(
    "name", sorted({*OF_TASKS, *COST_NAMES, *PROFILE, *AT, *BETWEEN, *UNDER, *PARAMETERS, *RATES, TRAIN_LOSS})
)
def test_whatever_a_result_or_a_table_calls_a_metric_is_registered(name):
    metric = metric_of(name)
    assert metric.name == name
    assert metric.label
    assert metric.direction or name in PARAMETERS


@pytest.mark.parametrize("kind", TASKS)
def test_what_a_task_is_judged_by_is_one_of_its_metrics_and_has_a_direction(kind):
    task = TASKS[kind][0]
    assert task.primary_metric in task.metrics
    assert metric_of(task.primary_metric).direction


@pytest.mark.parametrize("name", COST_NAMES)
def test_every_cost_is_better_when_lower(name):
    assert metric_of(name).direction == "min"


@pytest.mark.parametrize("metric", DIRECTED, ids=lambda metric: metric.name)
def test_a_worsening_is_positive_where_the_metric_became_worse(metric):
    better, worse = (1.5, 1.0) if metric.direction == "max" else (1.0, 1.5)
    assert metric.worsening(better, worse) == 0.5
    assert metric.worsening(worse, better) == -0.5
    assert metric.sign * better > metric.sign * worse


@pytest.mark.parametrize("metric", DIRECTED, ids=lambda metric: metric.name)
def test_a_bare_name_takes_the_metrics_own_direction_and_a_contradiction_is_refused(metric):
    own = Objective.parse(metric.name)
    assert own == Objective.parse(f"{metric.direction}:{metric.name}") == Objective(metric.direction, metric.name)
    other = "min" if metric.direction == "max" else "max"
    for make in (lambda: Objective.parse(f"{other}:{metric.name}"), lambda: Objective(other, metric.name)):
        with pytest.raises(BadInputError, match=f"worst {metric.name}, .*write {metric.name} or .*worst:{metric.name}"):
            make()
    worst = Objective.parse(f"worst:{metric.name}")
    assert (worst.direction, worst.sign) == (other, -own.sign)
    assert Objective.parse(str(worst)) == worst
    with pytest.raises(BadInputError, match="named once"):
        parse_objectives([metric.name, f"{metric.direction}:{metric.name}"])


@pytest.mark.parametrize("metric", [m for m in METRICS.values() if not m.direction], ids=lambda metric: metric.name)
def test_nothing_is_ranked_by_a_count_that_is_good_neither_way(metric):
    with pytest.raises(BadInputError, match=f"direction of '{metric.name}' is not known"):
        Objective.parse(metric.name)
    with pytest.raises(BadInputError, match="neither"):
        metric.worsening(1, 2)


def test_a_metric_of_ones_own_is_registered_once_and_unknown_ones_only_shown():
    mine = Metric("tests_own_metric", "min", "own")
    assert register(mine) is register(Metric("tests_own_metric", "min", "own"))
    assert Objective.parse("tests_own_metric").direction == "min"
    with pytest.raises(BadInputError, match="must be its own"):
        register(Metric("tests_own_metric", "max", "own"))
    with pytest.raises(BadInputError, match="'exact_mach'.*did you mean 'exact_match'"):
        metric_of("exact_mach")
    assert described("no_such_metric") == Metric("no_such_metric", None, "no such metric")


def test_of_several_metrics_one_in_percent_is_spoken_of():
    assert mentioned(["loss", "perplexity", "accuracy"]) == "accuracy"
    assert mentioned(["exact_match", "f1"]) == "f1"
    assert mentioned(["loss", "perplexity"]) == "loss"


QUALITY = {*OF_TASKS, TRAIN_LOSS}
DIRECTIONS = {"LOWER_IS_BETTER", "HIGHER_IS_BETTER", "smaller_is_better"}


def texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def knows_metrics(path: Path) -> Iterator[str]:
    """The places of a file that say of a metric what :mod:`qalof.metrics` says."""
    for node in parsed(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and len(texts(node.value) & QUALITY) > 1:
            yield f"{name_of(path)}:{node.lineno}: has a table of metrics"
    for node in nodes(path):
        line = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        # a task computes its own metrics, and kl is a kind of distillation too
        if isinstance(node, ast.Compare) and path.parent.name != "tasks" and texts(node) & QUALITY - {TRAIN_LOSS, "kl"}:
            yield f"{line}: decides by the name of a metric"
        if isinstance(node, ast.JoinedStr) and getattr(node.values[0], "value", None) in ("max:", "min:"):
            yield f"{line}: writes a direction; give the metric's name"
        if {getattr(node, "id", ""), getattr(node, "attr", "")} & DIRECTIONS:
            yield f"{line}: has a direction of its own"


def test_no_other_file_has_a_table_of_metrics_or_writes_a_direction():
    found = [place for path in SOURCES if path.name != "metrics.py" for place in knows_metrics(path)]
    assert not found, "ask qalof.metrics"


@pytest.mark.parametrize(
    "planted",
    [
        'TABLE = {"loss": 1, "accuracy": 2}',
        'best = max if name == "f1" else min',
        'objective = f"max:{name}"',
        "sign = LOWER_IS_BETTER[name]",
    ],
)
def test_a_file_that_knows_metrics_is_found(planted, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.sources.ROOT", tmp_path)
    path = tmp_path / "planted.py"
    path.write_text(planted)
    assert list(knows_metrics(path))
