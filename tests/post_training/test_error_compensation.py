"""GPTQ of one weight: on an identity Hessian it is rounding to nearest, and it never does worse on its inputs."""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.post_training.error_compensation import GptqSettings, InputMoments, compensate_weight
from qalof.quantization.packing import pack
from qalof.quantization.quantizer import Quantizer

GROUPS = {"granularity": "group", "group_size": 10}
CASES = [
    ({"method": "symmetric"}, (1, 2, 3, 4, 8)),
    ({"method": "symmetric", "range": "full"}, (2, 3, 8)),
    ({"method": "symmetric", "granularity": "tensor"}, (3, 8)),
    ({"method": "symmetric", **GROUPS}, (2, 4)),
    ({"method": "asymmetric"}, (2, 4)),
    ({"method": "asymmetric", **GROUPS}, (3,)),
    ({"method": "asymmetric", "zero_point": "integer"}, (3,)),
    ({"method": "log"}, (2, 4)),
    ({"method": "tanh"}, (4,)),
    ({"method": "lsq"}, (3,)),
    ({"method": "llm_qat"}, (4,)),
    ({"method": "midrise2"}, (2,)),
    ({"method": "nf4"}, (4,)),
    ({"method": "bnb_int8"}, (8,)),
    ({"method": "gguf", **GROUPS}, (4, 8)),
    ({"method": "gguf_affine", **GROUPS}, (4,)),
    ({"method": "float16"}, (16,)),
]
METHODS = [
    pytest.param(Quantizer.from_json(options), bits, id=f"{'-'.join(map(str, options.values()))}-{bits}")
    for options, widths in CASES
    for bits in widths
]
ORDERS = [GptqSettings(act_order=False, block_size=7), GptqSettings(act_order=True, block_size=7)]


