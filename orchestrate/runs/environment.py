"""Where a result was made: the commit, the versions and the hardware, for ``environment.json``.

It holds only what bears on the numbers, but no names of users, hosts or folders and no environment variables: the file
is published with the results, and those are private and sometimes hold a secret. Versions are read from the installed
metadata; only the accelerators' names take an import of torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "qalof", "torch", "transformers", "peft", "datasets", "tokenizers", "safetensors",
    "ray", "optuna", "mlflow", "numpy", "scipy",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return a JSON object: ``git`` (None outside a checkout), ``packages``, ``python``, ``platform``, and the
    hardware.
    """
    return {
        "git": git_state(Path(__file__).resolve().parent),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": accelerator_names(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Find ``commit`` and ``dirty`` (a tracked file differs from it) of the checkout that holds ``folder``.

    The result is None where there is no checkout or no git.  It is None too where ``folder`` is not tracked: a package
    installed into a virtual environment within another project's checkout does not have that project's commit.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "."):
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, without the last line break; None where it fails or is missing."""
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_version(name: str) -> str | None:
    """Return the installed version; None where the package is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_name() -> str | None:
    """Return the CPU's model, which decides the kernels and so the last bits of a sum; None where it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def accelerator_names() -> list[str]:
    """Return the names of the accelerators that torch sees; empty without torch."""
    try:
        import torch
    except ImportError:
        return []
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []
