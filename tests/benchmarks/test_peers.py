"""The comparison with other tools, as far as it needs none of them: what processes exchange, and the texts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITES = ("layers.0.q_proj", "layers.0.k_proj")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "peer_tools"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__
    for name in ("peers", "exchange"):
        sys.modules.pop(name, None)


def test_a_recipe_is_read_in_the_order_of_the_sites(benchmark):
    recipe = benchmark("exchange").checked({SITES[1]: 8, SITES[0]: 4}, SITES, (4, 8))
    assert list(recipe.items()) == [(SITES[0], 4), (SITES[1], 8)]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({SITES[0]: 4}, "layers.0.k_proj"),
        ({SITES[0]: 4, SITES[1]: 8, "lm_head": 8}, "lm_head is none"),
        ({SITES[0]: 4, SITES[1]: 16}, "layers.0.k_proj has 16"),
    ],
)
def test_a_recipe_that_leaves_the_space_is_refused_by_name(benchmark, recipe, said):
    with pytest.raises(ValueError, match=said):
        benchmark("exchange").checked(recipe, SITES, (4, 8))


def test_an_answer_is_read_back_as_it_was_written_and_leaves_no_partial_file(benchmark, tmp_path):
    exchange = benchmark("exchange")
    answer = {"recipes": {"4.5": {"bits": {SITES[0]: 4}, "cpu_seconds": 1.5}}}
    exchange.write_answer(tmp_path / "a.json", answer)
    assert exchange.read_job(tmp_path / "a.json") == answer
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_time_to_a_recipe_has_that_of_ended_children_too(benchmark):
    watch = benchmark("exchange").Stopwatch()
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-I", "-c", busy], check=True)
    assert watch.read()["cpu_seconds"] >= 0.1


def test_every_tool_is_pinned_to_an_exact_version_and_has_its_script(benchmark):
    peers = benchmark("peers")
    for tool, pins in peers.PINNED.items():
        assert all("==" in pin for pin in pins), pins
        assert (peers.TOOLS / f"with_{tool}.py").is_file()
        assert (peers.TOOLS / f"judged_by_{tool}.py").is_file()


def test_every_job_has_a_name_of_its_own(benchmark):
    peers = benchmark("peers")
    names = [peers.name_of(job) for job in peers.plan()]
    assert len(set(names)) == len(names)


def test_ours_is_compared_with_every_recipe_that_is_tied_alike_and_with_no_other(benchmark):
    peers = benchmark("peers")
    found = {(peers.name_of(mine), peers.name_of(other)) for mine, other in peers.pairs(peers.plan())}
    assert ("qalof, guided, 4 and 8, tied", "modelopt, gradient, 4 and 8, tied") in found
    assert ("qalof, guided, 3 to 8", "modelopt, gradient, 4 and 8") in found
    assert all(mine.endswith("tied") == other.endswith("tied") for mine, other in found)
    assert all(mine.startswith("qalof") and not other.startswith("qalof") for mine, other in found)


def test_a_tool_that_is_not_set_up_is_named_with_the_command_that_does(benchmark, tmp_path):
    peers = benchmark("peers")
    with pytest.raises(SystemExit, match="peers.py setup --tool modelopt"):
        peers.answered("with_modelopt.py", "modelopt", "a job", {}, tmp_path)


def test_the_texts_to_calibrate_on_are_long_enough_and_do_not_begin_at_one_place(benchmark):
    exchange = benchmark("exchange")
    text = " ".join(f"word{number}" for number in range(20_000))
    texts = exchange.spread(text, 8)
    assert len({each[:20] for each in texts}) == 8
    assert all(len(each) > exchange.CHARACTERS - 20 for each in texts)
