"""A head that runs only at labeled tokens gives the logits, losses and gradients of one that runs at all of them."""

from contextlib import nullcontext

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import qalof
from qalof.evaluation.label_rows import labeled_windows
from qalof.evaluation.loglikelihood import Pair, score_pairs
from qalof.model.adapters import AdapterSpec
from qalof.model.language_head import head_at, language_head, rows_of
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import (
    AdversarialPrecision,
    AllBitmaps,
    Distillation,
    EmbeddingAttack,
    SwitchablePrecision,
)

LABELED = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
IDS = torch.arange(15).view(3, 5) + 3
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


class Seen:
    """How many tokens each call of a head was given."""

    def __init__(self, model):
        self.rows = []
        with head_at(model, LABELED):  # the hook that chooses comes first
            # this one is before the head too, since one that watches its output would ask for all tokens
            language_head(model).register_forward_pre_hook(self.count)

    def count(self, module, args):
        self.rows.append(args[0][..., 0].numel())


def logits_and_gradients(model, labeled):
    torch.manual_seed(1)
    model.zero_grad(set_to_none=True)
    with head_at(model, labeled):
        logits = rows_of(model(input_ids=IDS, attention_mask=MASK).logits, LABELED)
    logits.log_softmax(-1)[:, 7].sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_in_every_family_and_the_head_forgets_the_choice(family, specs):
    model = build(family.base, specs, SwitchSettings(head_mode="untied")).double()
    model.set_bitmap("w4a8")
    expected, gradients = logits_and_gradients(model, None)
    found, same = logits_and_gradients(model, LABELED)
    seen = Seen(model)
    torch.testing.assert_close(logits_and_gradients(model, LABELED)[0], expected, rtol=1e-12, atol=1e-12)
    assert seen.rows == [7]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert gradients
    torch.testing.assert_close(same, gradients, rtol=1e-9, atol=1e-12)
    assert model(input_ids=IDS).logits.shape[:2] == IDS.shape


def test_what_a_family_does_after_its_head_is_done_to_the_rows_too():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "final_logit_softcapping": 0.5}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, initializer_range=0.2)).double()
    expected = logits_and_gradients(model, None)[0]
    assert expected.abs().max() < 0.5
    torch.testing.assert_close(logits_and_gradients(model, LABELED)[0], expected, rtol=1e-12, atol=1e-12)


TENSOR, TOKEN = ({"method": "symmetric", "granularity": name} for name in ("tensor", "token"))
TOGETHER = {
    "one range": {"quantization": {"activation": {"quantizer": TENSOR}}},
    "outliers": {"quantization": {"activation": {"quantizer": TOKEN, "outlier_threshold": 1.0}}},
    "learned steps": {
        "quantization": {
            "activation": {"quantizer": {"method": "lsq", "granularity": "tensor", "gradient_count": "features"}},
            "widths": [8, 4],
        }
    },
    "observed ranges": {"quantization": {"activation": {"quantizer": TENSOR, "observer": "minmax"}}},
    "dropout": {},
    "a hook": {},
}


@pytest.mark.parametrize("why", TOGETHER)
def test_a_head_with_something_that_depends_on_all_its_tokens_is_given_all(random_model, why):
    specs = {"4": AdapterSpec(2, 4, dropout=0.5 if why == "dropout" else 0.0)}
    settings = SwitchSettings(head_mode="untied", **TOGETHER[why])
    model = build(BaseModel(random_model, qalof.task("language-modeling").head), specs, settings, seed=1).train()
    for parameter in model.trainable_groups()["4"].values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    head = language_head(model)
    model.set_bitmap(4)
    if why == "a hook":
        inner = next(part for part in head.modules() if isinstance(part, SwitchableLinear))
        inner.register_forward_hook(lambda module, args, output: output.mul(1 + output.numel()))
    if why == "observed ranges":
        qalof.model.calibration.calibrate(model, [{"input_ids": IDS, "attention_mask": MASK}])
    seen = Seen(model)
    expected, gradients = logits_and_gradients(model, None)
    found, same = logits_and_gradients(model, LABELED)
    assert seen.rows == [15, 15]
    assert torch.equal(found, expected)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(gradient, same[name]) for name, gradient in gradients.items())


