"""What a row of a batch is scored does not depend on its company: on other rows, their order, or padding.

Models are float64, so sums in another order do not tip a number over to the next level.  What is left is compared to
:data:`TOLERANCE`, relative.
"""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.calibration import calibrate
from qalof.model.layers.real_tokens import RealTokens, Shown
from qalof.model.quantizer_state import quantizers_of
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.post_training.gptq import compensate
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.observers import ObserverSpec
from qalof.quantization.options import QuantizerOptions
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

TOLERANCE = 1e-6
LENGTHS = (9, 4, 7, 1, 12, 9, 3, 6)
ROLES = ("activation", "kv")
GRANULARITIES = tuple(
    {"granularity": name, "group_size": 8 if name == "group" else None} for name in ("tensor", "token", "group", "head")
)
OBSERVERS = ("minmax", "ema", "percentile", "mse")


def width_of(quantizer):
    """Few bits, so that a wrong range shows."""
    for bits in (4, 8, 2, 16):
        try:
            quantizer.check_bits(bits)
        except BadInputError:
            continue
        return bits
    raise AssertionError(quantizer)


def schemes():
    """Every quantizer at every granularity, for inputs and for the cache, that a scheme takes."""
    found = {}
    for role in ROLES:
        for method in QuantizerOptions.registry:
            for granularity in GRANULARITIES:
                # how a range is observed does not depend on the method: each kind once, and each method once
                for observer in (None, *(OBSERVERS if method == "symmetric" else OBSERVERS[:1])):
                    name = f"{role} {method} {granularity['granularity']} {observer or 'dynamic'}"
                    try:
                        options = {"gradient_count": "features"} if method == "lsq" else {}
                        quantizer = Quantizer.from_json({"method": method} | granularity | options)
                        bits = width_of(quantizer)
                        if role == "activation":  # the model has no heads there
                            quantizer.check_shape(32)
                        tensor = TensorScheme(quantizer, observer=observer and ObserverSpec(kind=observer))
                        found[name] = (QuantizationScheme(**{role: tensor}, widths=(bits,)), role, bits)
                    except BadInputError:
                        continue
    for granularity in ("token", "tensor"):
        quantizer = Symmetric(granularity=granularity)
        # about half of the features stay in half precision
        found[f"outliers {granularity}"] = (
            QuantizationScheme(activation=TensorScheme(quantizer, outlier_threshold=1.5)), "activation", 4,
        )  # fmt: skip
    return found


SCHEMES = schemes()
STATEFUL = [name for name in SCHEMES if name.endswith(OBSERVERS) or " lsq " in name]


def rows():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 64, (length,), generator=generator) for length in LENGTHS]


def padded(rows, side="right", spare=0):
    """Inputs of a batch; ``spare`` tokens more of padding than needed, which is not the pad token but any."""
    longest = max(map(len, rows)) + spare
    ids = torch.full((len(rows), longest), 63)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, (id_row, mask_row) in zip(rows, zip(ids, mask, strict=True), strict=True):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        id_row[place], mask_row[place] = row, 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


@torch.no_grad()
def scores(model, rows, batch_size, order=None, **how):
    """Of each row, the sum of its next tokens' log-probabilities and of the last logits."""
    order = list(range(len(rows))) if order is None else order
    found = {}
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        inputs = padded([rows[index] for index in batch], **how)
        if model.model.config.model_type == "opt":  # finds its positions from the mask
            del inputs["position_ids"]
        logits = model(**inputs).logits.log_softmax(dim=-1)
        for index, one, mask in zip(batch, logits, inputs["attention_mask"].bool(), strict=True):
            real, row = one[mask], rows[index]
            found[index] = (real[:-1].gather(1, row[1:, None]).sum() + real[-1].square().sum()).item()
    return torch.tensor([found[index] for index in range(len(rows))], dtype=torch.float64)


