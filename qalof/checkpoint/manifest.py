"""The manifest of a checkpoint describes its base, adapters, settings and sites.

Format versions:

1. GPT-2 only in practice: no settings but the adapter policy, specs of rank, alpha and dropout, and adapter
   configs that called every layer a Conv1D. It is read as what it meant: every other setting has its default.
2. Settings of :class:`SwitchSettings`, inits and rsLoRA in the specs, norms alongside the factors, and a base digest
   that covers a head which is not tied.  Version 1 cannot express any of these, so the number is new.
3. Perhaps codes of weights that are not rounded to nearest (:mod:`qalof.checkpoint.fixed_codes`), which a reader of
   version 2 would ignore.
4. Other names for four settings of quantizers (:data:`qalof.quantization.strict.RENAMED`).

The manifest also names the convention of the integer range, because the same numbers mean other weights under another
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qalof.checkpoint.adapters import WEIGHTS_FILE
from qalof.errors import BadInputError
from qalof.files import open_sealed
from qalof.model.adapters import AdapterPolicy, AdapterSpec
from qalof.model.gguf_source import ORIGIN
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.quantization.strict import under_new_names

KIND = "switchable-model"
"""What a manifest says that it is of."""
FORMAT_VERSION = 4

OLDEST_VERSION = 1


@dataclass(frozen=True)
class Described:
    """What a manifest says of a model; ``digest`` is that of the base's weights, and ``version`` that of the format."""

    base: BaseModel
    digest: str
    adapters: dict[str, AdapterSpec]
    settings: SwitchSettings
    sites: tuple[str, ...]
    version: int = FORMAT_VERSION
    folder: Path | None = None

    def check_like(self, model: Described) -> None:
        """Refuse a model that this checkpoint does not belong to.

        Raises:
            BadInputError: Base, adapters, settings or sites differ.
        """
        if self.digest != model.digest:
            old = "; version 1 does not cover a head of its own" if self.version == 1 else ""
            raise BadInputError(
                f"checkpoint {self.folder} was trained on other weights than {model.base.source} has now{old}; "
                "give that base"
            )
        for what in ("adapters", "settings", "sites"):
            mine, its = getattr(self, what), getattr(model, what)
            if mine != its:
                raise BadInputError(f"checkpoint {self.folder} has other {what} than this model: {mine}, here {its}")


def header(
    base: BaseModel,
    digest: str,
    adapters: Mapping[str, AdapterSpec],
    settings: SwitchSettings,
    sites: tuple[str, ...],
    extra: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a model, without its files; ``origin`` says how a GGUF file stored its weights."""
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "convention": settings.quantization.convention,
        "base": asdict(base) | {"sha256": digest} | ({ORIGIN: dict(origin)} if origin else {}),
        "adapters": {name: asdict(spec) for name, spec in adapters.items()},
        "settings": settings.to_json(),
        "sites": list(sites),
        "extra": dict(extra),
    }


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Check a checkpoint without loading its base, and return its manifest.

    Raises:
        BadInputError: The checkpoint is missing, damaged, newer, or of another range convention.
    """
    folder = Path(folder)
    manifest = open_sealed(folder, "checkpoint", FORMAT_VERSION, OLDEST_VERSION)
    if (kind := manifest.get("kind", KIND)) != KIND:
        raise BadInputError(
            f"checkpoint {folder} must be a trained model: it is a {kind}; give the checkpoint that it was made of"
        )
    described = describe(manifest, folder)
    convention = described.settings.quantization.convention
    if manifest.get("convention") != convention:
        raise BadInputError(
            f"checkpoint {folder} must use the range convention {convention} of its settings: "
            f"got {manifest.get('convention')!r}; convert it first"
        )
    for name in described.adapters:
        file = f"adapters/{name}/{WEIGHTS_FILE}"
        if file not in manifest["files"]:
            raise BadInputError(f"checkpoint {folder} is damaged: its manifest does not list {file}; restore it")
    for file in manifest["files"]:
        if file.endswith(f"/{WEIGHTS_FILE}") and Path(file).parent.name not in described.adapters:
            raise BadInputError(f"checkpoint {folder} is damaged: its manifest names no adapter for {file}; restore it")
    return manifest


def read_described(folder: str | Path) -> Described:
    """Check a checkpoint without loading its base, and return what its manifest says, as types.

    Raises:
        BadInputError: as :func:`read_manifest`.
    """
    return describe(read_manifest(folder), Path(folder))


def describe(manifest: Mapping[str, Any], folder: Path) -> Described:
    """Read a manifest into types.

    Raises:
        BadInputError: A key is missing, or a value has another type.
    """
    try:
        version, stored = manifest["format_version"], manifest["base"]
        if not isinstance(manifest["extra"], dict):
            raise TypeError("extra is not an object")
        settings = {"policy": AdapterPolicy(manifest["policy"])} if version == 1 else manifest["settings"]
        settings = under_new_names(settings) if version < 4 else settings
        return Described(
            BaseModel(str(stored["source"]), HeadKind(stored["head"]), int(stored["seed"]), stored["labels"]),
            str(stored["sha256"]),
            {str(name): AdapterSpec(**spec) for name, spec in manifest["adapters"].items()},
            SwitchSettings.from_json(settings),
            tuple(str(name) for name in manifest["sites"]),
            version,
            folder,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise BadInputError(f"manifest of checkpoint {folder} is damaged: {what}; restore it from a copy") from None
