"""What must be read from a pretrained model before it is patched, since its layers are others afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedModel

from qalof.model.pretrained import weights_digest
from qalof.model.settings import SwitchSettings
from qalof.model.sites import count_unquantized, feeds_known_cache
from qalof.site import Site, Unquantized


@dataclass(frozen=True)
class Origin:
    """The facts of a pretrained model.

    Attributes:
        digest: identifies its weights; empty for a model without data, which has sizes alone.
        unquantized: the numbers of parameters that no bitmap rounds.
        cache_is_known: whether it is known where its layers keep keys and values.
    """

    digest: str
    unquantized: Unquantized
    cache_is_known: bool

    @classmethod
    def of(cls, model: PreTrainedModel, sites: Sequence[Site], settings: SwitchSettings) -> Self:
        """Read the facts of ``model``, of which ``sites`` will be switchable."""
        digest = "" if next(model.parameters()).is_meta else weights_digest(model)
        return cls(digest, count_unquantized(model, sites, settings.head_mode), feeds_known_cache(model))
