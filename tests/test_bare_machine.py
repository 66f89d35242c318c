"""On a machine with torch, transformers and peft alone, the core and the search still work."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ABSENT = ("ray", "mlflow", "optuna", "datasets", "omegaconf")
PROGRAM = f"""
import importlib, pkgutil, sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # importing it is an ImportError
import qalof, search
for wing in (qalof, search):
    for module in pkgutil.walk_packages(wing.__path__, wing.__name__ + "."):
        if module.name != "search.strategies.optuna_draws":
            importlib.import_module(module.name)
task = qalof.task("squad-span", max_length=128, stride=32, validation_split="validation[:4]")
print(len(task.train_features()))
"""


@pytest.mark.slow
def test_core_and_search_import_and_tokenize_without_ray_mlflow_optuna_or_datasets():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
