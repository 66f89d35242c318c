"""What tests of several wings share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small run slower on more threads, and sums in another order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-block GPT-2 with random weights and the shipped model's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from qalof.model.pretrained import load_tokenizer
    from qalof.tiny import MODEL_DIR

    folder: Path = tmp_path_factory.mktemp("random_model")
    tokenizer = load_tokenizer(str(MODEL_DIR))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
