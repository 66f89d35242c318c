"""Fake models for the search: sites without weights, and an evaluator that is a formula."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from qalof.evaluation.result import Evaluation
from qalof.site import KvLayout, Site
from search.measurement import ScoresWanted
from search.scores.table import ScoreTable

SHAPES = {"attn.c_attn": (8, 24, 16), "attn.c_proj": (8, 8, 0), "mlp.c_fc": (8, 32, 0), "mlp.c_proj": (32, 8, 0)}


class FormulaEvaluator:
    """F1 falls with each site's rounding error, weighted by how sensitive that site is made to be."""

    def __init__(self, sites, sensitivity=None, at_once=1, limit=None, name="formula", per_example=False):
        self.sites, self.at_once, self.limit, self.name = sites, at_once, limit, name
        self.sensitivity = sensitivity or {site.name: 1 + index % 3 for index, site in enumerate(sites)}
        self.seen, self.measured, self.per_example = [], [], per_example
        self.fail_at = None

    def fingerprint(self):
        return self.name

    def evaluate(self, bitmaps, limit=None):
        return [self._evaluate(bitmap) for bitmap in bitmaps]

    def measure(self, wanted):
        """The formula's own numbers: a table of what each width adds to the loss, or the changes of the loss."""
        self.measured.append(wanted)
        # a collapsed model has a table nevertheless: gradients are taken at full precision
        finite = {site: s if s == s else 1.0 for site, s in self.sensitivity.items()}
        if isinstance(wanted, ScoresWanted):
            values = {
                role: {site: {w: s * 2.0 ** -float(w.split("g")[0]) for w in widths}
                       for site, s in finite.items()}
                for role, widths in wanted.choices.items() if role != "kv"
            }  # fmt: skip
            if "kv" in wanted.choices:
                values["kv"] = {site: dict.fromkeys(wanted.choices["kv"], 0.0) for site in self.sensitivity}
            return ScoreTable(wanted.score, "nats", "", values).to_json()
        changes = {
            site: {str(b.weight_width): self.sensitivity[site] * (2.0**-b.weight - 2.0 ** -wanted.bitmap[site].weight)
                   for b in layers}
            for site, layers in wanted.choices.items()
        }  # fmt: skip
        errors = [self.sensitivity[s] * (2.0**-b.weight + 2.0**-b.activation) for s, b in wanted.bitmap.items()]
        return {"kl": sum(errors), "rows": 4, "changes": changes}

    def _evaluate(self, bitmap):
        if self.fail_at is not None and len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(bitmap)
        errors = [self.sensitivity[site] * (2.0**-b.weight + 2.0**-b.activation) for site, b in bitmap.items()]
        f1 = 90 - 4 * sum(errors)
        per_example = {"f1": [f1 - 5, f1 + 5, f1 - 1, f1 + 1]} if self.per_example else {}
        return Evaluation({"f1": f1, "loss": sum(errors)}, 4, per_example)


class NextToken:
    """Mean log-likelihood of fixed random text."""

    metrics = ("likelihood",)

    def evaluate(self, model, *, limit=None, progress=None):
        ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(0))[:limit]
        with torch.no_grad():
            logits = model(ids).logits[:, :-1].log_softmax(-1)
        scores = logits.gather(-1, ids[:, 1:, None]).mean((1, 2)).tolist()
        return Evaluation({"likelihood": sum(scores) / len(scores)}, len(scores), {"likelihood": scores})

    def fingerprint(self):
        return "next-token"


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory):
    """Folder of a random two-block GPT-2 that reads the tokens of :class:`NextToken`."""
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(path)
    return str(path)


def make_sites(blocks):
    return tuple(
        Site(f"h.{block}.{leaf}", in_features, out_features, True, KvLayout(2, 4, ((8, 16), (16, 24))) if kv else None)
        for block in range(blocks)
        for leaf, (in_features, out_features, kv) in SHAPES.items()
    )


@pytest.fixture(scope="session")
def sites():
    """Two blocks of four sites."""
    return make_sites(2)


@pytest.fixture(scope="session")
def plain_sites():
    """Three equal sites of 64 weights: costs that can be worked out by hand."""
    return tuple(Site(name, 8, 8, False) for name in ("h.0.a", "h.0.b", "h.1.a"))


@pytest.fixture(scope="session")
def make_evaluator():
    return FormulaEvaluator
