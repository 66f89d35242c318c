"""Every kind of objective is a section of its own, and becomes an objective of the core."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from orchestrate.config.build import adapter_specs
from orchestrate.config.build_objective import make_objective
from orchestrate.config.loader import load_config, to_plain
from orchestrate.config.objective import ObjectiveConfig
from orchestrate.config.sections import AdaptersConfig
from orchestrate.config.train import TrainConfig
from qalof.errors import BadInputError
from qalof.site import Site
from qalof.training.objectives import Distillation

SITES = tuple(Site(f"h.{i}.a", 4, 4, True) for i in range(4))
BASE = Path(__file__).resolve().parents[3] / "configs" / "train" / "sp_tiny.yaml"
# what each kind runs at steps 0, 5 and 11 of 12 with its defaults; None where it is drawn
KINDS = {
    "static": (["32"], ["32"], ["32"]),
    "spnet": (["8", "4"], ["8", "4"], ["8", "4"]),
    "cascade": (["8", "4"], ["8", "4"], ["8", "4"]),
    "contrastive": (["8", "4"],) * 3,
    "self_distillation": (["32", "8", "4"],) * 3,
    "cyclic": (["2"], ["8"], ["8"]),
    "curriculum": (["8"], ["8", "6"], ["8", "6", "4"]),
    "cpt": (["4"], ["8"], ["8"]),
    "sandwich": None,
    "random": None,
    "rpt": None,
    "layerwise": None,
}


def config_of(**section) -> ObjectiveConfig:
    extra = {"cycles": 2} if section["name"] == "cpt" else {}
    return TypeAdapter(ObjectiveConfig).validate_python({**extra, **section})


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_runs_its_bitmaps_and_has_an_adapter_for_each(name):
    config = config_of(name=name)
    objective = make_objective(config, SITES, 12, seed=3)
    run = [[str(m) for m in objective.bitmaps(step)] for step in (0, 5, 11)]
    if KINDS[name] is not None:
        assert run == [list(bitmaps) for bitmaps in KINDS[name]]
    adapters = set(adapter_specs(AdaptersConfig(), config, SITES))
    widths = {str(b.weight) for step in range(12) for m in objective.bitmaps(step) for b in m.values()}
    assert adapters == {"shared"} if name == "cpt" else widths <= adapters


@pytest.mark.parametrize("name", [name for name, run in KINDS.items() if run is None])
def test_what_is_drawn_comes_from_the_seed(name):
    config = config_of(name=name, **({"middle": 1} if name == "sandwich" else {}))
    first, again, other = (
        [[str(m) for m in make_objective(config, SITES, 12, seed).bitmaps(step)] for step in range(12)]
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_self_distillation_learns_from_the_highest_alone():
    objective = make_objective(config_of(name="self_distillation", features="random", ce_weight=0.5), SITES, 12, 3)
    assert objective.distillation == Distillation(1.0, "kl", "highest", 2.0, 0.5, 0.01, "random")
    assert [objective.teachers(i) for i in range(3)] == [[], [0], [0]]
    assert objective.seed == 3


def test_a_schedule_is_chosen_in_the_section_of_cpt():
    objective = make_objective(config_of(name="cpt", shape="rex", form="triangular", flip="horizontal"), SITES, 12)
    schedule = objective.schedule
    assert (schedule.shape, schedule.form, schedule.flip, schedule.steps) == ("rex", "triangular", "horizontal", 12)


@pytest.mark.parametrize("name", KINDS)
def test_a_section_is_read_back_as_itself(name, tmp_path):
    cycles = ", cycles: 2" if name == "cpt" else ""
    data = yaml.safe_load(BASE.read_text()) | {"objective": yaml.safe_load(f"{{name: {name}{cycles}}}")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    config = load_config(TrainConfig, path)
    path.write_text(yaml.safe_dump(to_plain(config)))
    assert load_config(TrainConfig, path) == config


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("{name: cpt, shape: cosin}", "cosin"),
        ("{name: random, bitmaps: [8, 4], cuont: 1}", "cuont"),
        ("{name: curriculum, distillation: {btea: 1}}", "btea"),
        ("{name: sandwich, distillation: {beta: -1}}", "beta must be a number of at least 0"),
        ("{name: curriculum, joins: [0.0, 0.5, 1.0]}", "joins.2 must be a number of at least 0 and below 1"),
    ],
)
def test_misspelled_sections_are_refused(objective, said, tmp_path):
    data = yaml.safe_load(BASE.read_text()) | {"objective": yaml.safe_load(objective)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BadInputError, match=said):
        load_config(TrainConfig, path)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"name": "random", "bitmaps": [8, 4], "count": 3}, "count must lie between 1 and 2: got 3"),
        ({"name": "sandwich", "bitmaps": [8, 4], "middle": 1}, "must lie between 0 and 0: got 1"),
        ({"name": "curriculum", "joins": [0.0, 0.5]}, "one share for each bitmap: got 2 for 3"),
        ({"name": "curriculum", "joins": [0.1, 0.5, 0.7]}, "from the start"),
        ({"name": "layerwise", "widths": [4, 4]}, "different widths"),
        ({"name": "cyclic", "bitmaps": [4, 4]}, "different bitmaps"),
        ({"name": "cpt", "cycles": 13}, "cycles must lie between"),
    ],
)
def test_sections_that_do_not_fit_are_refused_before_any_step(section, said):
    with pytest.raises(BadInputError, match=said):
        make_objective(config_of(**section), SITES, 12)
