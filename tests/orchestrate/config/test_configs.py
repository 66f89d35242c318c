"""The shipped config files, and what a reader of configs owes whoever misspells one."""

from pathlib import Path

import pytest
import yaml

from orchestrate.config.loader import load_config, to_plain
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.pipeline.run import PipelineConfig, step_configs
from qalof.errors import BadInputError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("cluster", "scales"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_is_valid_and_begins_with_the_command_that_runs_it(path: Path, monkeypatch):
    monkeypatch.setenv("QALOF_DATA", "data")  # where a config for real data says that it lies
    first = path.read_text().splitlines()[0]
    command = yaml.safe_load(path.read_text())["command"]
    kind = PipelineConfig if command == "run" else JOBS[command].config
    config = load_config(kind, path)
    if isinstance(config, PipelineConfig):
        assert step_configs(config, Path("runs") / path.stem)
    runs_it = first.startswith(f"# qalof {command} --config {path.relative_to(CONFIGS.parent)}")
    assert runs_it or (path.stem == "demo" and first.startswith("# qalof demo"))


@pytest.mark.parametrize("name", ["sp", "cpt"])
def test_the_runs_on_squad_differ_from_the_tiny_ones_in_values_alone(name: str):
    def keys(data, prefix=""):
        if not isinstance(data, dict):
            return {prefix}
        return {key for name, value in data.items() for key in keys(value, f"{prefix}.{name}")}

    tiny, squad = (
        yaml.safe_load((CONFIGS / "train" / f"{name}_{data}.yaml").read_text()) for data in ("tiny", "squad")
    )
    assert keys(tiny) == keys(squad)
    assert squad["workers"]["count"] == 8
    assert (squad["model"]["source"], squad["task"]["settings"]["data"]) == (
        "openai-community/gpt2",
        "rajpurkar/squad",
    )


def test_a_resolved_config_is_read_back_as_itself(tmp_path: Path):
    config = load_config(TrainConfig, CONFIGS / "train" / "cpt_tiny.yaml", ["training.steps=70"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_plain(config)))
    assert load_config(TrainConfig, path) == config
    assert config.training.steps == 70


def test_how_a_model_is_switched_is_part_of_the_config(random_model):
    from orchestrate.config.build import build_training

    overrides = [
        f"model.source={random_model}",
        "switch.merge=merge_then_quantize",
        "switch.exclude=['*.c_proj']",
        "switch.quantization.weight.quantizer={method: log, granularity: channel}",
        "adapters.rslora=true",
    ]
    config = load_config(TrainConfig, CONFIGS / "train" / "sp_tiny.yaml", overrides)
    assert (
        load_config(
            TrainConfig,
            None,
            [
                f"{k}={yaml.safe_dump(v, default_flow_style=True, width=9999).strip()}"
                for k, v in to_plain(config).items()
                if isinstance(v, dict)
            ],
        )
        == config
    )
    parts = build_training(config)
    assert parts.model.settings == config.switch
    assert [site.name for site in parts.model.sites if site.name.endswith("c_proj")] == []
    assert all(spec.rslora for spec in parts.model.adapters.values())


@pytest.mark.parametrize(
    ("kind", "file", "override", "said"),
    [
        (TrainConfig, "train/sp_tiny.yaml", "training.stesp=3", ("training.stesp", "steps")),
        (TrainConfig, "train/sp_tiny.yaml", "objective.beta=1", ("objective.beta",)),
        (TrainConfig, "train/sp_tiny.yaml", "objective.name=spnte", ("spnte", "spnet")),
        (TrainConfig, "train/sp_tiny.yaml", "task.settings.max_lenght=3", ("max_lenght", "max_length")),
        (TrainConfig, "train/sp_tiny.yaml", "training.steps=0", ("steps", "at least 1", "0")),
        (TrainConfig, "train/sp_tiny.yaml", "training.steps=many", ("training.steps", "many")),
        (TrainConfig, "train/sp_tiny.yaml", "workers.count=0", ("workers.count", "0")),
        (TrainConfig, "train/sp_tiny.yaml", "nonsense", ("key=value", "nonsense")),
        (SearchConfig, "search/tiny.yaml", "space.group=layer", ("space.group", "layer")),
        (TrainConfig, "train/sp_tiny.yaml", "switch.mrege=branch", ("switch.mrege", "merge")),
        (TrainConfig, "train/sp_tiny.yaml", "switch.quantization.weight.quantizer={method: lgo}", ("lgo", "log")),
        (AttackConfig, "attack/tiny.yaml", "method.settings.iteration=3", ("settings.iteration", "iterations")),
    ],
)
def test_what_is_wrong_with_a_config_is_one_line_that_names_the_key_and_the_way_out(kind, file, override, said):
    with pytest.raises(BadInputError) as caught:
        load_config(kind, CONFIGS / file, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_overrides_reach_into_lists_and_sections_and_keep_what_stands_beside():
    config = load_config(
        PipelineConfig, CONFIGS / "demo.yaml", ["steps.0.config.training.steps=2", "steps.2.config.limit=5"]
    )
    assert config.steps[0].config["training"]["steps"] == 2
    assert config.steps[0].config["training"]["seed"] == 42
    assert config.steps[2].config["limit"] == 5
    train = load_config(TrainConfig, CONFIGS / "train" / "sp_tiny.yaml", ["training={steps: 19}", "evaluation.limit=3"])
    assert (train.training.steps, train.training.batch_size, train.evaluation.limit) == (19, 32, 3)
    with pytest.raises(BadInputError):
        load_config(PipelineConfig, CONFIGS / "demo.yaml", ["steps.77.config.limit=5"])
    assert load_config(
        TrainConfig, CONFIGS / "train" / "sp_tiny.yaml", ["training.learning_rate=1e-4"]
    ).training.learning_rate == pytest.approx(1e-4)


def test_a_config_that_reads_an_environment_variable_says_which_is_not_set(monkeypatch):
    monkeypatch.delenv("QALOF_DATA", raising=False)
    with pytest.raises(BadInputError, match="QALOF_DATA"):
        load_config(TrainConfig, CONFIGS / "train" / "sp_real.yaml")


def test_a_config_of_python_objects_is_refused(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text("command: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(BadInputError, match="not YAML"):
        load_config(TrainConfig, path)


def pipeline(**last):
    train = yaml.safe_load((CONFIGS / "train" / "sp_tiny.yaml").read_text())
    for inherited in ("workers", "command"):
        del train[inherited]
    return {"steps": [{"name": "sp", "command": "train", "config": train}, last], "workers": {"count": 3}}


def test_a_reference_becomes_the_earlier_steps_checkpoint_and_workers_are_inherited():
    data = pipeline(name="s", command="search", config={"checkpoint": "step:sp"})
    train, search = step_configs(PipelineConfig.model_validate(data), Path("/runs/p"))
    assert search.checkpoint == "/runs/p/sp/checkpoint"
    assert train.workers.count == search.workers.count == 3


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"name": "s", "command": "search", "config": {"checkpoint": "step:ps"}}, "'sp'|sp"),
        ({"name": "sp", "command": "search", "config": {"checkpoint": "step:sp"}}, "used twice"),
        ({"name": "s", "command": "search", "config": {"checkpoint": "step:s"}}, "no earlier step"),
        ({"name": "s", "command": "search", "config": {"chekpoint": "step:sp"}}, "step s: .*chekpoint"),
    ],
)
def test_a_step_that_cannot_run_is_named(last, said):
    with pytest.raises(BadInputError, match=said):
        step_configs(PipelineConfig.model_validate(pipeline(**last)), Path("/runs/p"))
