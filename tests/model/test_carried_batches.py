"""Calibration that is carried from block to block finds what passes through the whole model find, in fewer runs."""

import pytest
import torch

from qalof.model.blocks import blocks_of
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.post_training.carried_batches import CarriedBatches
from qalof.post_training.error_compensation import GptqSettings
from qalof.post_training.gptq import compensate
from qalof.site import HeadMode


def batches(rows=2):
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(rows, 10, dtype=torch.int64)
    mask[1, 6:] = 0
    return [{"input_ids": torch.randint(3, 60, (rows, 10), generator=generator), "attention_mask": mask} for _ in "ab"]


def compensated(model, settings):
    """The errors, the outputs with the codes found, and how often the first layer of each block ran."""
    runs = [0] * len(blocks_of(model))
    first = [
        next(layer for layer in block.modules() if isinstance(layer, torch.nn.Linear)) for block in blocks_of(model)
    ]
    for index, layer in enumerate(first):
        layer.register_forward_hook(lambda *args, index=index: runs.__setitem__(index, runs[index] + 1))
    errors = compensate(model, batches(), [3], settings)
    model.set_bitmap("w3a32kv32")
    counted = list(runs)
    with torch.no_grad():
        return errors, [model(**batch).logits for batch in batches()], counted


@pytest.mark.parametrize("sequence", ["block", "site"])
def test_carried_passes_find_what_whole_passes_find_bit_for_bit(family, monkeypatch, sequence):
    settings = GptqSettings(sequence=sequence)
    model = build(family.base, settings=SwitchSettings(head_mode=HeadMode.UNTIED)).eval()
    errors, outputs, _ = compensated(model, settings)
    monkeypatch.setattr(CarriedBatches, "_run", lambda self, index, before: self.model(**self.batches[index]))
    whole = build(family.base, settings=SwitchSettings(head_mode=HeadMode.UNTIED)).eval()
    expected, wanted, _ = compensated(whole, settings)
    assert errors == expected
    assert all(map(torch.equal, outputs, wanted))


def test_a_block_runs_once_to_be_rounded_and_once_more_to_be_carried(families):
    *_, runs = compensated(build(families("llama").base).eval(), GptqSettings())
    assert runs == [2 * len(batches()), len(batches())]
