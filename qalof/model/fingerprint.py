"""A digest of everything in a model that its outputs depend on, besides its settings: tensors and fixed codes."""

from __future__ import annotations

import hashlib

import torch

from qalof.model.switchable import SwitchableModel


def tensors_digest(model: SwitchableModel, start: bytes = b"") -> str:
    """Return the SHA-256, in hex, of ``start``, of every tensor by name, and of the codes that were fixed by site.

    It is taken anew at every call, for a model may be trained on.
    """
    digest = hashlib.sha256(start)
    for name, tensor in sorted(model.model.state_dict().items()):
        _update(digest, name, tensor)
    for switch in model.switches:
        for bits, codes in sorted(switch.linear.fixed_codes.items(), key=str):
            name = f"{switch.site.name} at {bits}"
            _update(digest, f"{name} codes", codes.codes)
            _update(digest, f"{name} scale", codes.scale)
            if codes.zero_point is not None:
                _update(digest, f"{name} zero_point", codes.zero_point)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
