"""``qalof bitmap``: what a bitmap is, as a line, a colored map in the terminal, and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from qalof.bitmap import Bitmap
from qalof.bitmap_file import names_file, read_spec
from qalof.bitmap_map import block_map, maps_worth_showing
from qalof.bitmap_names import short_name, summary
from qalof.errors import BadInputError
from qalof.files import write_bytes
from qalof.writing import check_file

PICTURES = (".png", ".svg")


def find_bitmap(spec: str, checkpoint: Path | None = None) -> tuple[Bitmap, dict[str, Any]]:
    """Read the bitmap that ``spec`` names, and what is to be said of it.

    Args:
        spec: any form of a bitmap; ``FILE#ID`` needs no model, since files hold the names of the sites.
        checkpoint: the checkpoint whose sites a text is for; it also gives the number of weights of each site, and what
            the bitmap costs.

    Raises:
        BadInputError: there is no such bitmap, or a text has no checkpoint that names its sites.
    """
    if checkpoint is not None:
        from orchestrate.jobs.shared.checkpoint import open_checkpoint

        model = open_checkpoint(str(checkpoint)).model
        parsed = Bitmap.parse(spec, [site.name for site in model.sites])
        from qalof.cost import cost_of

        costs = cost_of(parsed, model.sites, rest=model.rest).to_json()
        return parsed, {**_said(parsed), "summary": summary(parsed, model.sites), "cost": costs}
    found = read_spec(spec) if names_file(spec) else spec
    if isinstance(found, str):
        raise BadInputError(
            f"a bitmap's text must be read with the sites of a model: got {spec}; give its --checkpoint"
        )
    parsed = Bitmap.from_json(found)
    return parsed, {**_said(parsed), "summary": summary(parsed)}


def terminal_map(bitmap: Bitmap, width: int) -> Iterator[Text]:
    """Draw lines of kinds of layer by blocks, each width on its own color, with as many blocks side by side as
    ``width`` holds; several parts are about equally long.
    """
    from search.bitmap_plot import color_of, ink_on

    for role in maps_worth_showing(bitmap):
        found = block_map(bitmap, role)
        margin = min(max(map(len, found.kinds)), width // 2)
        cell = 1 + max(2, *(len(str(bits)) for widths in found.widths for bits in widths if bits is not None))
        fitting = max(1, (width - margin - 1) // cell)
        most = -(-found.blocks // -(-found.blocks // fitting))  # parts of equal length
        for first in range(0, found.blocks, most):
            last = min(first + most, found.blocks) - 1
            yield Text(f"{role}, blocks {first} to {last}" if found.blocks > 1 else role, style="bold")
            for kind, widths in zip(found.kinds, found.widths, strict=True):
                line = Text(kind[-margin:].ljust(margin) + " ")
                for bits in widths[first : last + 1]:
                    style = "" if bits is None else "{} on rgb({},{},{})".format(ink_on(bits), *color_of(bits))
                    line.append(" " * cell if bits is None else f"{bits!s:>{cell - 1}} ", style=style)
                yield line


def write_picture(bitmap: Bitmap, said: str, path: Path) -> None:
    """Draw ``bitmap`` into a file.

    Raises:
        BadInputError: the file is neither a PNG nor an SVG.
    """
    from search.bitmap_plot import bitmaps_picture

    if path.suffix not in PICTURES:
        raise BadInputError(f"--picture must end in {' or '.join(PICTURES)}: got {path}")
    check_file(path, "--picture")
    title = f"{short_name(bitmap)}: {said}"
    write_bytes(path, bitmaps_picture({title: bitmap}, "svg" if path.suffix == ".svg" else "png"))


def _said(bitmap: Bitmap) -> dict[str, Any]:
    return {"id": bitmap.id, "name": short_name(bitmap), "bitmap": str(bitmap), "sites": len(bitmap)}
