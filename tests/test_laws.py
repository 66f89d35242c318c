"""Every number that can be set has a law, and every setting refuses what breaks its law, by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import pytest

import orchestrate
import qalof
import search
from orchestrate.config.base import BaseConfig
from orchestrate.config.loader import validate
from orchestrate.jobs.registry import JOBS
from orchestrate.pipeline.plan import PipelineConfig
from qalof.errors import BadInputError
from qalof.laws import Law, Width, bare, check_keywords, hints_of, law_in, numbers_in, options_of
from qalof.quantization.options import QuantizerOptions
from search.strategies import STRATEGIES

WINGS = (qalof, search, orchestrate)
SETTINGS = ("Settings", "Spec", "Scheme", "Rule", "Options", "Distillation", "EmbeddingAttack", "CyclicPrecision",
            "RandomPrecision")  # fmt: skip
"""How the names of the core's settings classes end, besides those that a config reaches."""

NOT_SETTINGS = {"SeenScheme"}

NO_TYPE = {
    ("StepConfig", "config"): "the config of another command, which is validated as that",
    ("SweepConfig", "train"): "a training config, which every trial validates as that",
    ("SweepConfig", "space"): "values of a training config's settings, validated in each trial's config",
    ("SearchConfig", "strategy_options"): "the strategy's own, whose laws are in its signature",
    ("ScaleConfig", "workers"): "laid over configs, which are validated afterwards",
    ("ScaleConfig", "commands"): "laid over configs, which are validated afterwards",
    ("ScaleConfig", "tasks"): "laid over configs, which are validated afterwards",
    ("ScaleConfig", "objectives"): "laid over configs, which are validated afterwards",
    ("ScaleConfig", "methods"): "laid over configs, which are validated afterwards",
    ("OwnScale", "steps"): "laid over configs, which are validated afterwards",
}
"""Settings of no type of their own, and where their numbers meet a law."""

REQUIRED: dict[str, Any] = {
    "checkpoint": "runs/a/checkpoint", "task": {"name": "squad-span"}, "objective": {"name": "spnet"},
    "methods": [{"name": "nearest"}], "train": {}, "space": {"training.seed": [1]}, "title": "t", "source": "s",
    "of": "a/8/loss", "columns": [{"name": "a", "of": "a/8/loss"}], "rows": [{"name": "a"}], "low": 1, "high": 2,
    "command": "train", "config": {}, "steps": [{"name": "a", "command": "train", "config": {}}],
    "quantizer": QuantizerOptions.from_json("symmetric"),
}  # fmt: skip
"""A legal value for each setting that has no default."""


