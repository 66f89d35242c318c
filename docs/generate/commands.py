"""The reference of the command line, from typer's own objects."""

from __future__ import annotations

from typing import Any


def commands() -> dict[str, Any]:
    """Collect every command by name, in the form that typer builds."""
    import typer.main

    from orchestrate.cli.app import app

    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def pages() -> dict[str, str]:
    """Make the page."""
    found = commands()
    parts = [
        "# Command line",
        "Every command of `qalof`; on a cluster `python -m orchestrate` takes the same words. Exit code 0 means done, "
        "2 bad input (one line says what, where and how to mend it), 1 anything else. [Configs](configs/index.md) "
        "lists the keys that `key=value` may override.",
        "| command | what it does |\n|---|---|\n"
        + "\n".join(f"| [`qalof {name}`](#{name}) | {_text(command.help)} |" for name, command in found.items()),
    ]
    parts += [_section(name, command) for name, command in found.items()]
    return {"reference/commands.md": "\n\n".join(parts) + "\n"}


def _section(name: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params]
    usage = " ".join(
        [f"qalof {name}", *[_usage(parameter) for parameter in command.params if not parameter.opts[0].startswith("-")]]
    )
    return (
        f"## {name} {{ #{name} }}\n\n{_text(command.help)}\n\n```text\n{usage} [OPTIONS]\n```\n\n"
        "| word | value | default | what it says |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _usage(parameter: Any) -> str:
    word = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return word if parameter.required else f"[{word}]"


def _row(parameter: Any) -> str:
    flag = parameter.opts[0].startswith("-")
    shown = ", ".join(f"`{word}`" for word in parameter.opts) if flag else f"`{_usage(parameter)}`"
    annotation = parameter.type_descriptor.annotation
    kind = {bool: "", "Path": "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())
    several = ", may be repeated" if getattr(parameter, "multiple", False) else ""
    kind = {"path": "path", "str": "text", "int": "number", "list": "text"}.get(kind, kind)
    default = "required" if parameter.required else _default(parameter.default)
    return f"| {shown} | {kind}{several} | {default} | {_text(getattr(parameter, 'help', '') or '')} |"


def _default(value: Any) -> str:
    if value is None or value is False or callable(value):
        return ""
    return f"`{value}`"


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
