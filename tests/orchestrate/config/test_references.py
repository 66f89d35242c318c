"""The configs of the references against what the references say: which tensors are rounded, on what, and how."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from orchestrate.config.build_objective import make_objective, objective_widths, specs_of
from orchestrate.config.objective import CptObjective
from orchestrate.config.train import TrainConfig
from orchestrate.document.planned_step import PlannedStep
from orchestrate.pipeline.plan import load_pipeline, plan
from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.layer_bits import LayerBits, bits_of
from qalof.site import KvLayout, Site

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SITES = tuple(
    Site(f"h.{block}.{leaf}", 8, 24, True, KvLayout(2, 4, ((8, 16), (16, 24))) if leaf == "attn.c_attn" else None)
    for block in range(12)
    for leaf in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
)
NAMES = [site.name for site in SITES]


def steps_of(reference: str, scale: str = "full") -> list[tuple[str, PlannedStep]]:
    return [
        (path.stem, step)
        for path in sorted((CONFIGS / reference).glob("*.yaml"))
        for step in plan(load_pipeline(path, [f"scale={scale}"]), Path("/runs") / path.stem)
    ]


def trained(config: TrainConfig) -> list[Bitmap]:
    specs = config.objective.trained if isinstance(config.objective, CptObjective) else specs_of(config.objective)
    return [Bitmap.parse(spec, NAMES) for spec in specs]


def rounded(config: TrainConfig, tensor: str) -> set[int]:
    """Widths at which a training step really rounds ``tensor``; quantizers may pass a width through."""
    scheme = getattr(config.switch.quantization, tensor)
    widths = {getattr(bits, tensor) for bitmap in trained(config) for bits in bitmap.values()}
    return {bits for bits in widths if bits < scheme.at(bits).full_precision_bits}


@pytest.mark.parametrize("scale", ["full", "tiny"])
@pytest.mark.parametrize(
    ("reference", "activation", "kv"),
    [("s1", True, True), ("s2", False, False), ("s3", False, False), ("s4", True, False)],
)
def test_each_reference_rounds_the_tensors_that_it_says_in_every_training(reference, activation, kv, scale):
    for name, step in steps_of(reference, scale):
        if step.command != "train" or not rounded(step.config, "weight"):
            continue
        assert bool(rounded(step.config, "activation")) == activation, (name, step.name)
        assert bool(rounded(step.config, "kv")) == kv, (name, step.name)


@pytest.mark.parametrize("held", [{}, {"kv": 32}, {"activation": 8, "kv": 32}, {"activation": 32, "kv": 32}])
def test_the_tensors_that_cpt_holds_stay_where_they_are_over_a_whole_cycle(held):
    config = CptObjective(name="cpt", lowest=3, highest=8, cycles=1, **held)
    objective = make_objective(config, SITES, steps=24)
    seen = set()
    for step in range(24):
        (bitmap,) = objective.bitmaps(step)
        (bits,) = set(bitmap.values())
        seen.add(bits.weight)
        assert bits.activation == (held.get("activation", bits.weight))
        assert bits.kv == (held.get("kv", bits.weight))
    assert seen == set(range(3, 9))
    assert [Bitmap.parse(spec, NAMES) for spec in config.trained] == [
        Bitmap.uniform(NAMES, config.layer_bits(bits)) for bits in range(8, 2, -1)
    ]


def test_a_width_that_cpt_cannot_hold_is_refused():
    with pytest.raises(ValidationError, match="must be a whole number from 2 to 16, or 32"):
        CptObjective(name="cpt", lowest=4, highest=8, cycles=1, kv=17)


def searches() -> list[tuple[str, list[int], set[int]]]:
    """Every search that a config or pipeline makes: its menu, and the widths that the training before it has."""
    made = {f"runs/{path.stem}/checkpoint": path for path in (CONFIGS / "train").glob("*.yaml")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QALOF_DATA", "data")  # where a config for real data says that it lies
        return list(searches_of(made))


def searches_of(made: dict[str, Path]) -> Iterator[tuple[str, list[int], set[int]]]:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        data = yaml.safe_load(path.read_text())
        steps = data.get("steps") or [{"command": data.get("command"), "config": data, "name": path.stem}]
        by_name = {f"step:{step['name']}": step["config"] for step in steps if step["command"] == "train"}
        for step in steps:
            config = step["config"]
            if step["command"] == "search" and (menu := config.get("space", {}).get("weight")):
                source = config["checkpoint"]
                if source.startswith("step:") and source not in by_name:
                    continue  # a model that no step trains has no adapters to choose among
                trained = by_name.get(source) or yaml.safe_load(made[source].read_text())
                objective = TrainConfig.model_validate(trained).objective
                widths = trained.get("adapters", {}).get("widths") or objective_widths(objective, SITES)
                yield f"{path.parent.name}/{path.stem}", menu, {*widths, FULL_PRECISION}


@pytest.mark.parametrize(("name", "menu", "trained"), searches(), ids=lambda value: value if type(value) is str else "")
def test_a_search_chooses_among_widths_that_have_adapters(name, menu, trained):
    assert {bits_of(LayerBits.parse(width).weight_width) for width in menu} <= trained, name


def test_s1_attacks_a_real_data_set_and_the_real_quantizers_at_full_scale():
    ((_, classifier), (_, attack)) = [found for found in steps_of("s1") if found[0] == "gbda"]
    assert classifier.config.task.settings.data == "fancyzhx/ag_news"
    scheme = classifier.config.switch.quantization
    assert [scheme.weight.at(bits).method for bits in (8, 4)] == ["bnb_int8", "nf4"]
    assert scheme.activation.at(8).method == "bnb_int8"
    assert scheme.activation.outlier_threshold == 6.0
    assert attack.config.bitmaps == [32, "w8a8", "w4"]


def test_no_table_takes_shipped_data_at_full_scale():
    for reference in ("s1", "s2", "s3", "s4"):
        for name, step in steps_of(reference):
            task, training = (getattr(step.config, key, None) for key in ("task", "training"))
            learns = training is None or training.learning_rate > 0
            assert task is None or not learns or task.settings.data != "tiny", (name, step.name)


def test_s2_trains_on_completions_that_one_generation_makes_for_all_its_tables():
    generated, models = set(), set()
    for name, step in steps_of("s2"):
        if step.command == "generate-data":
            how = step.config.generation
            assert (how.start, how.data, how.split, how.count) == ("prompts", "rajpurkar/squad", "train", None)
            generated.add(step.folder)
        if step.command == "train":
            assert Path(step.config.task.settings.data).parent in generated, (name, step.name)
            assert step.config.task.settings.validation_data == "rajpurkar/squad"
            models.add((step.name, step.folder))
    assert len(generated) == 1
    assert len(models) == len({name for name, _ in models}) == 3, "each model is trained once"


@pytest.mark.parametrize("scale", ["tiny"])
def test_a_scale_leaves_the_data_of_an_earlier_step_and_changes_what_is_scored(scale):
    for name, step in steps_of("s2", scale):
        if step.command == "train":
            settings = step.config.task.settings
            assert settings.data.startswith("/runs/shared/generate-data-"), name
            assert settings.validation_data == "tiny"


def test_s2_ranks_layers_by_the_output_errors_of_their_weights_and_greedy_takes_that_order():
    steps = {(name, step.name): step.config for name, step in steps_of("s2")}
    for config in (steps["sensitivity", "sites"], steps["greedy", "errors"]):
        assert (config.score, config.reduced, config.unit) == ("output_error", ["w8", "w4", "w2"], "site")
    assert steps["greedy", "greedy"].strategy_options["sensitivity"] == "/runs/greedy/errors/sensitivity.json"


DOCUMENTS = [CONFIGS.parent / "README.md", *sorted((CONFIGS.parent / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_menus_in_the_documents_are_widths_that_the_tiny_models_were_trained_at(path):
    menus = re.findall(r"weight=\(([\d, ]+)\)|space\.weight=\[([\d, ]+)\]", path.read_text())
    for menu in (one or other for one, other in menus):
        assert {int(bits) for bits in menu.split(",") if bits.strip()} <= {4, 8}, menu
