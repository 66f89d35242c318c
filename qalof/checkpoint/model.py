"""A checkpoint of a switchable model is written and read here.

Each adapter has a folder that plain PEFT opens, with the head and norms that go with it; static ranges, learned steps,
fixed codes and, under full fine-tuning, the base's weights lie alongside them. Everything is read and checked before
anything is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from qalof.checkpoint import adapters as files
from qalof.checkpoint.manifest import Described, header, read_described
from qalof.checkpoint.quantizers import load_state, save_state
from qalof.files import sealed_folder
from qalof.model.base_weights import BASE, BASE_FILE
from qalof.model.gguf_source import ORIGIN
from qalof.model.norms import trained_norms
from qalof.model.switchable import SwitchableModel
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import EmbeddingMode


def save(
    model: SwitchableModel,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    attach: Callable[[Path], None] | None = None,
) -> None:
    """Write what is trained of ``model`` as a sealed folder.

    Args:
        model: at any bitmap.
        folder: appears whole or not at all; an older one there is replaced.
        extra: JSON that travels in the manifest under ``extra``, such as the task's config.
        attach: writes more files into the folder before it is sealed.

    Raises:
        DiskError: the disk takes no more.
    """
    conv1d = any(site.fan_in_fan_out for site in model.sites)
    origin = getattr(model.model.config, ORIGIN, None)
    head = header(model.base, model.base_digest, model.adapters, model.settings, model.site_names, extra or {}, origin)
    with sealed_folder(Path(folder), head) as beside:
        if not model.adapters:
            files.save_modules(_besides(model), beside)
        for name, spec in model.adapters.items():
            place = beside / "adapters" / name
            files.save_adapter(model.model, name, spec, _besides(model, name), place, fan_in_fan_out=conv1d)
        save_state(model.model, beside)
        files.save_modules(_trained_base(model), beside, BASE_FILE)
        if attach:
            attach(beside)


def load_parameters(model: SwitchableModel, folder: str | Path, *, quantizers: bool = True) -> None:
    """Copy what is trained from a checkpoint of a model like ``model``: everything or, on an error, nothing.

    ``quantizers=False`` passes over quantizers, their state and fixed codes.

    Raises:
        BadInputError: a damaged checkpoint, another base, adapters, settings or sites, or tensors that do not fit.
    """
    copy_parameters(model, read_described(folder), quantizers=quantizers)


def rebuild(
    stored: Described, quantization: QuantizationScheme | None = None, embedding: TensorScheme | None = None
) -> SwitchableModel:
    """Make a new model that is what a verified checkpoint describes, in eval mode.

    Args:
        stored: of the checkpoint.
        quantization: other quantizers than it was trained with; None for its own.
        embedding: makes the input embedding a site with these quantizers.

    Raises:
        BadInputError: another base than it was trained on, or tensors that do not fit.
    """
    settings = replace(stored.settings, quantization=quantization or stored.settings.quantization)
    if embedding is not None:
        settings = settings.with_embedding(embedding)
    model = SwitchableModel.of(stored.base.load(), stored.base, stored.adapters, settings)
    copy_parameters(model, stored, quantizers=quantization is None)
    return model.eval()


def copy_parameters(model: SwitchableModel, stored: Described, *, quantizers: bool = True) -> None:
    """Do as :func:`load_parameters` does, with a checkpoint whose files are verified already."""
    folder = stored.folder
    assert folder is not None
    its, names = model.settings, model.site_names
    if stored.settings.embedding is EmbeddingMode.NONE:
        # an embedding that is made a site now, and a head along with it, were not sites when the model was trained
        scheme = replace(its.quantization, embedding=stored.settings.quantization.embedding)
        its = replace(its, embedding=EmbeddingMode.NONE, quantization=scheme)
        names = tuple(site.name for site in model.sites if site.has_adapter)
    if not quantizers:
        its = replace(its, quantization=stored.settings.quantization)
    stored.check_like(Described(model.base, model.base_digest, model.adapters, its, names))
    alone = {} if model.adapters else _besides(model)
    read_alone = files.read_modules(alone, folder)
    read_base = files.read_modules(_trained_base(model), folder, BASE_FILE)
    read = {
        name: files.read_adapter(model.model, name, spec, _besides(model, name), folder / "adapters" / name)
        for name, spec in model.adapters.items()
    }
    if quantizers:
        load_state(model.model, folder)
    for name, tensors in read.items():
        files.copy_adapter(model.model, name, _besides(model, name), tensors)
    files.copy_modules(alone, read_alone)
    files.copy_modules(_trained_base(model), read_base)


def _trained_base(model: SwitchableModel) -> dict[str, nn.Parameter]:
    return model.trainable_groups().get(BASE, {}) if model.settings.full_finetune else {}


def _besides(model: SwitchableModel, name: str | None = None) -> dict[str, nn.Parameter]:
    """Return what is saved alongside the factors of an adapter, in its folder, by path in the plain model."""
    norms = model.settings.norms
    return model.head_parameters() | trained_norms(model.model, norms) | trained_norms(model.model, norms, name)
