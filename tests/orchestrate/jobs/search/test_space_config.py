"""The space of a search in a config: choices with group sizes, units, fixed sites and menus by pattern."""

import pytest

from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.job import check_search
from qalof.layer_bits import LayerBits
from search import BitmapSpace

SMALL = [
    "limit=2", "max_evaluations=6", "strategy=random", "workers.count=1", "workers.in_process=true",
    "limits.weight_bytes=20000",
]  # fmt: skip
SPACE = {
    "weight": [4, "4g32", "4g16", 8],
    "activation": [8],
    "kv": [8],
    "group": "component",
    "menus": {"h.1.mlp.*": {"weight": [8, "8g32"]}},
}


@pytest.fixture
def call(monkeypatch, json_of, tmp_path):
    monkeypatch.chdir(tmp_path)
    return json_of


def test_a_space_reads_choices_and_menus(span_checkpoint):
    config = SearchConfig.model_validate({"checkpoint": str(span_checkpoint), "space": SPACE})
    space = check_search(config).space
    by_name = {unit.name: [str(bits) for bits in unit.menu] for unit in space.units}
    assert by_name["h.0.attention"] == ["w4a8kv8", "w4g32a8kv8", "w4g16a8kv8", "8"]
    assert by_name["h.1.mlp"] == ["8", "8g32"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("space.weight=[4q]", "must read like 8, 4g32"),
        ("space.weight=[w4a8]", "a weight width must read like 4, w4 or 4g32"),
        ("space.weight=[4g0]", "of at least 1"),
        ("space.kv=[4,k8]", "or read like k8v4, which is keys at 8 and values at 4: got 'k8'"),
        ("space.kv=[k8v1]", "the width of values must be a whole number from 2 to 16"),
        ("space.fixed={nowhere: 8}", "a menu must be of a site: 'nowhere' matches none"),
        ("space.tied=[nowhere]", "tied must match a site: 'nowhere' matches none"),
        ("space.menus={nowhere: {weight: [4]}}", "a menu must be of a site"),
        ("space.menus={h.*: {wieght: [4]}}", "wieght"),
        ("space.group=layer", "space.group"),
    ],
)
def test_what_no_space_can_be_is_one_line(call, capsys, span_checkpoint, space, message):
    with pytest.raises(SystemExit) as stopped:
        call("search", "--checkpoint", span_checkpoint, *SMALL, space)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_configs_read_widths_of_keys_and_values_apart():
    from orchestrate.config.objective import CptObjective
    from orchestrate.jobs.sensitivity.config import SensitivityConfig
    from qalof.site import KvLayout, Site

    sites = [Site(f"h.{n}.attn.c_attn", 8, 24, True, KvLayout(2, 4, ((8, 16), (16, 24)))) for n in range(2)]
    space = {"weight": [8], "activation": [8], "kv": [4, "k8v4"], "menus": {"h.1.*": {"kv": ["k4v8", 8]}}}
    config = SearchConfig.model_validate({"checkpoint": "c", "space": space})
    menus = {unit.name: unit.menu for unit in BitmapSpace.of(sites, **config.space.of_space()).units}
    assert [str(bits) for bits in menus["h.0.attn.c_attn"]] == ["w8a8kv4", "w8a8k8v4"]
    assert [str(bits) for bits in menus["h.1.attn.c_attn"]] == ["w8a8k4v8", "8"]
    scores = SensitivityConfig.model_validate({"checkpoint": "c", "score": "fisher", "kv": [8, "k8v4"]})
    assert scores.choices["kv"] == [8, "k8v4"]
    cpt = CptObjective.model_validate({"name": "cpt", "activation": 8, "kv": "k8v4"})
    assert cpt.layer_bits(4) == LayerBits.parse("w4a8k8v4")
    assert cpt.trained[-1] == "w4a8k8v4"


def test_a_training_config_reads_group_sizes_in_its_bitmaps_and_has_adapters_by_width():
    from orchestrate.config.build_objective import objective_widths, parse_bitmaps
    from orchestrate.config.objective import SpnetObjective
    from qalof.site import Site

    sites = [Site("h.0.a", 32, 8, False), Site("h.0.b", 32, 8, False)]
    config = SpnetObjective.model_validate({"name": "spnet", "bitmaps": [8, "4g32", "w4a8", "4g32,8"]})
    assert objective_widths(config, sites) == [4, 8]
    assert parse_bitmaps(config.bitmaps, sites)[1]["h.0.a"] == LayerBits.parse("4g32")
