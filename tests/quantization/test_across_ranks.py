"""Ranges and steps that several workers find together."""

import subprocess
import sys

import pytest

WORKER = """
import sys, torch
torch.set_num_threads(1)
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
from qalof.quantization.lsq_steps import LsqSteps
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.observers import ObserverSpec, StaticRanges
x = torch.full((1, 2, 4), 1.0 + rank)
x[0, 0, 0] = -3.0 * (rank + 1)
for kind in ("minmax", "ema", "percentile"):
    ranges = StaticRanges(ObserverSpec(kind=kind, percentile=100), "here")
    ranges.observe(x, 4, Symmetric(granularity="tensor"))
    print(kind, float(ranges.low_4), float(ranges.high_4))
steps = LsqSteps({4: Lsq(granularity="tensor", gradient_count="features")}, 4, None, "here")
print("lsq", round(float(steps.qparams(x, 4, start=True).scale), 6))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_workers_with_other_batches_agree_on_ranges_and_first_steps(tmp_path):
    words = [sys.executable, "-c", WORKER]
    meeting = str(tmp_path / "meeting")  # a file, since a free port may be taken before both are there
    workers = [subprocess.Popen([*words, str(rank), meeting], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert outputs[0] == outputs[1]
    lines = dict(line.split(" ", 1) for line in outputs[0].splitlines())
    assert lines["minmax"] == lines["ema"] == "-6.0 2.0"
    assert lines["percentile"] == "-4.5 1.5"
    mean = ((7 + 3) / 8 + (14 + 6) / 8) / 2
    assert float(lines["lsq"]) == pytest.approx(2 * mean / 7**0.5, rel=1e-5)
