"""The study for a GPU, at its CPU scale on the real data: every stage runs, and cutting it off changes no result."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this checkout"),
]


class Ticks:
    """A clock that runs out after so many looks at it."""

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks

    @property
    def out(self) -> bool:
        self.ticks -= 1
        return self.ticks < 0

    def check(self) -> None:
        from study.clock import OutOfTimeError

        if self.out:
            raise OutOfTimeError


@pytest.fixture
def real_study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("real_study")
    for name in [name for name in sys.modules if name.split(".")[0] in ("study", "real_study")]:
        del sys.modules[name]


def without_times(result):
    if isinstance(result, dict):
        timed = ("seconds", "tokens_per_second", "peak_bytes", "seconds_per_step")
        return {key: without_times(value) for key, value in result.items() if key not in timed}
    return result


def test_a_study_cut_off_again_and_again_finds_what_an_uninterrupted_one_finds(real_study, tmp_path):
    torch.set_num_threads(1)
    data = tmp_path / "data"
    real_study.prepare(SHARED, data, real_study.SCALES["cpu"])
    cpu = torch.device("cpu")
    whole = real_study.run(data, tmp_path / "whole", "cpu", cpu, Ticks(10_000))
    assert whole["finished"]
    for _ in range(12):
        pieces = real_study.run(data, tmp_path / "pieces", "cpu", cpu, Ticks(31))
        if pieces["finished"]:
            break
    assert without_times(pieces) == without_times(whole)
    for method in ("full_precision", "static8", "spnet", "cascade", "cpt"):
        assert list(whole[f"score_{method}"]["widths"]) == ["32", "8", "7", "6", "5", "4", "3"]
    assert len(whole["sensitivity"]["trace"]) == 8
    assert "| cpt | 7 |" in real_study.table(whole)
