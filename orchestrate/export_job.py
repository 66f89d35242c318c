"""The command ``export``: a checkpoint at one bitmap as a packed folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qalof import checkpoints
from qalof.export.packed import save_packed
from qalof.model.pretrained import load_tokenizer
from qalof.model.switchable import read_manifest


def export_packed(checkpoint: Path, bitmap: str, output: Path) -> dict[str, Any]:
    """Write ``checkpoint`` at ``bitmap`` to ``output``, with its base's tokenizer and its task.

    Returns:
        The bitmap as it was read, the folder, and the bytes of its parts.

    Raises:
        BadInputError: a checkpoint that cannot be loaded, a bitmap that is none of it, or an output that holds
            something else.
    """
    extra = read_manifest(checkpoint)["extra"]
    model = checkpoints.load(checkpoint)
    sizes = save_packed(model, bitmap, output, load_tokenizer(model.base.source), extra)
    parsed = str(model.set_bitmap(bitmap))
    return {"bitmap": parsed, "output": str(output), **asdict(sizes)}


def describe(result: Mapping[str, Any]) -> str:
    """The result in a few lines for a terminal."""
    lines = {
        "packed weights": result["weight_bytes"],
        "predicted, with fp16 scales": result["predicted_weight_bytes"],
        "active adapters": result["adapter_bytes"],
        "unquantized": result["unquantized_bytes"],
    }
    rows = [f"  {name:<28} {count:>14,} bytes" for name, count in lines.items()]
    return "\n".join([f"{result['output']}  at {result['bitmap']}", *rows])
