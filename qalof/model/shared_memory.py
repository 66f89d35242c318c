"""Processes of one machine share frozen weights: one file in memory replaces a copy per process.

The base of a checkpoint is frozen, so eight actors with the same base hold the same bytes eight times. transformers
maps the hub's file, so embeddings are shared already; but patching transposes Conv1D weights, and each process rounds
them again. So every frozen tensor of the patched model, cached rounded weights included, is written once into a
safetensors file and mapped from it: the pages of a mapped file belong to the machine, not to the process, until a
process writes to them.

The name of the file is a digest of its content, so equal models use one file and different ones never do; the mapped
tensors are compared with the loaded ones before they replace them. Files lie in ``$QALOF_CACHE/frozen`` (otherwise in
the user's cache folder) and stay there, one per base and cached widths; they can be deleted at any time. Each process
still loads its own copy first and frees it. This works on the CPU only: the memory of a GPU is not shared this way.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from qalof.cache import cache_dir
from qalof.errors import BadInputError, QalofError
from qalof.locks import held
from qalof.model.switchable import SwitchableModel
from qalof.writing import check_folder

SMALLEST = 4096
"""The fewest elements of a tensor that is worth sharing."""

WORTH_SHARING = 64 * 2**20
"""The fewest bytes of frozen tensors that :func:`share_large` shares."""

_log = logging.getLogger(__name__)


def share_frozen(model: SwitchableModel, folder: Path) -> int:
    """Let ``model`` use the frozen tensors of a file in ``folder``, which is written if it does not exist.

    Args:
        model: a model on the CPU; what it caches for widths it has run at, or is packed at, is shared too.
        folder: a folder of this machine, for all processes that are to share.

    Returns:
        The bytes that are shared.

    Raises:
        BadInputError: The model is not on the CPU, or a file there does not have the content that its name says.
    """
    parameters = _frozen(model)
    held = _held(model)
    tensors = {f"frozen/{name}": parameter.data for name, parameter in parameters.items()} | held
    away = [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]
    if away:
        raise BadInputError(f"only a CPU's memory is shared by a file: {away[0]} is on another device; do not share it")
    path = folder / f"{_digest(model, tensors)}.safetensors"
    _write_once(path, tensors)
    mapped = load_file(path)
    for name, tensor in tensors.items():
        if name not in mapped or mapped[name].dtype is not tensor.dtype or not torch.equal(mapped[name], tensor):
            raise BadInputError(f"shared weights {path} are not those of this model at {name}; delete the file")
    for name, parameter in parameters.items():
        parameter.data = mapped[f"frozen/{name}"]
    _put_held(model, mapped)
    give_back()
    return sum(tensor.numel() * tensor.element_size() for tensor in mapped.values())


def share_large(model: SwitchableModel) -> int:
    """Call :func:`share_frozen` for ``$QALOF_CACHE/frozen``, if the model is large and the folder can be written.

    Returns:
        The bytes that are shared; 0 where the model is small or on another device, or where the folder cannot be
        written, which is logged.
    """
    frozen = _frozen(model).values()
    if sum(p.numel() * p.element_size() for p in frozen) < WORTH_SHARING or any(p.device.type != "cpu" for p in frozen):
        return 0
    folder = cache_dir() / "frozen"
    try:
        check_folder(folder, "it")
    except QalofError as error:
        _log.warning("frozen weights are not shared: %s", error)
        return 0
    try:
        return share_frozen(model, folder)
    except OSError as error:
        _log.warning("frozen weights are not shared: %s cannot be used (%s)", folder, error)
        return 0


def give_back() -> None:
    """Return freed memory to the machine, since glibc keeps freed blocks of the size of a weight."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _frozen(model: SwitchableModel) -> dict[str, torch.nn.Parameter]:
    found = model.model.named_parameters()
    return {name: p for name, p in found if not p.requires_grad and p.numel() >= SMALLEST}


def _held(model: SwitchableModel) -> dict[str, torch.Tensor]:
    named = {}
    for switch in model.switches:
        for bits, tensors in switch.linear.held_tensors().items():
            for name, tensor in tensors.items():
                # full precision under packing keeps a parameter, which may be the embedding's own
                if not isinstance(tensor, torch.nn.Parameter) and tensor.numel():
                    named[f"held/{switch.site.name}/{bits}/{name}"] = tensor.detach()
    return named


def _put_held(model: SwitchableModel, mapped: dict[str, torch.Tensor]) -> None:
    for switch in model.switches:
        for bits, tensors in switch.linear.held_tensors().items():
            found = {name: mapped.get(f"held/{switch.site.name}/{bits}/{name}", t) for name, t in tensors.items()}
            switch.linear.put_held(bits, found)


def _digest(model: SwitchableModel, tensors: dict[str, torch.Tensor]) -> str:
    """Return the digest of the base and of the names, shapes and bytes of everything that is shared."""
    digest = hashlib.sha256(model.base_digest.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_once(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Let the first process write; the others wait, so all map one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path, "a file of shared weights", wait=True):
        if path.is_file():
            return
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, name)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
