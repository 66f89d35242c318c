"""What README says can be typed, can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrate.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = [
    "steps.0.config.training.steps=4",
    "steps.0.config.evaluation.limit=20",
    "steps.1.config.training.steps=8",
    "steps.1.config.evaluation.limit=20",
    "steps.2.config.limit=8",
    "steps.3.config.limit=8",
    "steps.3.config.max_evaluations=4",
    "steps.4.config.training.steps=4",
    "steps.4.config.evaluation.limit=20",
    "steps.5.config.limit=2",
    "steps.5.config.method.settings.iterations=3",
    # one training through Ray will do: each of the others would take most of its time to start
    *(f"steps.{step}.config.workers={{count: 1, in_process: true}}" for step in (1, 4)),
]


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


def test_it_opens_with_the_two_commands():
    first = README.split("```")[1].split("\n")
    assert [line.split("#")[0].strip() for line in first[1:3]] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}: install" in makefile for target in ("demo", "test", "test-all", "lint"))


def test_every_file_and_command_that_it_names_exists():
    for path in re.findall(r"(?:configs|benchmarks)/[\w/.-]+\.\w+", README):
        assert (ROOT / path).is_file(), path
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    lines = [shlex.split(line, comments=True) for text in blocks for line in text.splitlines()]
    assert {words[1] for words in lines if words[0] == "qalof"} <= commands


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, random_model):
    import qalof
    from qalof.model.adapters import AdapterSpec
    from qalof.model.switchable import BaseModel

    model = qalof.build(BaseModel("tiny", qalof.task("squad-span").head), {"4": AdapterSpec(), "8": AdapterSpec()})
    model.save(tmp_path / "runs" / "sp_tiny" / "checkpoint")
    monkeypatch.chdir(tmp_path)
    code = block("python", "search.run").replace("[:200]", "[:8]").replace("max_evaluations=60", "max_evaluations=6")
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "front.png").stat().st_size > 1000


@pytest.mark.ray
@pytest.mark.slow
def test_the_pipeline_runs_as_a_submitted_job(local_head, tmp_path):
    (line,) = [line for line in block("bash", "ray job submit").splitlines() if line.startswith("ray job submit")]
    line = line.replace("http://127.0.0.1:8265", local_head.dashboard).replace("$PWD/runs", str(tmp_path))
    words = [*shlex.split(line), *SMALL]
    words[0] = str(Path(sys.executable).parent / "ray")
    done = subprocess.run(words, env=local_head.environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "random precision" in page.lower()
    assert (tmp_path / "mlflow.db").is_file()
