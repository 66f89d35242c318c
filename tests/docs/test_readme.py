"""What README and the handbook say can be typed, can be typed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrate.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
HANDBOOK = (ROOT / "docs" / "handbook.md").read_text()
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
    *(f"steps.{step}.config.training.warmup_steps=0" for step in (0, 1, 4)),
    # one training through Ray will do: each of the others would take most of its time to start
    *(f"steps.{step}.config.workers={{count: 1, in_process: true}}" for step in (1, 4)),
]


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", HANDBOOK, flags=re.S)
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
    for path in re.findall(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)", README):
        assert (ROOT / path).is_file(), path
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    lines = [shlex.split(line, comments=True) for text in blocks for line in text.splitlines()]
    assert {words[1] for words in lines if words[0] == "qalof"} <= commands


def python_blocks() -> list[str]:
    """Every Python block, with limits that suit a test."""
    found = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    smaller = {"[:200]": "[:8]", "max_evaluations=60": "max_evaluations=4", "limit=200": "limit=8"}
    for old, new in smaller.items():
        assert any(old in text for text in found), old
        found = [text.replace(old, new) for text in found]
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the runs that the blocks read, in which the test runs."""
    import qalof
    from qalof.export.packed import save_packed
    from qalof.model.adapters import AdapterSpec
    from qalof.model.pretrained import BaseModel, load_tokenizer
    from qalof.tasks.factory import describe_task

    task = qalof.task("squad-span", validation_split="validation[:8]", max_length=128, stride=32)
    model = qalof.build(BaseModel("tiny", task.head), {"4": AdapterSpec(), "8": AdapterSpec()})
    extra = {"task": describe_task(task)}
    qalof.save(model, tmp_path / "runs" / "sp_tiny" / "checkpoint", extra)
    save_packed(model, "striped84", tmp_path / "runs" / "packed", load_tokenizer("tiny"), extra)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_blocks(blocks: list[str]) -> dict[str, object]:
    """One after the other, in one namespace, as a reader would type them."""
    names: dict[str, object] = {}
    for number, code in enumerate(blocks):
        exec(compile(code, f"README.md, Python block {number}", "exec"), names)
    return names


def test_every_python_block_runs_but_those_on_ray(folder):
    blocks = [text for text in python_blocks() if "orchestrate" not in text]
    assert blocks
    run_blocks(blocks)
    assert (folder / "front.png").stat().st_size > 1000


def test_an_evaluator_takes_a_checkpoint_as_text_with_all_else_by_default(folder):
    import orchestrate

    evaluator = orchestrate.CheckpointEvaluator("runs/sp_tiny/checkpoint")
    assert evaluator == orchestrate.CheckpointEvaluator(Path("runs/sp_tiny/checkpoint"))
    assert evaluator.checkpoint == folder / "runs/sp_tiny/checkpoint"
    assert evaluator.primary_metric == "f1"


@pytest.mark.ray
@pytest.mark.slow
def test_every_python_block_runs_on_ray_too(folder, ray_session):
    names = run_blocks(python_blocks())
    assert (folder / "search_on_ray.jsonl").is_file()
    assert len(names["result"].front) >= 1


def test_the_options_that_the_handbook_gives_each_command_are_those_that_the_command_has():
    claimed = {}
    for line in re.findall(r"^\* ((?:`[\w-]+`(?:, )?)+): (.*)$", HANDBOOK, flags=re.M):
        options = set(re.findall(r"`(--[\w-]+)`", line[1]))
        claimed |= dict.fromkeys(re.findall(r"`([\w-]+)`", line[0]), options)
    real = {}
    for name, command in typer.main.get_command(app).commands.items():
        real[name] = {option for param in command.params for option in param.opts if option.startswith("--")}
    assert claimed == real


def test_the_families_it_calls_alike_have_the_heads_that_it_says():
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING as SPAN
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSES

    models = ("gpt2", "llama", "mistral", "qwen2", "opt", "gpt_neox", "phi")
    names = dict(zip(("GPT-2", "Llama", "Mistral", "Qwen", "OPT", "GPT-NeoX", "Phi"), models, strict=True))
    (said,) = re.findall(r"(GPT-2, Llama, .*?) models are tested with the head of each task", HANDBOOK, flags=re.S)
    assert set(re.split(r",\s+|\s+and\s+", said)) == set(names)
    kinds = {name: type(AutoConfig.for_model(model)) for name, model in names.items()}
    assert all(kind in CLASSES for kind in kinds.values())
    assert {name for name, kind in kinds.items() if kind not in SPAN} == {"Phi"}
    assert "span head for Phi" in HANDBOOK


def test_the_schemes_have_the_numbers_of_their_benchmark():
    found = json.loads((ROOT / "benchmarks" / "results" / "schemes.json").read_text())
    rows = {(row["scheme"], row["bitmap"]): row for row in found["rows"]}
    (table,) = re.findall(r"^\| scheme \| weights .*?\n\n(?=.*?schemes\.json)", HANDBOOK, flags=re.S | re.M)
    heading, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")]
    assert {line[0].split("`")[1] for line in lines} == {scheme for scheme, _ in rows if "groups of" not in scheme}
    for line in lines:
        said = dict(zip(heading, line, strict=True))
        for bitmap in ("w4a16kv16", "w4a8kv8"):
            row = rows[said["scheme"].split("`")[1], bitmap]
            value, low, high = row["perplexity"]
            assert said[bitmap] == f"{value:.1f} [{low:.1f}, {high:.1f}]"
            assert said["MiB"] == f"{row['weight_bytes'] / 2**20:.0f}"
    assert f"commit `{found['commit'][:7]}`" in HANDBOOK


def test_what_was_planted_stands_beside_every_number_of_the_tiny_model():
    tables = re.split(r"(?<=\n)\n(?=\|)", HANDBOOK)
    for about in ("fine-tuned at full precision, then rounded", "| `spnet` |"):
        (place,) = [number for number, text in enumerate(tables) if about in text]
        around = tables[place - 1][-900:] + tables[place][:1500]
        assert re.search(r"[Oo]utliers", around), about
        assert "three channels" in around.replace("\n", " "), about
    from qalof.tiny import MODEL_DIR

    recipe = json.loads((MODEL_DIR / "recipe.json").read_text())
    assert (recipe["outlier_channels"], recipe["outlier_factor"]) == (3, 8.0)


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
