"""A model with adapters that do something, and the means to spoil what is written of it."""

import pytest
import torch

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build


@pytest.fixture(scope="session")
def tokens():
    return torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def make(random_model):
    """``make(**settings)``: a switchable model whose branches, norms and heads are drawn at random."""

    def of(settings=None, source=random_model, head=HeadKind.CAUSAL_LM, adapters=True, **kwargs):
        specs = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)} if adapters else {}
        model = build(BaseModel(source, head, **kwargs), specs, settings)
        generator = torch.Generator().manual_seed(1)
        for group in model.trainable_groups().values():
            for parameter in group.values():
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        return model.eval()

    return of
