"""The annotated tree: every module with the first sentence of its docstring, every config with its second line."""

from __future__ import annotations

from docs.generate import api

TOP = {
    "qalof": "One model, one process: quantizers, the switchable model, tasks, training, attacks, export.",
    "search": "The choice of bitmaps, in one process, with any evaluator.",
    "orchestrate": "Ray, MLflow, the report and the command line.",
    "configs": "YAML files that run as they stand; the first line of each is its command.",
    "tests": "Tests, in folders like those of the code.",
    "benchmarks": "Scripts that measure, and the JSON files that they wrote.",
    "docs": "These pages, and the scripts that make the references from the code.",
}


def pages() -> dict[str, str]:
    """Make the page."""
    parts = ["# Annotated tree", "Made from the first sentence of each file.", "| folder | what it is |\n|---|---|"]
    parts[-1] += "".join(f"\n| `{name}/` | {what} |" for name, what in TOP.items())
    for name, files in api.packages().items():
        rows = [f"| `{path.name}` | {api.first_sentence(path)} |" for path in files if path.name != "__init__.py"]
        if rows:
            folder = name.replace(".", "/")
            parts.append(f"## `{folder}/`\n\n| file | what it is |\n|---|---|\n" + "\n".join(rows))
    parts.append(_configs())
    return {"reference/tree.md": "\n\n".join(parts) + "\n"}


def _configs() -> str:
    rows = []
    for path in sorted((api.ROOT / "configs").rglob("*.yaml")):
        lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        about = next((line for line in lines[1:] if line), lines[0] if lines else "")
        rows.append(f"| `{path.relative_to(api.ROOT / 'configs')}` | {about} |")
    return "## `configs/`\n\n| file | what it is |\n|---|---|\n" + "\n".join(rows)
