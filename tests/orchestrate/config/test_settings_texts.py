"""Every setting says under itself what it is: the docstring line is what the config reference shows to users."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from docs.generate.fields import Key, keys_of  # noqa: E402
from orchestrate.jobs.registry import JOBS  # noqa: E402
from orchestrate.pipeline.plan import PipelineConfig  # noqa: E402
from orchestrate.pipeline.scales import ScaleConfig  # noqa: E402


@cache
def settings() -> dict[type, list[Key]]:
    """The keys of every settings class that a config of a command, of a pipeline or of a scale can hold."""
    found: dict[type, list[Key]] = {}
    waiting: list[type] = [*(job.config for job in JOBS.values()), PipelineConfig, ScaleConfig]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found[kind] = keys_of(kind)
            waiting += [inner for key in found[kind] for inner in key.kinds]
    return found


ALL = sorted(settings(), key=lambda kind: f"{kind.__module__}.{kind.__name__}")


def test_the_walk_comes_to_the_settings_of_all_wings():
    names = {kind.__name__ for kind in ALL}
    assert {"TrainConfig", "WorkersConfig", "SwitchSettings", "QuantizerOptions", "GbdaSettings", "RowConfig"} <= names
    assert {kind.__module__.split(".")[0] for kind in ALL} == {"orchestrate", "qalof"}
    assert len(ALL) > 60


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_field_of_a_settings_class_has_a_docstring_of_its_own(kind):
    silent = [key.name for key in settings()[kind] if not key.text.strip()]
    assert not silent, f"give each of these fields a docstring line under it: {silent}"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_the_docstring_of_a_field_is_a_text_that_ends(kind):
    for key in settings()[kind]:
        assert re.fullmatch(r"(?:[A-Z`]|k, ).* .*\.", key.text), (key.name, key.text)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_settings_class_does_not_describe_its_fields_again(kind):
    again = re.search(r"(?:^|\n)Attributes:|``\w+``(?:, ``\w+``)*: ", inspect.cleandoc(kind.__doc__ or ""))
    assert again is None, f"move this text under the field: {again}"
