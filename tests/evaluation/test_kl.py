"""KL without logits is the KL of the logits, per row, whatever the head; a bitmap's KL to itself is zero."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from qalof.errors import BadInputError
from qalof.evaluation.kl import batch_scores, divergence, divergence_of, reference_of
from qalof.evaluation.label_rows import LabeledBatch, labeled_windows
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.site import EmbeddingMode, HeadMode

BITMAPS = ["w8", "w3", "w4a8kv8", "striped84"]
HEADS = {
    "none": {},
    "tied_view": {"head_mode": HeadMode.TIED_VIEW},
    "untied": {"head_mode": HeadMode.UNTIED},
    "tied_both": {"head_mode": HeadMode.TIED_BOTH},
    "embedding": {"embedding": EmbeddingMode.SITE},
}


def make(folder, head="none", adapters=None, kind=HeadKind.CAUSAL_LM, dtype=torch.float64):
    model = build(BaseModel(folder, kind), adapters or {}, SwitchSettings(**HEADS[head]))
    for group in model.trainable_groups().values():
        for parameter in group.values():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.to(dtype).eval()


def windows():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in (12, 7, 12, 2)]


def plain(model, batches, bitmap):
    """Log-probabilities (rows, words) and labels, from the model's own logits."""
    with model.at(bitmap, eval=True), torch.no_grad():
        found = [batch.rows(model(**batch.inputs)) for batch in batches]
    return torch.cat([logits.log_softmax(-1) for logits, _ in found]), torch.cat([labels for _, labels in found])


@pytest.mark.parametrize("head", HEADS)
def test_kl_and_nll_are_those_of_the_logits(random_model, head):
    model, batches = make(random_model, head), labeled_windows(windows(), 3)
    reference = reference_of(model, batches)
    p, labels = plain(model, batches, 32)
    for bitmap in BITMAPS:
        before = model.bitmap
        found = divergence(model, bitmap, reference)
        assert model.bitmap == before
        q, _ = plain(model, batches, bitmap)
        np.testing.assert_allclose(found.kl, (p.exp() * (p - q)).sum(-1), rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(found.nll, -q.gather(1, labels[:, None])[:, 0], rtol=1e-9)
        assert len(found) == reference.rows == sum(len(window) - 1 for window in windows())
        assert (found.kl >= 0).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("reference", [32, "w4a8kv8"])
def test_a_bitmap_does_not_differ_from_itself(random_model, head, reference):
    model, batches = make(random_model, head, dtype=torch.float32), labeled_windows(windows())
    found = divergence(model, reference, reference_of(model, batches, reference))
    assert (found.kl == 0).all()


def test_adapters_take_part_at_their_widths(random_model):
    adapters = {"4": AdapterSpec(2), "8": AdapterSpec(2)}
    model, batches = make(random_model, "tied_view", adapters), labeled_windows(windows())
    found = divergence(model, "striped84", reference_of(model, batches, 8))
    p, q = plain(model, batches, 8)[0], plain(model, batches, "striped84")[0]
    np.testing.assert_allclose(found.kl, (p.exp() * (p - q)).sum(-1), rtol=1e-8)


def test_small_divergences_keep_three_digits_in_float32():
    generator = torch.Generator().manual_seed(0)
    logits, d = (torch.randn(4, 1000, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(4)
    for size in (1e-4, 1e-2, 1.0, 40.0):
        exact, _ = divergence_of(logits, size * d, labels)
        found, _ = divergence_of(logits.float(), (size * d).float(), labels)
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", [HeadKind.SPAN, HeadKind.CLASSIFIER], ids=str)
def test_a_model_with_another_head_keeps_its_few_logits(random_model, kind):
    extra = {"labels": 3} if kind is HeadKind.CLASSIFIER else {}
    model = build(BaseModel(random_model, kind, **extra), {}).to(torch.float64).eval()
    inputs = {"input_ids": torch.tensor([windows()[0]]), "attention_mask": torch.ones(1, 12, dtype=torch.int64)}

    def rows(outputs):
        logits = (
            outputs.logits if kind is HeadKind.CLASSIFIER else torch.cat([outputs.start_logits, outputs.end_logits])
        )
        return logits, torch.ones(len(logits), dtype=torch.int64)

    batches = [LabeledBatch(inputs, rows)]
    found = divergence(model, "w3", reference_of(model, batches))
    p, q = plain(model, batches, 32)[0], plain(model, batches, "w3")[0]
    np.testing.assert_allclose(found.kl, (p.exp() * (p - q)).sum(-1), rtol=1e-8)
    np.testing.assert_allclose(found.nll, -q[:, 1], rtol=1e-8)


def test_the_gradient_is_that_of_the_kl_of_the_logits(random_model):
    model, (batch,) = make(random_model), labeled_windows(windows())
    reference = reference_of(model, [batch])
    model.set_bitmap("w4")
    weight = model.switches[0].linear.weight
    weight.requires_grad_(True)
    batch_scores(model, reference, 0)[0].mean().backward()
    found, weight.grad = weight.grad, None
    p = plain(model, [batch], 32)[0]
    q = batch.rows(model(**batch.inputs))[0].log_softmax(-1)
    (p.exp() * (p - q)).sum(-1).mean().backward()
    torch.testing.assert_close(found, weight.grad, rtol=1e-8, atol=1e-14)


def test_windows_predict_every_token_but_their_first(random_model):
    model = make(random_model)
    (batch,) = labeled_windows(windows())
    logits, labels = batch.rows(model(**batch.inputs))
    assert labels.tolist() == [token for window in windows() for token in window[1:]]
    alone = [model(input_ids=torch.tensor([window])).logits[0, :-1] for window in windows()]
    expected = cross_entropy(torch.cat(alone), labels)
    torch.testing.assert_close(cross_entropy(logits, labels), expected, rtol=1e-9, atol=0)
    assert batch.tokens == sum(map(len, windows()))


@pytest.mark.parametrize("given", [[], [[5, 6], [7]], torch.empty(0, 4, dtype=torch.int64)])
def test_windows_without_anything_to_predict_are_refused(given):
    with pytest.raises(BadInputError, match="at least two tokens each"):
        labeled_windows(given)


def test_no_batch_and_logits_that_change_after_the_head_are_refused(random_model):
    model = make(random_model)
    with pytest.raises(BadInputError, match="at least one batch"):
        reference_of(model, [])
    forward = model.model.forward

    def capped(**inputs):
        outputs = forward(**inputs)
        outputs.logits = torch.tanh(outputs.logits)
        return outputs

    model.model.forward = capped
    with pytest.raises(BadInputError, match="logits as they leave the head"):
        reference_of(model, labeled_windows(windows()))