def made(families, family, scheme, role, bits):
    heads = "head" if scheme.kv.quantizer.granularity == "head" else "token"
    settings = SwitchSettings(quantization=scheme, kv_granularity=heads)
    model = build(families(family).base, settings=settings).double().eval()
    model.set_bitmap(f"w32a{bits}kv32" if role == "activation" else f"w32a32kv{bits}")
    return model


def calibrated(model, batches):
    if any(True for _ in quantizers_of(model)):
        calibrate(model, batches, [model.bitmap])
    return model


def assert_alike(one, other):
    torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_score_does_not_depend_on_other_rows_their_order_or_padding(families, name):
    scheme, role, bits = SCHEMES[name]
    texts = rows()
    model = calibrated(made(families, "gpt2", scheme, role, bits), [padded(texts)])
    alone = scores(model, texts, 1)
    assert_alike(scores(model, texts, 8), alone)
    assert_alike(scores(model, texts, 3, order=[5, 0, 7, 2, 6, 1, 4, 3]), alone)
    assert_alike(scores(model, texts, 8, side="left"), alone)
    assert_alike(scores(model, texts, 8, spare=5), alone)
    model.set_bitmap("32")
    assert not torch.allclose(scores(model, texts, 8), alone, rtol=10 * TOLERANCE), "nothing was rounded"


@pytest.mark.parametrize("name", ["activation symmetric tensor dynamic", "outliers token", "outliers tensor"])
@pytest.mark.parametrize("family", ["opt", "llama", "gpt_neox", "phi"])
def test_rows_are_told_apart_in_every_family(families, family, name):
    model = made(families, family, *SCHEMES[name])
    texts = rows()
    alone = scores(model, texts, 1)
    assert_alike(scores(model, texts, 8), alone)
    assert_alike(scores(model, texts, 3, spare=2), alone)


@pytest.mark.parametrize("name", STATEFUL)
def test_ranges_and_steps_are_found_alike_whatever_the_padding(families, name):
    scheme, role, bits = SCHEMES[name]
    texts = rows()
    plain, right, left = (
        calibrated(made(families, "gpt2", scheme, role, bits), [padded(texts, side, spare)])
        for side, spare in (("right", 0), ("right", 6), ("left", 3))
    )
    assert_same_state(plain, right)
    assert_same_state(plain, left)


def assert_same_state(one, other):
    found = [{path: module.state_dict() for path, module in quantizers_of(model)} for model in (one, other)]
    assert found[0]
    assert found[0].keys() == found[1].keys()
    for path, state in found[0].items():
        torch.testing.assert_close(found[1][path], state, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize(("family", "first"), [("gpt2", "h.0.attn.c_attn"), ("opt", "layers.0.self_attn.k_proj")])
def test_an_observed_range_is_that_of_all_rows_one_by_one(families, family, first):
    """At the first layer: those behind it see what ranges that are still growing have rounded."""
    scheme, role, bits = SCHEMES["activation symmetric tensor minmax"]

    def high(batches):
        model = calibrated(made(families, family, scheme, role, bits), [inputs_of(family, one) for one in batches])
        (state,) = (module.state_dict() for path, module in quantizers_of(model) if first in path)
        return state["ranges.high_4"]

    texts = rows()
    torch.testing.assert_close(high([padded([text]) for text in texts]), high([padded(texts, spare=9)]))


def inputs_of(family, batch):
    return {k: v for k, v in batch.items() if k != "position_ids" or family != "opt"}


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_gptq_finds_the_same_codes_whatever_the_padding(families, family):
    texts = rows()

    def codes(**how):
        model = build(families(family).base).double()
        model.set_bitmap("w4a32kv32")
        compensate(model, [inputs_of(family, padded(texts, **how))], [4])
        return [switch.linear.fixed_codes[4.0].codes for switch in model.switches]

    plain = codes()
    for other in (codes(spare=7), codes(side="left", spare=3)):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("name", ["activation symmetric tensor dynamic", "outliers token"])
def test_recomputed_blocks_know_the_padding_of_their_forward(families, name):
    scheme, _, bits = SCHEMES[name]
    settings, texts = SwitchSettings(quantization=scheme), rows()

    def gradients(recompute):
        model = build(families("gpt2").base, {"8": AdapterSpec(2, 4)}, settings).train()
        model.set_bitmap(f"w32a{bits}kv32")
        if recompute:
            model.recompute_activations()
        batch = padded(texts, spare=3)
        logits = model(**batch).logits
        (logits.square() * batch["attention_mask"].unsqueeze(-1)).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, again)


