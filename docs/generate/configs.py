"""The reference of the configs: every key of every command, from the classes that validate them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from docs.generate.fields import Key, keys_of, refusals, summary, tag_of
from docs.generate.roles import as_markdown

FOLDER = "reference/configs"
FIRST = ("train", "evaluate", "sensitivity", "search", "attack")
"""These pages come first, since what they share is described where it first appears; `run` comes last."""


@dataclass(frozen=True)
class Section:
    """A settings class where it first appears."""

    kind: type
    command: str
    path: str
    owner: str = ""
    """What picks the section that holds it, where several have a section of this name."""

    @property
    def title(self) -> str:
        """The key under which it stands, and what picks it."""
        tag, last = tag_of(self.kind), self.path.rsplit(".", 1)[-1]
        own = f" ({tag[0]}: {tag[1]})" if tag and tag[0] != "command" else ""
        if hasattr(self.kind, "registry") and not own:
            own = " (what all methods share)"
        of = f" of `{self.owner}`" if self.owner and not own else ""
        return f"`{last}`{own}{of}" if self.path else "Top level"

    @property
    def anchor(self) -> str:
        """An anchor that is unique on its page."""
        return self.kind.__name__.lower()

    @property
    def link(self) -> str:
        """The link from another page of the folder."""
        return f"{self.command}.md#{self.anchor}"


@cache
def config_classes() -> dict[str, type[BaseModel]]:
    """Find the classes that validate configs, by command; each has a ``command`` key, wherever it is defined."""
    package = importlib.import_module("orchestrate")
    for module in pkgutil.walk_packages(package.__path__, "orchestrate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[str, type[BaseModel]] = {}
    for kind in _subclasses(BaseModel):
        tag = tag_of(kind)
        if kind.__module__.startswith("orchestrate.") and tag and tag[0] == "command":
            found[tag[1]] = kind
    order = [*FIRST, *sorted(set(found) - {*FIRST, "run"}), "run"]
    return {name: found[name] for name in order if name in found}


@cache
def sections() -> dict[type, Section]:
    """Find every settings class that a config can hold, in the order of the pages."""
    found: dict[type, Section] = {}
    for command, kind in config_classes().items():
        for each, path, owner in _walk(kind, ""):
            found.setdefault(each, Section(each, command, path, owner))
    return found


def menu() -> list[dict[str, str]]:
    """Make the entries of the menu."""
    return [{name: f"{FOLDER}/{name}.md"} for name in config_classes()]


def pages() -> dict[str, str]:
    """Make a page for each command, and an index."""
    found = sections()
    made = {}
    for command in config_classes():
        parts = [f"# Config of `{command}`", f"The keys of a YAML file that begins with `command: {command}`, or of "
                 f"`key=value` after `qalof {command}`. A dot leads into a section: `training.steps=300`."]  # fmt: skip
        parts += [_section(each, found) for each in found.values() if each.command == command]
        made[f"{FOLDER}/{command}.md"] = "\n\n".join(parts) + "\n"
    rows = "\n".join(f"| [`{name}`]({name}.md) | {_cell(summary(kind))} |" for name, kind in config_classes().items())
    head = (
        "# Configs\n\nMade from the classes that validate configs. A section that several commands share is described "
    )
    head += "on the page of the first one. A misspelled key is an error that names the nearest right one.\n\n"
    made[f"{FOLDER}/index.md"] = f"{head}| command | what it is |\n|---|---|\n{rows}\n"
    return made


def _walk(kind: type, path: str, owner: str = "", seen: tuple[type, ...] = ()) -> Iterator[tuple[type, str, str]]:
    if kind in seen:
        return
    yield kind, path, owner
    tag = tag_of(kind)
    below = tag[1] if tag and tag[0] == "name" else ""
    for key in keys_of(kind):
        for inner in key.kinds:
            yield from _walk(inner, f"{path}.{key.name}" if path else key.name, below, (*seen, kind))


def _section(section: Section, found: dict[type, Section]) -> str:
    rows = [_row(key, section, found) for key in keys_of(section.kind)]
    about, refused = as_markdown(summary(section.kind)), as_markdown(refusals(section.kind))
    where = f"At `{section.path}`." if "." in section.path else ""
    parts = [f"## {section.title} {{ #{section.anchor} }}", where, about]
    parts.append("| key | type | default | law | what it is |\n|---|---|---|---|---|\n" + "\n".join(rows))
    if not rows:
        parts.pop()
    if refused:
        parts.append(f"Refused: {refused}")
    return "\n\n".join(part for part in parts if part)


def _row(key: Key, section: Section, found: dict[type, Section]) -> str:
    text = _cell(as_markdown(key.text))
    if key.kinds:
        links = ", ".join(_link(found[kind], section) for kind in key.kinds)
        text = f"{text.rstrip('.')}. See {links}" if text else f"See {links}"
    return f"| `{key.name}` | {_cell(key.type)} | {_cell(key.default)} | {_cell(key.law)} | {text} |"


def _link(target: Section, source: Section) -> str:
    tag = tag_of(target.kind)
    shown = f"`{tag[1]}`" if tag and tag[0] != "command" else f"`{target.path.rsplit('.', 1)[-1]}`"
    if hasattr(target.kind, "registry") and not tag:
        shown = "what all share"
    return f"[{shown}]({f'#{target.anchor}' if target.command == source.command else target.link})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _subclasses(kind: type) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
