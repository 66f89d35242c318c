"""Each score is its formula: computed a second time from an unpatched model, by other means, or as a limit."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import qalof
from qalof.evaluation.hessian import trace_probe
from qalof.evaluation.kl import divergence, reference_of
from qalof.evaluation.label_rows import labeled_windows
from qalof.evaluation.site_damage import sampled_labels
from qalof.layer_bits import LayerBits
from qalof.model.adapters import AdapterSpec
from qalof.site import EmbeddingMode, HeadMode, KvLayout, Site
from search.scores.compute import compute
from search.scores.measures import non_increasing
from search.scores.output_error import added, error_sums, to_json

BITS = 3
CHOICES = {"weight": (str(BITS),)}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def seen(random_model, windows, model):
    """From a plain transformers model: per site its weight's error, and inputs and gradients over all tokens."""

    def get(labels):
        plain = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float64).eval()
        inputs, gradients, rows = {}, {}, 0
        for name in model.site_names:
            layer = plain.transformer.get_submodule(name)
            layer.register_forward_hook(lambda m, x, y, n=name: (inputs.setdefault(n, []).append(x[0].detach()), y)[1])
            layer.register_full_backward_hook(lambda m, gi, go, n=name: gradients.setdefault(n, []).append(go[0]))
        for index, batch in enumerate(labeled_windows(windows, 21)):
            logits, true = batch.rows(plain(**batch.inputs))
            generator = torch.Generator().manual_seed(random.Random(f"0/{index}").getrandbits(63))
            chosen = sampled_labels(logits, generator) if labels == "model" else true
            cross_entropy(logits, chosen, reduction="sum").backward()
            rows += len(true)
        found = {}
        for switch in model.switches:
            name = switch.site.name
            error = switch.linear.quantize_weight(switch.linear.weight, BITS) - switch.linear.weight
            x, g = (torch.cat([each.flatten(0, -2) for each in kept[name]]) for kept in (inputs, gradients))
            found[name] = (x @ error.T, g)
        return found, rows

    return get


FORMULAS = {
    "fisher": ("model", lambda e, g, rows: (g * e).square().sum() / (2 * rows)),
    "fisher_token": ("model", lambda e, g, rows: (g * e).sum(-1).square().sum() / (2 * rows)),
    "fisher_norm": ("model", lambda e, g, rows: (g.square().sum(-1) * e.square().mean(-1)).sum() / (2 * rows)),
    "modelopt": ("data", lambda e, g, rows: (g * e).square().sum()),
    "taylor": ("data", lambda e, g, rows: (g * e).sum().abs() / rows),
}


@pytest.mark.parametrize("score", FORMULAS)
def test_a_score_is_its_formula_on_an_unpatched_model(model, windows, seen, score):
    labels, formula = FORMULAS[score]
    found = compute(model, windows, score, CHOICES)
    expected, rows = seen(labels)
    for name, (error, gradient) in expected.items():
        value = float(formula(error, gradient, rows))
        assert found.damage("weight", name, str(BITS)) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("score", ["mse", "mae", "relative_mse"])
def test_output_errors_are_those_of_the_systems_file(model, windows, score):
    """S2's numbers come from code of their own, by site and layer bits."""
    layer_bits = {LayerBits(4, 32): "weight", LayerBits(32, 4): "activation", LayerBits(32, 32, 4): "kv"}
    batches = labeled_windows(windows, 4)
    errors = to_json(added(error_sums(model, batch.inputs, list(layer_bits)) for batch in batches), layer_bits)
    table = compute(model, windows, score, dict.fromkeys(layer_bits.values(), ("4",)))
    for role, sites in table.values.items():
        for site, choices in sites.items():
            expected = errors[site][role][{"relative_mse": "rel"}.get(score, score)]
            assert choices["4"] == pytest.approx(expected, rel=1e-6), (role, site)


