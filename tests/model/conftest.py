"""Small random models of each family that is tested, all with dropout off and weights wide enough to matter."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48}
QUIET = {"attention_dropout": 0.0, "hidden_dropout": 0.0}

CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    "llama": lambda: LlamaConfig(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8),
    "opt": lambda: OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=16, dropout=0.0, init_std=0.2),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, intermediate_size=48, **QUIET),
    "phi": lambda: PhiConfig(**GROUPED, resid_pdrop=0, embd_pdrop=0, **QUIET),
    "phi3": lambda: Phi3Config(**GROUPED, resid_pdrop=0, embd_pdrop=0, attention_dropout=0.0),
}  # fmt: skip
BLOCKS = {
    "gpt2": ("h", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    "gpt_neox": (
        "layers", ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    ),
    "opt": (
        "decoder.layers", [*(f"self_attn.{p}" for p in ("k_proj", "v_proj", "q_proj", "out_proj")), "fc1", "fc2"],
    ),
    "phi": ("layers", [*(f"self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "dense")), "mlp.fc1", "mlp.fc2"]),
    "phi3": ("layers", ["self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"]),
}  # fmt: skip
LLAMA_LIKE = (
    "layers",
    [*(f"self_attn.{p}_proj" for p in "qkvo"), *(f"mlp.{p}_proj" for p in ("gate", "up", "down"))],
)


def block_sites(family):
    """Names of all sites that lie in blocks."""
    stem, leaves = BLOCKS.get(family, LLAMA_LIKE)
    return {f"{stem}.{block}.{leaf}" for block in range(2) for leaf in leaves}


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """``families(name)``: that family's folder, site names, and models made of it."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            folder = str(tmp_path_factory.mktemp(name))
            AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(folder)
            base = BaseModel(folder, HeadKind.CAUSAL_LM)
            made[name] = SimpleNamespace(name=name, folder=folder, base=base, sites=block_sites(name))
        return made[name]

    return get


@pytest.fixture(params=list(CONFIGS))
def family(request, families):
    """Each family in turn."""
    return families(request.param)


@pytest.fixture(scope="session")
def stirred():
    """``stirred(model)``: the same, with trainable parameters drawn at random, so that every branch does something."""

    def stir(model, seed=1, size=0.1):
        generator = torch.Generator().manual_seed(seed)
        for group in model.trainable_groups().values():
            for parameter in group.values():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * size)
        return model

    return stir


@pytest.fixture(scope="session")
def specs():
    return {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}


@pytest.fixture
def switchable(family, specs, stirred):
    """A switchable model of each family, its adapters stirred."""
    return stirred(build(family.base, specs))


@pytest.fixture(scope="session")
def tokens():
    return torch.randint(3, VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(0))
