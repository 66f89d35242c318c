"""The configs that travel with the code.

``configs/`` lies at the top of the repository, where readers look for it, and ``orchestrate/configs`` is a link to it.
setuptools follows the link, so a wheel holds the files within the package, and one path finds them in both cases.  A
mapping of folders in the build (``package-dir``) was rejected: then a checkout that is not
installed, such as the copy that a Ray job runs in, would need a second way to find them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qalof.errors import nearest_hint
from qalof.reading import is_file

CONFIGS = Path(str(files("orchestrate"))).joinpath("configs").resolve()
"""The folder of the shipped configs: ``configs/`` of a checkout, ``orchestrate/configs/`` of an installed package."""


def way_to_shipped(path: Path) -> str | None:
    """Return the way out for who names a shipped config from a folder that is no checkout, or misspells its name.

    Args:
        path: of a config that does not exist.

    Returns:
        Where the shipped file is, or which one has the nearest name; None for a path that does not begin with
        ``configs/``.
    """
    if path.parts[:1] != ("configs",):
        return None
    shipped = CONFIGS.joinpath(*path.parts[1:])
    if is_file(shipped):
        return f"the shipped one is {shipped}"
    names = [str(Path("configs", each.relative_to(CONFIGS))) for each in CONFIGS.rglob("*.yaml")]
    return f"the shipped configs are in {CONFIGS}; {nearest_hint(str(path), names)}"
