"""Docstrings are written for readers of the code, in reStructuredText's roles; on a page a role is code with a link."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)\.*([\w.]+)`")
_LITERAL = re.compile(r"``([^`\n]+)``")


def as_markdown(text: str) -> str:
    """Turn the roles and double backquotes of a docstring into Markdown."""
    parts = re.split(r"(`[^`]*`)", _LITERAL.sub(r"`\1`", _ROLE.sub(_link, text)))
    # "M[source][target]" is no link, but Markdown would take it for one
    return "".join(part if part.startswith("`") else re.sub(r"\]( ?)\[", r"]\1\[", part) for part in parts)


def _link(match: re.Match[str]) -> str:
    short, name = match[1], match[2]
    shown = name.rsplit(".", 1)[-1] if short else name
    if "." not in name:
        return f"`{shown}`"
    # the link is optional: a name that has no place on a page stays plain code
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'


class Roles(griffe.Extension):
    """An extension of griffe that rewrites every docstring once it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object; griffe calls this."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