@pytest.mark.parametrize(
    "settings",
    [{"embedding": EmbeddingMode.SITE}, {"head_mode": HeadMode.TIED_BOTH}, {"head_mode": HeadMode.TIED_VIEW}],
)
def test_first_order_is_the_derivative_of_the_loss_along_the_error(make_model, windows, settings):
    """Of every weight, those that two modules multiply by included."""
    model = make_model(dtype=torch.float64, **settings)
    table = compute(model, windows, "taylor", CHOICES)
    (batch,) = labeled_windows(windows, 4)
    for switch in model.switches:
        weight, linear = switch.linear.weight, switch.linear
        tied_view = switch.site.is_head and settings.get("head_mode") == HeadMode.TIED_VIEW
        error = linear.quantize_weight(weight, BITS) - weight
        weight.requires_grad_(True)
        if tied_view:  # the embedding looks up the weight as it is: its part of the gradient does not count
            hidden = model.model.transformer(**batch.inputs).last_hidden_state.detach()
            outputs = type("Outputs", (), {"logits": hidden @ weight.T})
        else:
            outputs = model(**batch.inputs)
        logits, labels = batch.rows(outputs)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), weight)
        weight.requires_grad_(False)
        expected = abs(float((gradient * error).sum()))
        assert table.damage("weight", switch.site.name, str(BITS)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("role", ["activation", "kv"])
def test_inputs_and_caches_are_rounded_in_their_place(model, windows, role):
    """To first order in the error, the loss moves along it: by a model that blends the rounded tensor in."""
    table = compute(model, windows, "taylor", {role: ("4",)})
    (batch,) = labeled_windows(windows, 4)
    bits = "w32a4" if role == "activation" else "w32a32kv4"

    def loss(site, share):
        switch = next(each for each in model.switches if each.site.name == site)
        outer = switch.lora or switch.linear
        with model.at(32) as reference:
            changed = reference.replace({site: bits})

            def blend(module, inputs, output):
                handle.remove()
                with model.at(changed):
                    rounded = outer(*inputs)
                return output + share * (rounded - output)

            handle = outer.register_forward_hook(blend)
            with torch.no_grad():
                logits, labels = batch.rows(model(**batch.inputs))
            return float(cross_entropy(logits, labels))

    for site in list(table.values[role])[:3]:
        slope = (loss(site, 1e-4) - loss(site, -1e-4)) / 2e-4
        assert table.damage(role, site, "4") == pytest.approx(abs(slope), rel=1e-5)


def test_an_adapter_takes_part_at_its_width(make_model, windows):
    model = make_model({"4": AdapterSpec(2), "8": AdapterSpec(2)}, dtype=torch.float64)
    table = compute(model, windows, "mse", {"weight": ("4", "8")})
    (batch,) = labeled_windows(windows, 4)
    real = batch.inputs["attention_mask"].bool()
    site = model.switches[0]
    outputs = {}
    for bits in ("32", "w4", "w8"):
        with model.at(model.bitmap.replace({site.site.name: bits})), torch.no_grad():
            handle = site.lora.register_forward_hook(lambda m, x, y, b=bits: outputs.__setitem__(b, y[real]))
            model(**batch.inputs)
            handle.remove()
    for bits in ("4", "8"):
        expected = float((outputs[f"w{bits}"] - outputs["32"]).square().mean())
        assert table.damage("weight", site.site.name, bits) == pytest.approx(expected, rel=1e-9)


def test_kl_is_that_of_the_whole_model(model, windows):
    table = compute(model, windows, "kl", {"weight": ("4",), "kv": ("4",)})
    batches = labeled_windows(windows, 21)
    reference = reference_of(model, batches)
    for role, bits in (("weight", "w4"), ("kv", "w32a32kv4")):
        for site in table.values[role]:
            found = divergence(model, model.bitmap.replace({site: bits}), reference)
            assert table.damage(role, site, "4") == float(found.kl.mean())


def test_a_metric_is_that_of_the_task(random_model, make_model):
    model = make_model()
    task = qalof.task("language-modeling", source=random_model, max_length=32, stride=16)
    table = compute(model, task, "metric", {"weight": ("2", "4")}, reference=8, metric="accuracy", examples=6)
    assert table.unit == "%"
    with model.at(8) as reference:
        before = task.evaluate(model, limit=6)["accuracy"]
        for site in model.site_names:
            for choice in ("2", "4"):
                with model.at(reference.replace({site: f"w{choice}a8kv8"})):
                    expected = before - task.evaluate(model, limit=6)["accuracy"]
                assert table.damage("weight", site, choice) == expected
    assert table.details["metric"] == "accuracy"


def test_a_probe_is_the_curvature_along_its_signs(model, windows):
    batches = labeled_windows(windows, 2)
    generator = torch.Generator().manual_seed(5)
    found = trace_probe(model, batches, generator)
    weights = [switch.linear.weight for switch in model.switches]
    again = torch.Generator().manual_seed(5)
    signs = [(2 * torch.randint(0, 2, w.shape, generator=again, dtype=torch.int8) - 1).to(w.dtype) for w in weights]

    def gradients(step):
        with torch.no_grad():
            for weight, v in zip(weights, signs, strict=True):
                weight.add_(step * v)
        for weight in weights:
            weight.requires_grad_(True)
        rows = [batch.rows(model(**batch.inputs)) for batch in batches]
        loss = cross_entropy(torch.cat([r for r, _ in rows]), torch.cat([labels for _, labels in rows]))
        kept = torch.autograd.grad(loss, weights)
        for weight in weights:
            weight.requires_grad_(False)
        with torch.no_grad():
            for weight, v in zip(weights, signs, strict=True):
                weight.sub_(step * v)
        return kept

    up, down = gradients(1e-6), gradients(-1e-6)
    for name, v, more, less in zip(model.site_names, signs, up, down, strict=True):
        assert found[name] == pytest.approx(float((v * (more - less)).sum() / 2e-6), rel=1e-3, abs=1e-4)


def test_labels_are_drawn_from_the_distribution_whatever_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 7, generator=generator).expand(20000, 7)
    drawn = sampled_labels(logits, torch.Generator().manual_seed(1))
    shares = torch.bincount(drawn, minlength=7) / len(drawn)
    assert torch.allclose(shares, logits[0].softmax(-1), atol=0.015)
    certain = torch.full((5, 3), -1e9)
    certain[:, 2] = 0
    assert sampled_labels(certain, generator).tolist() == [2] * 5


