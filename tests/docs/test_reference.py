"""The references are made from the code: nothing that a user may write is missing from them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

pytest.importorskip("griffe", reason="the tools of the documentation are not installed; `make docs` installs them")

from docs.generate import api, commands, configs, tables, tree  # noqa: E402
from docs.generate.fields import keys_of, laws, type_text  # noqa: E402


@pytest.fixture(scope="module")
def config_pages() -> dict[str, str]:
    return configs.pages()


def test_every_command_with_a_config_has_a_page_with_every_key_of_it(config_pages):
    from orchestrate.jobs.registry import JOBS

    for name, job in JOBS.items():
        page = config_pages[f"reference/configs/{name}.md"]
        assert all(f"| `{key}` |" in page for key in job.config.model_fields), name


def test_every_section_that_a_config_may_hold_is_described_once(config_pages):
    whole = "".join(config_pages.values())
    for section in configs.sections().values():
        assert whole.count(f"{{ #{section.anchor} }}") == 1, section
        page = config_pages[f"reference/configs/{section.command}.md"]
        assert all(f"| `{key.name}` |" in page for key in keys_of(section.kind))


def test_every_registered_quantizer_is_in_the_reference(config_pages):
    from qalof.quantization.quantizer import Quantizer

    whole = "".join(config_pages.values())
    shipped = [name for name, kind in Quantizer.registry.items() if kind.__module__.startswith("qalof.")]
    assert len(shipped) > 5
    assert all(f"(method: {name})" in whole for name in shipped)


def test_a_row_tells_type_default_law_and_docstring():
    class Example(BaseModel):
        rank: Annotated[int, Field(ge=1)] = 8
        """Rank of the branch."""
        mode: Literal["a", "b"] = "a"
        widths: list[int] | None = Field(None, min_length=1, description="Which widths.")

    rank, mode, widths = keys_of(Example)
    assert (rank.text, mode.text) == ("Rank of the branch.", "")
    assert (rank.type, rank.default, rank.law) == ("whole number", "`8`", "at least `1`")
    assert (mode.type, mode.default) == ("`a` or `b`", "`a`")
    assert (widths.type, widths.law, widths.text) == (
        "list of whole number or null",
        "length at least `1`",
        "Which widths.",
    )


def test_types_read_as_yaml_does():
    assert type_text(dict[int, float]) == "mapping of whole number to number"
    assert type_text(str | None) == "text or null"
    assert laws([Field(gt=0).metadata[0]]) == "above `0`"


def test_every_command_and_every_option_is_in_the_command_line_reference():
    (page,) = commands.pages().values()
    for name, command in commands.commands().items():
        assert f"{{ #{name} }}" in page
        section = page.split(f"{{ #{name} }}")[1].split("\n## ")[0]
        assert all(f"`{parameter.opts[0]}`" in section for parameter in command.params if parameter.opts[0][0] == "-")


def test_every_module_has_an_entry_in_the_api_and_in_the_tree():
    pages = api.pages()
    (annotated,) = tree.pages().values()
    modules = [path for wing in api.WINGS for path in (ROOT / wing).rglob("*.py") if path.name != "__main__.py"]
    assert len(modules) > 100
    for path in modules:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        assert any(f"::: {name}\n" in f"{page}\n" for page in pages.values()), name
        assert parts[-1] == "__init__" or f"| `{path.name}` | " in annotated


def test_every_table_of_the_four_systems_is_listed_with_its_command():
    (page,) = tables.pages().values()
    found = tables.configs()
    assert len(found) >= 19
    assert all(f"qalof run --config {path}\n" in page for path in found)


def test_roles_become_code_and_links_that_may_be_missing():
    from docs.generate.roles import as_markdown

    assert as_markdown("see :class:`~qalof.bitmap.Bitmap` and ``x``") == (
        'see <autoref identifier="qalof.bitmap.Bitmap" optional><code>Bitmap</code></autoref> and `x`'
    )
    assert as_markdown(":meth:`grid`") == "`grid`"
    assert as_markdown("M[i][j]") == r"M[i]\[j]"


def test_settings_that_are_dataclasses_are_read_like_configs():
    @dataclass(frozen=True)
    class Settings:
        limit: int | None = None
        """The first items alone."""

    (key,) = keys_of(Settings)
    assert (key.name, key.type, key.default) == ("limit", "whole number or null", "`null`")
    assert key.text == "The first items alone."