@pytest.mark.parametrize("name", ["activation symmetric tensor dynamic", "outliers token"])
def test_generated_tokens_do_not_depend_on_other_prompts(families, name):
    model = made(families, "gpt2", *SCHEMES[name])
    texts = rows()

    def written(prompts):
        batch = padded(prompts, side="left")
        out = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=6, do_sample=False,
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        return out[:, batch["input_ids"].shape[1] :].tolist()

    assert written(texts) == [written([text])[0] for text in texts]


@pytest.mark.parametrize("held", ["values", "packed", "int8"])
def test_integer_products_have_the_ranges_of_fake_quantization(families, held):
    scheme = QuantizationScheme(activation=TensorScheme(Symmetric(granularity="tensor")), held=held)
    model = build(families("gpt2").base, settings=SwitchSettings(quantization=scheme)).eval()
    model.set_bitmap("w8a8kv32")
    texts = rows()
    alone = scores(model, texts, 1)
    torch.testing.assert_close(scores(model, texts, 8, spare=4), alone, rtol=2e-3, atol=0)


def test_a_mask_of_which_padding_cannot_be_told_is_refused_where_it_counts(families):
    model = made(families, "gpt2", *SCHEMES["activation symmetric tensor dynamic"])
    ids = torch.ones(2, 5, dtype=torch.int64)
    with pytest.raises(BadInputError, match=r"attention_mask of \(rows, tokens\): got \(2, 1, 5, 5\)"):
        model(input_ids=ids, attention_mask=torch.ones(2, 1, 5, 5, dtype=torch.bool))


def test_tokens_whose_rows_cannot_be_told_are_refused():
    tokens = RealTokens()
    tokens.shown = Shown.of(torch.ones(2, 5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    for shape in ((7, 3), (3, 5, 3), (2, 6, 3)):
        with pytest.raises(BadInputError, match="take granularity token"):
            tokens.rows(torch.ones(shape))
    whole, mask = tokens.rows(torch.ones(10, 3))
    assert whole.shape == (2, 5, 3)
    assert mask.sum() == 8
    _, mask = tokens.rows(torch.ones(2, 1, 3))
    assert mask.tolist() == [[False], [True]]
    assert tokens.rows(torch.ones(2, 3))[0].shape == (2, 1, 3)


def test_a_scheme_names_its_ranges_by_row_in_what_scores_are_kept_under():
    """A scheme's name is part of every fingerprint, and the same one once meant a range over the batch."""
    conventions = {
        QuantizationScheme(activation=TensorScheme(Symmetric(granularity=granularity))).convention
        for granularity in ("token", "tensor")
    }
    assert len(conventions) == 2
    assert QuantizationScheme(activation=TensorScheme(Symmetric(granularity="tensor"))).activation.row_ranges
    assert not QuantizationScheme().sees_rows


def test_every_method_and_granularity_is_tried():
    tried = {tuple(name.split()[:3]) for name in SCHEMES if not name.startswith("outliers")}
    methods = {method for _, method, _ in tried}
    assert methods == set(QuantizerOptions.registry)
    assert all(("activation", method, "tensor") in tried for method in methods)
    assert {name.split()[2] for name in SCHEMES if name.startswith("kv")} == {"tensor", "token", "group", "head"}
