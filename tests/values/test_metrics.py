"""A metric's direction is its own: registered once, and asked for by whoever shows, ranks or optimizes."""

import ast
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

ROOT = Path(__file__).resolve().parents[2]
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


SOURCES = [path for wing in ("qalof", "search", "orchestrate") for path in sorted((ROOT / wing).rglob("*.py"))]
ELSEWHERE = [path for path in SOURCES if path != ROOT / "qalof" / "metrics.py"]
QUALITY = {*OF_TASKS, TRAIN_LOSS}


def texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_has_a_table_of_metrics_or_writes_a_direction(path):
    tree = ast.parse(path.read_text())
    tables = [
        node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    ]
    for table in tables:
        assert len(texts(table) & QUALITY) < 2, f"line {table.lineno}: a table of metrics; ask qalof.metrics"
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and path.parent.name != "tasks":  # a task computes its own metrics
            known = texts(node) & QUALITY - {TRAIN_LOSS, "kl"}  # kl is a kind of distillation too
            assert not known, f"line {node.lineno}: decides by {known}; ask qalof.metrics"
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            head = str(node.values[0].value)
            assert head not in ("max:", "min:"), f"line {node.lineno}: writes a direction; give the metric's name"
        names = {getattr(node, "id", ""), getattr(node, "attr", "")}
        assert not names & {"LOWER_IS_BETTER", "HIGHER_IS_BETTER", "smaller_is_better"}, f"line {node.lineno}"