def weight(rows=6, columns=24, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.3


def correlated(tokens=200, columns=24, seed=1):
    """Inputs whose features share a few directions, as those of a language model do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(5, columns, generator=generator)
    return torch.randn(tokens, 5, generator=generator) @ mixing + 0.3 * torch.randn(
        tokens, columns, generator=generator
    )


def hessian(x):
    moments = InputMoments(x.shape[-1], "layer")
    moments.add(x)
    return moments.hessian()


def test_every_registered_method_is_tried():
    assert {quantizer.values[0].method for quantizer in METHODS} == set(Quantizer.registry)


@pytest.mark.parametrize("settings", ORDERS, ids=["as they stand", "act order"])
@pytest.mark.parametrize(("quantizer", "bits"), METHODS)
def test_with_an_identity_hessian_it_is_rounding_to_nearest_bit_for_bit(quantizer, bits, settings):
    w = weight()
    found = compensate_weight(w, torch.eye(24), quantizer, bits, settings).quantized
    assert torch.equal(found.codes, quantizer.quantize(w, bits).codes)
    assert torch.equal(quantizer.dequantize(found), quantizer.fake_quantize(w, bits))


@pytest.mark.parametrize("settings", ORDERS, ids=["as they stand", "act order"])
@pytest.mark.parametrize(("quantizer", "bits"), METHODS)
def test_outputs_on_the_calibration_inputs_are_never_further_off_than_rounded_to_nearest(quantizer, bits, settings):
    w, x = weight(), correlated()
    found = compensate_weight(w, hessian(x), quantizer, bits, settings)

    def errors(rounded):
        return ((x.double() @ (w - rounded).T.double()) ** 2).mean(0)

    mine, nearest = errors(quantizer.dequantize(found.quantized)), errors(quantizer.fake_quantize(w, bits))
    assert (mine <= nearest * (1 + 1e-9)).all()
    assert found.error == pytest.approx(float(mine.sum()), rel=1e-4)
    assert found.nearest_error == pytest.approx(float(nearest.sum()), rel=1e-4)


def test_on_correlated_inputs_it_halves_the_error_before_any_row_is_put_back():
    w, x = weight(), correlated()
    for settings in (GptqSettings(act_order=False, keep_better=False), GptqSettings(keep_better=False)):
        found = compensate_weight(w, hessian(x), Quantizer.from_json("symmetric"), 3, settings)
        assert found.error < 0.5 * found.nearest_error


def test_it_is_the_greedy_update_of_the_paper_written_column_by_column():
    """Equation 2 of GPTQ, with the inverse Hessian of the remaining columns taken anew at every step."""
    w, x = weight(3, 8), correlated(columns=8)
    quantizer, h = Quantizer.from_json("symmetric"), hessian(correlated(columns=8))
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    qparams, work = quantizer.qparams(w, 3), w.double().clone()
    expected = torch.zeros(3, 8)
    for j in range(8):
        expected[:, j : j + 1] = quantizer.fake_quantize(work[:, j : j + 1].float(), 3, qparams)
        inverse = torch.linalg.inv(damped[j:, j:])
        work[:, j:] -= torch.outer((work[:, j] - expected[:, j]) / inverse[0, 0], inverse[0])
    settings = GptqSettings(act_order=False, keep_better=False, block_size=3)
    found = compensate_weight(w, hessian(x), quantizer, 3, settings)
    assert torch.equal(quantizer.dequantize(found.quantized), expected)


def test_blocks_of_columns_change_no_code():
    w, h = weight(), hessian(correlated())
    codes = [
        compensate_weight(w, h, Quantizer.from_json("asymmetric"), 3, GptqSettings(block_size=size)).quantized.codes
        for size in (1, 5, 24, 128)
    ]
    assert all(torch.equal(codes[0], other) for other in codes)


def test_a_column_that_no_token_excites_is_rounded_to_nearest_and_moves_no_other():
    w, x = weight(), correlated()
    x[:, [3, 11]] = 0
    quantizer = Quantizer.from_json("symmetric")
    found = compensate_weight(w, hessian(x), quantizer, 4).quantized
    assert torch.equal(found.codes[:, [3, 11]], quantizer.quantize(w, 4).codes[:, [3, 11]])
    alive = [column for column in range(24) if column not in (3, 11)]
    qparams = quantizer.qparams(w, 4)
    alone = compensate_weight(w[:, alive], hessian(x[:, alive]), quantizer, 4, GptqSettings(damping=0), qparams)
    whole = compensate_weight(w, hessian(x), quantizer, 4, GptqSettings(damping=0))
    assert torch.equal(whole.quantized.codes[:, alive], alone.quantized.codes)


def test_it_is_deterministic_and_packs_to_what_it_decodes_to():
    w, h = weight(), hessian(correlated())
    quantizer = Quantizer.from_json({"method": "asymmetric", "scale_dtype": "float16", **GROUPS})
    first, second = (compensate_weight(w, h, quantizer, 3).quantized for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(pack(first, quantizer).dequantize(), quantizer.dequantize(first))


def test_moments_of_batches_are_those_of_all_tokens_at_once():
    x = correlated()
    parts = InputMoments(24, "layer")
    parts.add(x[:150].reshape(3, 50, 24))
    parts.add(x[150:])
    torch.testing.assert_close(parts.hessian(), (x.double().T @ x.double()) / 200, rtol=1e-5, atol=1e-5)


def test_bad_input_is_named_with_its_law():
    quantizer, w, h = Quantizer.from_json("symmetric"), weight(), hessian(correlated())
    with pytest.raises(BadInputError, match="h.0: saw no token|h.0 saw no token"):
        InputMoments(4, "h.0").hessian()
    moments = InputMoments(2, "h.1")
    moments.add(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(BadInputError, match="must be finite: h.1"):
        moments.hessian()
    with pytest.raises(BadInputError, match="Hessian must be finite"):
        compensate_weight(w, h * float("inf"), quantizer, 4)
    with pytest.raises(BadInputError, match="tensor must be finite"):
        compensate_weight(w / 0, h, quantizer, 4)
    with pytest.raises(BadInputError, match="positive definite: at damping 0 it is not"):
        compensate_weight(w, hessian(correlated(tokens=3)), quantizer, 4, GptqSettings(damping=0))
    with pytest.raises(BadInputError, match="full precision has no codes"):
        compensate_weight(w, h, quantizer, 32)
    for wrong in ({"damping": 1.0}, {"block_size": 0}, {"sequence": "layer"}):
        with pytest.raises(BadInputError, match=next(iter(wrong))):
            GptqSettings(**wrong)