def modules() -> Iterator[Any]:
    for wing in WINGS:
        for found in pkgutil.walk_packages(wing.__path__, wing.__name__ + "."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def classes_below(kind: Any, found: dict[type, None]) -> None:
    """All settings classes that the hints of ``kind`` lead to."""
    if kind is QuantizerOptions or (isinstance(kind, type) and inspect.isabstract(kind)):
        for method in QuantizerOptions.registry.values():
            classes_below(method, found)
        return
    if not isinstance(kind, type) or kind in found:
        for inner in typing.get_args(kind):
            classes_below(inner, found)
        return
    if issubclass(kind, BaseConfig) or dataclasses.is_dataclass(kind):
        found[kind] = None
        for hint in hints_of(kind).values():
            classes_below(hint, found)


def settings_classes() -> list[type]:
    found: dict[type, None] = {}
    for job in JOBS.values():
        classes_below(job.config, found)
    classes_below(PipelineConfig, found)
    for module in modules():
        for _, kind in inspect.getmembers(module, inspect.isclass):
            own = kind.__module__.split(".")[0] in {wing.__name__ for wing in WINGS}
            named = dataclasses.is_dataclass(kind) and kind.__name__.endswith(SETTINGS)
            section = issubclass(kind, BaseConfig) and kind is not BaseConfig
            if own and (section or named) and not kind.__name__.startswith("_") and not inspect.isabstract(kind):
                classes_below(kind, found)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def fields_of(kind: type) -> dict[str, Any]:
    names = (
        list(kind.model_fields) if issubclass(kind, BaseConfig) else [each.name for each in dataclasses.fields(kind)]
    )
    return {name: hints_of(kind)[name] for name in names}


CLASSES = settings_classes()
FIELDS = [(kind, name, hint) for kind in CLASSES for name, hint in fields_of(kind).items()]
NUMBERS = [(kind, name, hint) for kind, name, hint in FIELDS if any(True for _ in numbers_in(hint))]
OPTIONS = [
    (name, option, hint)
    for name, strategy in STRATEGIES.items()
    for option, hint in hints_of(strategy).items()
    if option not in ("context", "return") and any(True for _ in numbers_in(hint))
]


def label(value: Any) -> str | None:
    return value.__name__ if isinstance(value, type) else value if isinstance(value, str) else ""


def test_the_walk_reaches_every_kind_of_setting():
    names = {kind.__name__ for kind in CLASSES}
    assert {
        "TrainConfig", "TrainSettings", "CptObjective", "Symmetric", "Lsq", "ObserverSpec", "GptqSettings",
        "GbdaSettings", "ArcaSettings", "TextFoolerSettings", "BertAttackSettings", "RandomPrecisionConfig",
        "GenerationSettings",
        "SamplingRule", "AshaConfig", "RangeConfig", "WorkersConfig", "SpanSettings", "ProfileConfig", "TableConfig",
        "EmbeddingAttack", "Distillation", "CyclicPrecision", "AdapterSpec", "TensorScheme", "QuantizationScheme",
    } <= names  # fmt: skip
    assert len(NUMBERS) > 150


def values_in(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(bare(hint)) if typing.get_origin(bare(hint)) is not Literal else ():
        yield from values_in(inner)


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS, ids=label)
def test_every_setting_has_a_type_whose_numbers_have_laws(kind: type, name: str, hint: Any):
    if any(bare(inner) is Any for inner in values_in(hint)):
        assert (kind.__name__, name) in NO_TYPE
    lawless = [number.__name__ for number, law in numbers_in(hint) if law is None]
    assert not lawless, f"{kind.__name__}.{name} has a number without a law"


@pytest.mark.parametrize(("kind", "name", "hint"), NUMBERS, ids=label)
def test_a_number_that_may_be_null_says_what_null_does(kind: type, name: str, hint: Any):
    options = options_of(hint)
    if type(None) in options:
        for option in options:
            law = law_in(option)
            # a bitmap has no word for what it means that there is none; its setting's docstring says it
            assert law is None or law is law_in(Width) or "null" in law.off, f"{kind.__name__}.{name}"


@pytest.mark.parametrize(("strategy", "option", "hint"), OPTIONS, ids=label)
def test_every_option_of_a_strategy_has_a_law(strategy: str, option: str, hint: Any):
    assert all(law is not None for _, law in numbers_in(hint))


def breaking(law: Law, whole: bool) -> list[Any]:
    """What no number with this law may be."""
    small = 1 if whole else 0.5
    wrong: list[Any] = [math.nan, math.inf, -math.inf, True, *([1.5] if whole else [])]
    wrong += [law.ge - small] if law.ge is not None else []
    wrong += [law.gt, law.gt - small] if law.gt is not None else []
    wrong += [law.le + small] if law.le is not None else []
    wrong += [law.lt, law.lt + small] if law.lt is not None else []
    return [value for value in wrong if value not in law.others or value is True]


def a_legal_one(law: Law | None, whole: bool) -> Any:
    for value in (1, 2, 8, 60, 0.5, 0):
        if law is None or (law.holds(value, whole) and not (whole and isinstance(value, float))):
            return value
    raise AssertionError(f"no legal value for {law}")


def holding(hint: Any) -> Iterator[tuple[Any, Any]]:
    """Values of a hint that break the law of one of its numbers, with the number."""
    plain = bare(hint)
    if plain in (int, float):
        law = law_in(hint)
        assert law is not None
        # within a union with text, only a number is meant to be one
        yield from ((value, value) for value in breaking(law, plain is int))
        return
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if origin is Literal:
        return
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key = next(iter(legal(arguments[0])))
        yield from (({key: value}, wrong) for value, wrong in holding(arguments[1]))
        yield from (({value: next(iter(legal(arguments[1])))}, wrong) for value, wrong in holding(arguments[0]))
    elif isinstance(origin, type) and issubclass(origin, Sequence | AbstractSet):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        for place, each in enumerate(inner):
            rest = [next(iter(legal(other))) for other in inner]
            for value, wrong in holding(each):
                yield origin_of(origin)([*rest[:place], value, *rest[place + 1 :]]), wrong
    else:
        # what breaks the law of a whole number may keep that of the other, beside it
        numbers = [(law_in(option), bare(option) is int) for option in arguments if bare(option) in (int, float)]
        for option in arguments:
            for value, wrong in holding(option):
                if not any(law is not None and law.holds(value, whole) for law, whole in numbers):
                    yield value, wrong


def origin_of(origin: type) -> Any:
    return tuple if origin is tuple else list


def legal(hint: Any) -> Iterator[Any]:
    plain = bare(hint)
    if plain in (int, float):
        yield a_legal_one(law_in(hint), plain is int)
    elif plain is str:
        yield "average_bits"
    elif typing.get_origin(plain) is Literal:
        yield typing.get_args(plain)[0]
    elif isinstance(plain, type) and issubclass(plain, QuantizerOptions):
        yield QuantizerOptions.from_json("symmetric")
    elif isinstance(typing.get_origin(plain), type) and issubclass(typing.get_origin(plain), Mapping):
        yield {}
    elif typing.get_args(plain):
        yield from legal(typing.get_args(plain)[0])


def made(kind: type, name: str, value: Any) -> Any:
    if issubclass(kind, BaseConfig):
        needed = {field: _given(kind, field) for field, info in kind.model_fields.items() if info.is_required()}
        return validate(kind, {**needed, name: value}, "config")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    without = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    return kind(**{**{field: REQUIRED.get(field) for field in without}, name: value})


def _given(kind: type, field: str) -> Any:
    hint = hints_of(kind)[field]
    if typing.get_origin(bare(hint)) is Literal:
        return typing.get_args(bare(hint))[0]
    return REQUIRED.get(field, "a")


@pytest.mark.parametrize(("kind", "name", "hint"), NUMBERS, ids=label)
def test_every_setting_refuses_what_breaks_its_law_and_names_key_law_and_value(kind: type, name: str, hint: Any):
    tried = 0
    for value, wrong in holding(hint):
        with pytest.raises(BadInputError) as caught:
            made(kind, name, value)
        message = str(caught.value)
        assert name in message, message
        assert repr(wrong) in message or repr(value) in message, message
        assert "must" in message, message
        assert "\n" not in message
        tried += 1
    assert tried >= 4


@pytest.mark.parametrize(("strategy", "option", "hint"), OPTIONS, ids=label)
def test_every_option_of_a_strategy_refuses_what_breaks_its_law(strategy: str, option: str, hint: Any):
    for value, _ in holding(hint):
        with pytest.raises(BadInputError, match=option):
            check_keywords(STRATEGIES[strategy], {option: value}, "a strategy's")


@pytest.mark.parametrize(
    ("law", "whole", "text"),
    [
        (Law(ge=1), True, "a whole number of at least 1"),
        (Law(gt=0, off="null does not clip"), False, "a number above 0 (null does not clip)"),
        (Law(ge=2, le=16, others=(32,)), True, "a whole number from 2 to 16, or 32"),
        (Law(ge=0, lt=1), False, "a number of at least 0 and below 1"),
        (Law(), False, "a finite number"),
    ],
)
def test_a_law_says_itself_in_words(law: Law, whole: bool, text: str):
    assert law.text(whole) == text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.micro_batch_size=-1", "training.micro_batch_size must be a whole number of at least 1"),
        ("training.max_grad_norm=0", "training.max_grad_norm must be a number above 0 (null does not clip)"),
        ("training.max_grad_norm=-1", "training.max_grad_norm must be a number above 0 (null does not clip)"),
        ("training.learning_rate=.nan", "training.learning_rate must be a number of at least 0"),
        ("training.warmup_steps=1000000", "warmup_steps must be at most steps"),
        ("task.settings.stride=100000", "stride must be below max_length"),
        ("objective.bitmaps=[17,4]", "objective.bitmaps.0 must be a whole number from 2 to 16, or 32"),
        ("adapters.rank_by_width={4: 0}", "adapters.rank_by_width.4 must be a whole number of at least 1: got 0"),
        ("keep_best.bitmaps=[[8,.inf]]", "keep_best.bitmaps.0.1 must be a whole number"),
        ("switch.quantization.kv.quantizer={method: nf4, ste_limit: .inf}", "ste_limit must be a number above 0"),
    ],
)  # fmt: skip
def test_a_command_says_a_broken_law_in_one_line_and_ends_with_2(
    override: str, said: str, capsys, monkeypatch, tmp_path
):
    from orchestrate.cli.app import main

    output = tmp_path / "run"
    words = ["qalof", "train", "--config", "configs/train/sp_tiny.yaml", "--output", str(output), override]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(importlib.resources.files(orchestrate).joinpath("..").resolve())  # type: ignore[union-attr]
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert said in error
    assert not output.exists()