def test_scores_do_not_rise_with_bits_within_a_group_size():
    given = {"weight": {"h": {"2": 1.0, "3": 2.0, "4": 0.5, "2g32": 0.1, "3g32": 0.4}}}
    expected = {"weight": {"h": {"2": 2.0, "3": 2.0, "4": 0.5, "2g32": 0.4, "3g32": 0.4}}}
    assert non_increasing(given, [Site("h", 8, 8, False)]) == expected


def test_scores_do_not_rise_where_neither_keys_nor_values_have_fewer_bits():
    both = KvLayout(1, 4, ((0, 4), (4, 8)))
    sites = [Site("a", 8, 8, False, both), Site("k", 8, 4, False, KvLayout(1, 4, ((0, 4),), holds=("keys",)))]
    given = {"4": 1.0, "k4v8": 0.2, "k8v4": 2.0, "8": 0.5, "k2v16": 0.1}
    found = non_increasing({"kv": {"a": given, "k": given}}, sites)["kv"]
    assert found["a"] == {"4": 2.0, "k4v8": 0.5, "k8v4": 2.0, "8": 0.5, "k2v16": 0.1}
    # where keys alone are made, all that counts is their bits
    assert found["k"] == {"4": 2.0, "k4v8": 2.0, "k8v4": 2.0, "8": 2.0, "k2v16": 2.0}


@pytest.mark.parametrize("score", ["fisher", "mse", "kl"])
def test_a_projection_of_keys_alone_is_scored_at_their_bits_and_one_of_values_at_theirs(llama, windows, score):
    found = compute(llama, windows[:1], score, {"kv": ("4", "k4v8", "k8v4", "8")}).values["kv"]
    for name, by_choice in found.items():
        first, second = ("k8v4", "k4v8") if name.endswith("k_proj") else ("k4v8", "k8v4")
        assert by_choice[first] == by_choice["8"]
        assert by_choice[second] == by_choice["4"]
        assert by_choice["4"] > by_choice["8"]


@pytest.mark.parametrize("held", ["values", "codes", "packed", "int8"])
def test_no_rounded_weight_is_kept(make_model, windows, held):
    model = make_model(quantization={"held": held})
    for score in ("fisher", "kl", "hessian"):
        compute(model, windows[:1], score, {"weight": ("3", "4")})
        assert model.held_bytes() == {}


@pytest.mark.slow
def test_on_a_trained_model_fisher_foretells_kl():
    model = qalof.build(qalof.model.pretrained.BaseModel("tiny", qalof.model.pretrained.HeadKind.CAUSAL_LM))
    task = qalof.task("language-modeling", max_length=128, stride=64)
    choices = {"weight": ("3", "4", "6")}
    fisher, kl = (compute(model, task, score, choices, examples=8) for score in ("fisher", "kl"))
    for choice in choices["weight"]:
        pairs = [
            (fisher.damage("weight", site, choice), kl.damage("weight", site, choice)) for site in model.site_names
        ]
        first, second = np.array(pairs).T
        assert spearmanr(first, second).statistic > 0.7, choice
        if choice == "6":
            assert 0.5 < first.sum() / second.sum() < 2
