"""Small models and data that the contract of scores is tested with."""

import pytest
import torch

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build

EVERYWHERE = {"weight": ("2", "4", "8"), "activation": ("4", "8"), "kv": ("4", "8")}


@pytest.fixture(scope="session")
def windows():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in (24, 24, 17, 24)]


@pytest.fixture(scope="session")
def make_model(random_model):
    """``make_model(adapters=..., dtype=..., **settings)``: a model with its branches stirred."""

    def make(adapters=None, dtype=torch.float32, **settings):
        model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), adapters or {}, SwitchSettings(**settings))
        for group in model.trainable_groups().values():
            for parameter in group.values():
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A model in which keys and values are projections of their own."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    folder = str(tmp_path_factory.mktemp("llama"))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return build(BaseModel(folder, HeadKind.CAUSAL_LM)).eval()


@pytest.fixture(scope="session")
def plain_model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def adapted_model(make_model):
    return make_model({"4": AdapterSpec(2), "8": AdapterSpec(2)})
