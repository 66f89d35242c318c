"""llama.cpp as a reader of exported files, and models of every family that may be exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.tiny import MODEL_DIR

LLAMA = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.2, "vocab_size": 1544,
}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(n_positions=256, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2, vocab_size=1544),
    "llama": LlamaConfig(**LLAMA),
    "llama with biases": LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**LLAMA, tie_word_embeddings=True),
}


@dataclass(frozen=True)
class Reader:
    """A file that llama.cpp has opened: one thread, F32 cache."""

    model: Any

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(tokens,) -> (tokens, vocabulary)."""
        self.model.reset()
        self.model.eval(tokens.tolist())
        return torch.from_numpy(np.array(self.model.scores[: len(tokens)]))

    def tokenize(self, text: str, add_bos: bool = False) -> list[int]:
        found: list[int] = self.model.tokenize(text.encode(), add_bos=add_bos, special=True)
        return found


@pytest.fixture(scope="session")
def llama_cpp():
    """The package, told to leave weights as the file has them.

    By default it repacks blocks for what the processor has; where that is AMX, version 0.3.36 crashed at small
    layers (a segmentation fault), and other kernels add up in another order.
    """
    package = pytest.importorskip("llama_cpp", reason="make test-runtime installs llama-cpp-python")
    default = package.llama_model_default_params

    def plain():
        parameters = default()
        parameters.use_extra_bufts = False
        return parameters

    package.llama_cpp.llama_model_default_params = plain
    yield package
    package.llama_cpp.llama_model_default_params = default


@pytest.fixture
def read(llama_cpp):
    """``read(path, lora)``: a :class:`Reader`."""
    opened = []

    def of(path: Path, lora: Path | None = None, **options: Any) -> Reader:
        chosen = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": 0, "type_v": 0} | options
        adapter = None if lora is None else str(lora)
        model = llama_cpp.Llama(str(path), logits_all=True, verbose=False, lora_path=adapter, **chosen)
        opened.append(model)
        return Reader(model)

    yield of
    for model in opened:
        model.close()


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Family -> folder of a random model with the shipped tokenizer; biases and norms are drawn too."""
    folders = {"tiny": str(MODEL_DIR)}
    tokenizer = load_tokenizer(str(MODEL_DIR))
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp("base")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture
def switchable(bases):
    """``switchable(family, **settings)``: with adapters 4 and 8 that do something."""

    def of(family: str, **settings: Any):
        specs = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}
        model = build(BaseModel(bases[family], HeadKind.CAUSAL_LM), specs, SwitchSettings(**settings)).eval()
        generator = torch.Generator().manual_seed(1)
        for group in model.trainable_groups().values():
            for parameter in group.values():
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
        return model

    return of


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(str(MODEL_DIR))
