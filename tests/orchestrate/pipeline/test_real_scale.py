"""Every table of the references at scale real: whole, its rows on the real model's layers, and what was cut said."""

import re
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from orchestrate.document.estimate import sites_of
from orchestrate.document.table_config import places_of
from orchestrate.jobs.sensitivity.cells import select
from orchestrate.pipeline.describe import describe_config
from orchestrate.pipeline.plan import load_pipeline, plan
from orchestrate.pipeline.scales import cuts
from orchestrate.pipeline.tables.check import check_table
from qalof.errors import BadInputError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TABLES = sorted(CONFIGS.glob("s[1-4]/*.yaml"))
SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture
def sizes_alone(tmp_path, monkeypatch):
    """The real model's sizes without its weights, and no data: what validation needs."""
    SMOLLM2.save_pretrained(tmp_path / "models" / "SmolLM2-135M-Instruct")
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path))
    monkeypatch.setenv("QALOF_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_table_is_whole_at_scale_real_and_says_what_was_cut(path, sizes_alone, tmp_path):
    assert "scale real" in describe_config(path, ["scale=real"])
    config = load_pipeline(path, ["scale=real"])
    steps = plan(config, Path("/runs") / path.stem)
    check_table(config.table, steps)
    for step in steps:
        assert step.config.workers.in_process
        if step.command == "train":
            assert step.config.model.source == "cache:SmolLM2-135M-Instruct"
            settings = step.config.task.settings
            made_by_a_step = "generate" in [each.name for each in steps]  # then only what is scored is data of the user
            read = settings.validation_data if made_by_a_step else settings.data
            assert read.startswith(str(tmp_path / "data"))
        full = next(each.config for each in load_pipeline(path).steps if each.name == step.name)
        if step.command == "train" and full["training"]["steps"] > 8:
            told = config.table.notes[-1].removeprefix("Cut at this scale: ").split("; ")
            named = [part for part in told if step.name in re.split(", | and ", part.split(": ")[0])]
            assert len(named) == 1
            assert f"training.steps {step.config.training.steps} of {full['training']['steps']}" in named[0]
            assert step.config.training.steps <= 24
        elif step.command == "train":
            assert step.config.training.steps == full["training"]["steps"]


@pytest.mark.parametrize("path", [CONFIGS / "s1" / "sensitivity.yaml", CONFIGS / "s2" / "sensitivity.yaml"])
def test_rows_by_kind_of_layer_are_those_of_the_real_model(path, sizes_alone):
    config = load_pipeline(path, ["scale=real"])
    steps = {step.name: step for step in plan(config, Path("/runs") / path.stem)}
    assert {s.config.unit for s in steps.values() if s.command == "sensitivity" and s.name != "blocks"} == {"site"}
    sites = [site.name for site in sites_of(next(s.config for s in steps.values() if s.command == "train"))]
    assert len(sites) == 210
    for row in config.table.rows:
        for column in config.table.columns:
            for place in places_of(column, row):
                for part in place.of.partition(" at ")[0].split(" minus "):
                    assert select(part, sites), (row.name, part)


ATTACKED = [path for path in TABLES if "command: attack" in path.read_text()]


@pytest.mark.parametrize("scale", ["tiny", "real"])
@pytest.mark.parametrize("path", ATTACKED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_table_of_attacks_has_the_victims_of_its_scale(path, scale, sizes_alone, tmp_path):
    assert {each.parent.name for each in ATTACKED} == {"s1", "s3", "s4"}
    real = scale == "real"
    assert f"scale {scale}" in describe_config(path, [f"scale={scale}"])
    steps = plan(load_pipeline(path, [f"scale={scale}"]), Path("/runs") / path.stem)
    (victim,) = [step.config for step in steps if step.command == "train"]
    assert victim.model.source == ("cache:SmolLM2-135M-Instruct" if real else "tiny")
    assert (victim.task.settings.data == "tiny") is not real
    # bitsandbytes' rounding is what the full size compares with
    assert not real or "bnb" not in str(victim.switch)
    for attack in (step.config for step in steps if step.command == "attack"):
        assert attack.limit is not None
        assert attack.encoder == ("cache:all-MiniLM-L6-v2" if real else "states")
        settings = attack.method.settings
        if attack.method.name in ("textfooler", "bert-attack"):
            assert settings.encoder == attack.encoder
            assert real is (settings.most_queries is not None)
        if attack.method.name == "textfooler" and real:
            assert settings.synonyms.endswith("synonyms/oewn_synonyms.jsonl")


def test_a_scale_that_needs_a_folder_says_so(monkeypatch):
    monkeypatch.delenv("QALOF_DATA", raising=False)
    with pytest.raises(BadInputError, match="QALOF_DATA.*is not set"):
        load_pipeline(TABLES[0], ["scale=real"])


def test_no_path_of_a_machine_stands_in_a_config():
    for path in CONFIGS.rglob("*.yaml"):
        # the home of Ray's own container images is the same everywhere
        lines = path.read_text().replace("/home/ray/", "").splitlines()
        assert not [line for line in lines if "/root" in line or "/home/" in line], path


def test_what_was_cut_is_told_by_step_with_both_numbers():
    full = [
        {"name": "sp", "config": {"training": {"steps": 1000, "batch_size": 2}, "evaluation": {"limit": None}}},
        {"name": "same", "config": {"limit": 3}},
    ]
    changed = [
        {"name": "sp", "config": {"training": {"steps": 8, "batch_size": 4}, "evaluation": {"limit": 16}}},
        {"name": "same", "config": {"limit": 3}},
    ]
    assert cuts(full, changed) == ["sp: training.steps 8 of 1000, evaluation.limit 16 of all"]


def test_steps_that_were_cut_alike_are_told_together():
    def steps(*numbers):
        return [{"name": f"step{index}", "config": {"limit": number}} for index, number in enumerate(numbers)]

    told = cuts(steps(9, 9, 9, 9), steps(3, 4, 3, 3))
    assert told == ["step0, step2 and step3: limit 3 of 9", "step1: limit 4 of 9"]


def test_the_scale_names_only_what_it_uses():
    data = yaml.safe_load((CONFIGS / "scales" / "real.yaml").read_text())
    text = "\n".join(path.read_text() for path in TABLES)
    for pattern in data["sites"]:
        assert pattern in text, pattern
