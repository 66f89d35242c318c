"""Frozen weights mapped from one file: equal outputs, one file for equal models, nothing wrong ever mapped."""

from pathlib import Path

import pytest
import torch

from qalof.errors import BadInputError
from qalof.model import shared_memory as shared_base
from qalof.model.shared_memory import share_frozen, share_large
from qalof.model.switchable import build


@pytest.fixture
def small(monkeypatch):
    """The tests' tensors are small."""
    monkeypatch.setattr(shared_base, "SMALLEST", 1)
    monkeypatch.setattr(shared_base, "WORTH_SHARING", 1)


def made(families, specs, packed):
    model = build(families("gpt2").base, specs).eval()
    if packed:
        model.pack_for_inference([4, 8])
    return model


@torch.no_grad()
def logits(model, tokens):
    return [model(tokens).logits for bitmap in (8, 4) if model.set_bitmap(bitmap)]


@pytest.mark.parametrize("packed", [False, True])
def test_outputs_stay_and_a_second_model_maps_the_same_file(small, families, specs, tokens, tmp_path, packed):
    models = [made(families, specs, packed) for _ in range(2)]
    expected = logits(models[0], tokens)
    models[0] = made(families, specs, packed)
    counts = [share_frozen(model, tmp_path) for model in models]
    file = next(iter(tmp_path.glob("*.safetensors")))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert str(file) in Path("/proc/self/maps").read_text()
    frozen = sum(4 * p.numel() for p in models[0].parameters() if not p.requires_grad)
    held = sum(models[0].held_bytes().values())
    assert counts[0] == counts[1] == frozen + held
    for model in models:
        assert all(torch.equal(*pair) for pair in zip(logits(model, tokens), expected, strict=True))


def test_a_write_stays_in_its_own_model(small, families, specs, tokens, tmp_path):
    models = [made(families, specs, False) for _ in range(2)]
    for model in models:
        share_frozen(model, tmp_path)
    before = logits(models[1], tokens)
    for parameter in models[0].parameters():
        parameter.data.zero_()
    assert all(torch.equal(*pair) for pair in zip(logits(models[1], tokens), before, strict=True))
    share_frozen(made(families, specs, False), tmp_path)  # compares the file with a fresh model


def test_a_damaged_file_is_refused(small, families, specs, tmp_path):
    share_frozen(made(families, specs, False), tmp_path)
    file = next(iter(tmp_path.glob("*.safetensors")))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(BadInputError, match="delete the file"):
        share_frozen(made(families, specs, False), tmp_path)


def test_training_goes_on_beside_shared_weights(small, families, specs, tokens, tmp_path):
    gradients = []
    for share in (False, True):
        model = made(families, specs, False)
        if share:
            share_frozen(model, tmp_path)
        model.set_bitmap("w8a8")
        model.train()
        model(tokens, labels=tokens).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_small_models_and_folders_that_refuse_are_left_alone(families, specs, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    assert share_large(made(families, specs, False)) == 0
    assert not caplog.records
    monkeypatch.setattr(shared_base, "WORTH_SHARING", 1)
    monkeypatch.setattr(shared_base, "SMALLEST", 1)
    assert share_large(made(families, specs, False)) == 0
    assert "not shared" in caplog.text
