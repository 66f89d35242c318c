"""The tables of the four earlier systems, as the configs state them."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def configs() -> dict[str, dict]:
    """Read every pipeline that fills a table, by its path below the repository."""
    found = {}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "table" in data:
            found[str(path.relative_to(ROOT))] = data
    return found


def pages() -> dict[str, str]:
    """Make the page."""
    parts = [
        "# Tables of the four systems",
        "Made from the configs. Each of them runs as it stands at the size of its source (GPT-2, SQuAD, WikiText), "
        "and with `scale=tiny` on the shipped model in about a minute. A run ends with the table: our number with its "
        "95 % interval, the published number, and the difference. [The map](../systems.md) says where all else of "
        "the four systems is.",
    ]
    for path, data in configs().items():
        table = data["table"]
        steps = ", ".join(f"`{step['name']}` ({step['command']})" for step in data["steps"])
        columns = ", ".join(str(column["name"]) for column in table["columns"])
        rows = ", ".join(str(row["name"]) for row in table["rows"])
        notes = "".join(f"\n- {note}" for note in table.get("notes", []))
        parts.append(
            f"## {table['title']}\n\n```bash\nqalof run --config {path}\nqalof run --config {path} scale=tiny\n```\n\n"
            f"- Source: {table['source']}\n- Steps: {steps}\n- Columns: {columns}\n- Rows: {rows}{notes}"
        )
    return {"reference/tables.md": "\n\n".join(parts) + "\n"}