def objective_of(kind, model):
    maps = [qalof.Bitmap.uniform(model.site_names, bits) for bits in (32, 8, 4)]
    if kind == "adversarial":
        return AdversarialPrecision(AllBitmaps(tuple(maps[1:])), model.sites, EmbeddingAttack())
    how = {"spnet": None, "cascade": Distillation(), "hidden": Distillation(1.0, feature_weight=0.1)}[kind]
    return SwitchablePrecision(maps, model.sites, how)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("language-modeling", "spnet"), *(("squad-completion", kind) for kind in ("cascade", "hidden", "adversarial"))],
)
def test_a_training_step_runs_the_head_at_labels_alone_and_learns_the_same(random_model, name, kind, monkeypatch):
    def step():
        specs = {bits: AdapterSpec(2, 4) for bits in ("8", "4")}
        settings = SwitchSettings(head_mode="untied", policy="none")
        model = build(BaseModel(random_model, task.head), specs, settings, seed=1).double()
        sizes = TrainSettings(steps=1, batch_size=4, micro_batch_size=2, seed=3)
        trainer = Trainer(model, task, objective_of(kind, model), sizes)
        seen = Seen(model)
        metrics = trainer.train_step()
        return metrics, [p.grad for group in trainer.groups.values() for p in group], seen.rows

    only = {"train_split": "train[:12]"} if name == "squad-completion" else {"stride": 32}
    task = qalof.task(name, data="tiny", max_length=64, **only)
    found, gradients, rows = step()
    monkeypatch.setattr(qalof.training.batch_rows, "head_at", lambda model, labeled: nullcontext())
    expected, wanted, before = step()
    assert found.losses == pytest.approx(expected.losses, rel=1e-12)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    torch.testing.assert_close(gradients, wanted, rtol=1e-9, atol=1e-14)
    assert len(rows) == len(before)
    assert sum(rows) < sum(before)


@pytest.mark.parametrize("name", ["squad-completion", "language-modeling"])
def test_a_loss_that_is_scored_runs_the_head_at_scored_tokens_alone(random_model, name, monkeypatch):
    task = qalof.task(name, data="tiny", max_length=64, **({"stride": 32} if name == "language-modeling" else {}))
    model = build(BaseModel(random_model, task.head)).eval()
    seen = Seen(model)
    if name == "squad-completion":  # generation runs the head too
        monkeypatch.setattr(task, "answers", lambda model, prompts, progress=None: [""] * len(prompts))
    scored = task.evaluate(model, limit=3).weights["loss"]
    assert sum(seen.rows) == sum(scored) > 0


def test_a_pair_is_scored_with_the_head_at_its_continuation_alone(random_model):
    model = build(BaseModel(random_model, qalof.task("language-modeling").head)).eval()
    seen = Seen(model)
    score_pairs(model, [Pair([3, 4], [5]), Pair([3], [4, 5, 6])], max_length=8, batch_size=2)
    assert seen.rows == [4]


def test_batches_of_labeled_windows_run_the_head_at_labels_alone(random_model):
    model = build(BaseModel(random_model, qalof.task("language-modeling").head)).eval()
    seen = Seen(model)
    for batch in labeled_windows([[3, 4, 5, 6], [7, 8]]):
        with torch.no_grad():
            found, labels = batch.run(model)
            expected, _ = batch.rows(model(**batch.inputs))
    torch.testing.assert_close(found, expected)
    assert labels.tolist() == [4, 5, 6, 8]
    assert seen.rows == [4, 4 * 2]


class Small(torch.nn.Module):
    """A model whose compilation takes no time."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32)

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        return self.head(self.body(ids).tanh())


def test_a_compiled_model_follows_the_choice_without_a_graph_per_length():
    torch._dynamo.reset()
    model, graphs = Small(), []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=counting)
    counts = []
    for length in (9, 7, 6, 8, 5, 10):
        ids = torch.arange(2 * length).view(2, length)
        labeled = torch.zeros(2, length).bool()
        labeled[:, length // 2 : -1] = True
        with head_at(model, labeled):
            found = compiled(ids)
        torch.testing.assert_close(found, model(ids)[labeled])
        counts.append(len(graphs))
    assert counts[-1] == counts[2]
    assert compiled(ids).shape == (2, 10, 32)
