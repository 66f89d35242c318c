"""What must work wherever QaLoF is installed.  It needs nothing of the repository but this file.

Run it in an empty folder with the interpreter under test: ``python -I smoke.py``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pkgutil
import platform
import subprocess
import sys
from importlib import import_module, metadata
from importlib.resources import files
from pathlib import Path

WINGS = ("qalof", "search", "orchestrate")
SPAN = 'task={name: squad-span, settings: {data: tiny, max_length: 96, stride: 16, train_split: "train[:8]", '
TRAINING = [
    SPAN + 'validation_split: "validation[:2]"}}', "objective={name: spnet, bitmaps: [8, 4]}", "evaluation.limit=2",
    "training={steps: 2, batch_size: 2, checkpoint_every: 1}",
    "workers.count=1", "workers.in_process=true", "workers.threads=1",
]  # fmt: skip

EXTRAS = ("bitsandbytes", "llama_cpp", "lm_eval")
"""Packages of the optional extras; what stands on one of them imports only where it is installed."""
NEEDS = ("checkpoint", "hub", "QALOF_DATA")
"""What some configs need beyond the package: another command's result, a model hub, a folder of real data."""


def missing(name: str) -> None:
    raise ImportError(name)


def import_all() -> int:
    """Every module imports, and from this environment; how many do."""
    count = 0
    for name in WINGS:
        wing = import_module(name)
        assert Path(str(wing.__file__)).is_relative_to(sys.prefix), f"{wing.__file__} is not in {sys.prefix}"
        for module in pkgutil.walk_packages(wing.__path__, f"{name}.", onerror=missing):
            if module.name.endswith("__main__"):
                continue
            try:
                import_module(module.name)
                count += 1
            except ModuleNotFoundError as error:
                if error.name not in EXTRAS:
                    raise
    return count


def qalof(*words: str) -> tuple[int, str, str]:
    """A command in this process: its exit code, and what it wrote to standard output and standard error."""
    (entry,) = metadata.entry_points(group="console_scripts", name="qalof")
    out, err = io.StringIO(), io.StringIO()
    code = 0
    sys.argv = ["qalof", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            entry.load()()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def good(*words: str) -> str:
    code, out, err = qalof(*words)
    assert code == 0, f"qalof {' '.join(words)} ended with {code}: {err}"
    return out


def validate_all(configs: Path) -> int:
    """Each shipped config is valid, or says in one line what it needs beyond the package; tables at ``scale=tiny``."""
    count = 0
    for path in sorted(configs.rglob("*.yaml")):
        kind = path.relative_to(configs).parts[0]
        if kind in ("cluster", "scales"):
            continue
        table = "\ntable:" in path.read_text(encoding="utf-8")
        code, out, err = qalof("validate", "--config", str(path), *(["scale=tiny"] if table else []))
        lacks = code == 2 and err.count("\n") == 1 and any(need in err for need in NEEDS)
        assert (code == 0 and out) or lacks, f"{path}: {out}{err}"
        count += code == 0
    return count


def train_and_report() -> None:
    """A training in this process, from a config and from overrides alone, and its page."""
    result = json.loads(good("train", *TRAINING, "--output", "runs/smoke", "--json").splitlines()[-1])
    assert result["steps"] == 2, result
    environment = json.loads(Path("runs/smoke/environment.json").read_text(encoding="utf-8"))
    assert environment["git"] is None, "an installed package has no commit of the folder around it"
    assert environment["packages"]["qalof"] == metadata.version("qalof")
    assert environment["python"] == platform.python_version()
    page, document = map(Path, good("report", "runs/smoke").splitlines())
    assert document.read_bytes().startswith(b"%PDF")
    page = page.read_text(encoding="utf-8")
    assert "<style>" in page
    assert "installed package" in page, "the page says why it names no commit"
    assert "8" in good("evaluate", "--checkpoint", "runs/smoke/checkpoint", "--bitmap", "8", "limit=2", *TRAINING[-3:])


def main() -> None:
    assert not any(Path.cwd().iterdir()), "the folder must be empty, or it could lend what the package lacks"
    modules = import_all()
    configs = Path(str(files("orchestrate"))) / "configs"
    valid = validate_all(configs)
    script = Path(sys.prefix, "bin", "qalof")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run([script, "demo", "--help"], env=kept, capture_output=True, text=True, check=True).stdout
    assert "tiny model" in told, told
    code, _, err = qalof("validate", "--config", "configs/demo.yaml")
    assert code == 2, "there is no such file here"
    assert str(configs / "demo.yaml") in err, f"the message names the shipped file: {err}"
    train_and_report()
    print(f"Python {platform.python_version()}: {modules} modules import, {valid} shipped configs are valid, "
          "a training and its report are made")  # fmt: skip


if __name__ == "__main__":
    main()
