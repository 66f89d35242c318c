"""What a terminal shows of an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.formats import three_digits
from orchestrate.document.terminal import size
from orchestrate.jobs.export.config import ExportFormat
from qalof.bitmap_names import short_name


def describe(result: Mapping[str, Any]) -> str:
    """Show the result in a few lines for a terminal."""
    # each has its own line, since a path of any length may be broken anywhere and a name may not
    title = f"{result['output']}\n  at {short_name(result['bitmap'])}"
    if result.get("summary"):
        title += f", {result['summary']}"
    if result["format"] == ExportFormat.COMPRESSED:
        return "\n".join([title, *_describe_compressed(result)])
    if result["format"] != ExportFormat.PACKED:
        return "\n".join([title, *_describe_gguf(result), *_describe_embedding(result)])
    lines = {
        "packed weights": result["weight_bytes"],
        "active adapters": result["adapter_bytes"],
        "unquantized": result["unquantized_bytes"],
        "learned steps and ranges": result["quantizer_bytes"],
        "all tensors": result["total_bytes"],
        "as predicted": result["predicted_total_bytes"],
        "names and shapes of tensors": result["header_bytes"],
    }
    counted = [_size(name, count) for name, count in lines.items()]
    return "\n".join([title, *counted, *_describe_embedding(result)])


def _size(name: str, count: int) -> str:
    row = f"  {name:<28} {count:>15,} bytes {size(count):>14}"
    return row if count >= 1024 else row[: row.index(" bytes") + len(" bytes")]


def _describe_embedding(result: Mapping[str, Any]) -> list[str]:
    rounded = result["embedding"]
    if rounded["bits"] is None:
        return []
    moved = rounded["largest_difference"]
    change = f"which moves it by up to {three_digits(moved)}" if moved else "which loses nothing"
    return [
        f"  {' and '.join(rounded['sites'])} rounded to {rounded['bits']} bits in this file, {change}; a tied head "
        "shares it; --embedding-bits none keeps the model's own"
    ]


def _describe_compressed(result: Mapping[str, Any]) -> list[str]:
    groups = ", ".join(f"{count} at {group}" for group, count in result["groups"].items())
    lines = [_size("tensors", result["tensor_bytes"]), _size("all files", result["file_bytes"]), f"  layers: {groups}"]
    if result["exact_weights"]:
        lines.append(
            "  the weights are those that the model computes with, bit for bit, where a reader runs in float32"
        )
    else:
        lines.append(
            f"  weights of {len(result['differing_sites'])} sites differ from the model's by up to "
            f"{three_digits(result['largest_difference'])}; train with merge_then_quantize, and write float32, to lose "
            "nothing"
        )
    if result["oldest_reader"] is not None:
        lines.append(f"  a reader needs compressed-tensors {result['oldest_reader']} or later for these widths")
    return lines


def _describe_gguf(result: Mapping[str, Any]) -> list[str]:
    lines = [_size(name, count) for name, count in result["files"].items()]
    lines.append(_size("tensors", result["tensor_bytes"]))
    lines.append(_size("as predicted", result["predicted_tensor_bytes"]))
    lines.append(_size("names, vocabulary, padding", result["header_bytes"]))
    lines.append("  tensors: " + ", ".join(f"{count} {kind}" for kind, count in sorted(result["types"].items())))
    if result["exact_weights"]:
        lines.append("  the weights are those that the model computes with, bit for bit")
    elif result["differing_sites"]:
        lines.append(
            f"  weights of {len(result['differing_sites'])} sites differ from the model's by up to "
            f"{three_digits(result['largest_difference'])}; train with method gguf and merge_then_quantize to lose "
            "nothing"
        )
    else:
        lines.append("  the model merges its adapters in another way than a GGUF adapter is added; take format gguf")
    if not result["unquantized_inputs"]:
        lines.append("  widths of activations and cache are not in the file: the reader has its own")
    return lines
