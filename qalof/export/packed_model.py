"""A packed folder as a model that a task can evaluate: it has sites, and only the bitmap that it was packed at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.packed_embedding import PackedEmbedding
from qalof.export.packed_linear import PackedLinear
from qalof.export.packed_load import load_packed, read_layout
from qalof.site import Site


class PackedModel(nn.Module):
    """A packed model, called like the model itself; weights are decoded, so scores are those of the packed model.

    Attributes:
        model: the transformers model with packed layers.
        sites: its quantized layers, in order.
        bitmap: its only bitmap.
    """

    def __init__(self, model: PreTrainedModel, bitmap: Bitmap) -> None:
        super().__init__()
        layers = {site.name: site for site in _sites(model)}
        self.model, self.bitmap = model, bitmap
        self.sites: tuple[Site, ...] = tuple(layers[name] for name in bitmap)

    @classmethod
    def load(cls, folder: str | Path, layout: Mapping[str, Any] | None = None) -> Self:
        """Read what :func:`qalof.export.packed.save_packed` wrote.

        ``layout``: as for :func:`qalof.export.packed_load.load_packed`.

        Raises:
            BadInputError: See :func:`qalof.export.packed_load.load_packed`.
        """
        folder = Path(folder)
        layout = read_layout(folder) if layout is None else layout
        model = load_packed(folder, layout=layout)
        names = [site.name for site in _sites(model)]
        return cls(model, Bitmap.from_json(layout["bitmap"], names)).eval()

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        device: torch.device = self.model.device
        return device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the transformers model."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``generate`` of the transformers model."""
        return self.model.generate(*args, **kwargs)

    def set_bitmap(self, bitmap: Bitmap | str | int) -> Bitmap:
        """Check that ``bitmap`` is the one that the model was packed at.

        Raises:
            BadInputError: It is another one.
        """
        names = tuple(site.name for site in self.sites)
        parsed = bitmap if isinstance(bitmap, Bitmap) else Bitmap.parse(bitmap, names)
        if parsed != self.bitmap:
            raise BadInputError(
                f"a packed model runs at the bitmap it was packed at, {self.bitmap}: got {parsed}; "
                "give the checkpoint it was made of, or export that at this bitmap"
            )
        return parsed


def _sites(model: nn.Module) -> list[Site]:
    return [module.site for module in model.modules() if isinstance(module, PackedLinear | PackedEmbedding)]
