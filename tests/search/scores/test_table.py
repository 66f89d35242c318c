"""A table of scores is a value and a file: complete, of one model, and never half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import search
from qalof.errors import BadInputError
from search.scores.table import FULL, ROLES, ScoreTable, fingerprint_of

SITES = ("h.0.attn.c_attn", "h.0.mlp.c_fc")
FINGERPRINT = fingerprint_of(model="a" * 64, data="b" * 64, scheme="c" * 64)


def make(values=None, **changes):
    values = values or {
        "weight": {site: {"4": 0.25 + i, "4g32": 0.1 + i / 3, "8": 0.001} for i, site in enumerate(SITES)},
        "kv": {SITES[0]: {"8": 1e-17}},
    }
    return ScoreTable(**{"score": "fisher", "unit": "nats", "fingerprint": FINGERPRINT, "values": values} | changes)


def test_a_table_reads_back_number_for_number(tmp_path):
    table = make(details={"windows": 8, "tokens": 2048, "seed": 0})
    table.save(tmp_path / "scores.json")
    assert ScoreTable.load(tmp_path / "scores.json") == table
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_full_precision_does_no_damage_without_standing_in_the_table():
    assert all(make().damage("weight", site, FULL) == 0 for site in SITES)
    assert make().damage("weight", SITES[1], "4g32") == pytest.approx(0.1 + 1 / 3)


@pytest.mark.parametrize(
    ("role", "site", "choice", "said"),
    [
        ("activation", SITES[0], "4", r"role 'activation': it has weight, kv"),
        ("weight", "h.0.attn.c_atn", "4", r"'h.0.attn.c_atn'; did you mean 'h.0.attn.c_attn'\?"),
        ("kv", SITES[1], "8", r"no kv score of site 'h.0.mlp.c_fc'"),
        ("weight", SITES[0], "5", r"must have weight 5 at h.0.attn.c_attn: it has 4, 4g32, 8"),
    ],
)
def test_what_a_table_does_not_have_is_named(role, site, choice, said):
    with pytest.raises(BadInputError, match=said):
        make().damage(role, site, choice)


@pytest.mark.parametrize("part", ["model", "data", "scheme"])
def test_a_table_of_something_else_is_refused_by_the_part_that_differs(part):
    digests = {"model": "a" * 64, "data": "b" * 64, "scheme": "c" * 64}
    make().check_for(fingerprint_of(**digests), SITES)
    make().check_for(fingerprint_of(model="a" * 64), SITES[:1])
    with pytest.raises(BadInputError, match=rf"another {part} \({digests[part][:16]} in the table, dddd.* here\);"):
        make().check_for(fingerprint_of(**digests | {part: "d" * 64}), SITES)
    with pytest.raises(BadInputError, match="1 missing, first 'h.9'"):
        make().check_for(FINGERPRINT, [*SITES, "h.9"])


def test_every_cut_and_every_changed_value_of_a_file_is_one_error(tmp_path):
    path = tmp_path / "scores.json"
    make().save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:at])
        with pytest.raises(BadInputError, match="score file"):
            ScoreTable.load(path)
    stored = json.loads(whole)
    for key in stored:
        for other in (None, "x", 7, [], {}, {"weight": {"h": {"4": "much"}}}):
            if other != stored[key]:
                path.write_text(json.dumps(stored | {key: other}))
                with pytest.raises(BadInputError, match="score file"):
                    ScoreTable.load(path)
        path.write_text(json.dumps({name: value for name, value in stored.items() if name != key}))
        with pytest.raises(BadInputError, match="score file"):
            ScoreTable.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True])
def test_a_damage_is_a_finite_number(value):
    with pytest.raises(BadInputError, match=r"weight h\.0 at 4 must be a finite number"):
        make({"weight": {"h.0": {"4": value}}})


def test_there_are_three_roles():
    assert ROLES == ("weight", "activation", "kv")
    with pytest.raises(BadInputError, match="weight, activation, kv: got 'head'"):
        make({"head": {}})


def test_a_table_is_read_without_torch(tmp_path):
    make().save(tmp_path / "scores.json")
    # the package itself gathers evaluators, which hold models
    code = (
        "import sys, types; package = types.ModuleType('search'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['search'] = package; from search.scores.table import ScoreTable; "
        "ScoreTable.load(sys.argv[2]); assert 'torch' not in sys.modules"
    )
    package = Path(search.__file__).parent
    subprocess.run([sys.executable, "-c", code, str(package), str(tmp_path / "scores.json")], check=True)
