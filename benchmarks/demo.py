"""Wall time and memory of ``qalof demo``: one JSON object on standard output.

    python benchmarks/demo.py > benchmarks/results/demo.json

Memory is what the machine has less of at the worst moment than before the start, so that pages shared between
processes count once.  Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

EVERY = 0.2  # seconds


def main() -> None:
    """Run the demo in a fresh folder and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        before = psutil.virtual_memory().available
        load = os.getloadavg()[0]
        lowest, started = before, time.monotonic()
        command = [sys.executable, "-m", "orchestrate", "demo", "--output", f"{folder}/runs/demo"]
        demo = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        while demo.poll() is None:
            lowest = min(lowest, psutil.virtual_memory().available)
            time.sleep(EVERY)
        seconds = time.monotonic() - started
        if demo.returncode:
            sys.exit(f"the demo ended with exit code {demo.returncode}")
        pipeline = json.loads((Path(folder) / "runs" / "demo" / "pipeline.json").read_text())
    found = {
        "seconds": round(seconds, 1),
        "peak_memory_gib": round((before - lowest) / 2**30, 2),
        "cores": psutil.cpu_count(),
        "load_before": round(load, 2),
        "steps": {step["name"]: step["seconds"] for step in pipeline["steps"]},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
