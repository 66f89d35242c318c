from dataclasses import replace

import pytest
import torch

from qalof.errors import BadInputError
from qalof.quantization.lsq_steps import LsqSteps
from qalof.quantization.methods.lsq import Lsq

WEIGHT = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
X = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(1))
ACTIVATION = Lsq(granularity="tensor", gradient_count="features")


def weight_steps(quantizer, widths=(4, 8)):
    return LsqSteps(dict.fromkeys(widths, quantizer), 20, WEIGHT, "here")


def input_steps(quantizer=ACTIVATION, widths=(4, 8)):
    return LsqSteps(dict.fromkeys(widths, quantizer), 20, None, "h.0.mlp.c_fc activation")


@pytest.mark.parametrize("parametrization", ["clamp", "log"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_weights_steps_start_from_the_weight_for_each_width(parametrization, granularity):
    quantizer = Lsq(parametrization=parametrization, granularity=granularity)
    steps = weight_steps(quantizer)
    for bits in (4, 8):
        torch.testing.assert_close(
            steps.qparams(WEIGHT, bits, start=False).scale, quantizer.qparams(WEIGHT, bits).scale
        )
    assert len(list(steps.parameters())) == 2


def test_a_shared_step_scales_with_the_largest_code():
    quantizer = Lsq(step_mode="shared")
    steps = weight_steps(quantizer)
    assert len(list(steps.parameters())) == 1
    at4, at8 = (steps.qparams(WEIGHT, bits, start=False).scale for bits in (4, 8))
    torch.testing.assert_close(at4, at8 * 127 / 7)
    quantizer.fake_quantize(WEIGHT, 4, steps.qparams(WEIGHT, 4, start=False)).sum().backward()
    assert steps.steps["shared"].grad.abs().sum() > 0


def test_different_quantizers_cannot_share_one_step():
    quantizers = {4: Lsq(step_mode="shared"), 8: Lsq(step_mode="shared", granularity="tensor")}
    with pytest.raises(BadInputError, match="one step is shared by one quantizer: here has 2"):
        LsqSteps(quantizers, 20, WEIGHT, "here")


def test_only_the_step_of_the_width_in_use_has_a_gradient():
    quantizer = Lsq()
    steps = weight_steps(quantizer)
    quantizer.fake_quantize(WEIGHT, 4, steps.qparams(WEIGHT, 4, start=False)).square().sum().backward()
    assert steps.steps["4"].grad is not None
    assert steps.steps["8"].grad is None


@pytest.mark.parametrize("parametrization", ["clamp", "log"])
def test_training_the_step_brings_the_error_down_and_keeps_it_positive(parametrization):
    quantizer = Lsq(granularity="tensor", parametrization=parametrization, gradient_count="none")
    steps = weight_steps(quantizer, (3,))
    optimizer = torch.optim.Adam(steps.parameters(), lr=0.02)
    errors = []
    for _ in range(60):
        error = (quantizer.fake_quantize(WEIGHT, 3, steps.qparams(WEIGHT, 3, start=False)) - WEIGHT).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.9 * errors[0]
    assert steps.qparams(WEIGHT, 3, start=False).scale > 0


def test_a_step_that_fell_below_zero_is_clamped_and_can_come_back():
    steps = weight_steps(Lsq(granularity="tensor"), (4,))
    with torch.no_grad():
        steps.steps["4"].fill_(-0.5)
    step = steps.qparams(WEIGHT, 4, start=False).scale
    assert step.item() == pytest.approx(1e-8)
    step.backward()
    assert steps.steps["4"].grad == 1


def test_an_activations_step_is_set_once_by_the_first_batch_in_the_same_parameter():
    steps = input_steps()
    parameter = steps.steps["4"]
    with pytest.raises(BadInputError, match=r"set by a first batch: h.0.mlp.c_fc activation has none at 4 bits"):
        steps.qparams(X, 4, start=False)
    first = steps.qparams(X, 4, start=True).scale
    torch.testing.assert_close(first, 2 * X.abs().mean() / 7**0.5)
    assert torch.equal(steps.qparams(100 * X, 4, start=True).scale, first)
    assert steps.steps["4"] is parameter
    with pytest.raises(BadInputError, match="8 bits"):
        steps.qparams(X, 8, start=False)


def test_that_a_step_is_set_travels_with_the_state():
    steps = input_steps()
    steps.qparams(X, 4, start=True)
    fresh = input_steps()
    fresh.load_state_dict(steps.state_dict())
    assert torch.equal(fresh.qparams(100 * X, 4, start=True).scale, steps.qparams(X, 4, start=False).scale)
    with pytest.raises(BadInputError, match="first batch"):
        fresh.qparams(X, 8, start=False)


def test_groups_of_an_activation_have_a_step_each():
    quantizer = Lsq(granularity="group", group_size=8, gradient_count="features")
    steps = input_steps(quantizer)
    scale = steps.qparams(X, 4, start=True).scale
    expected = [2 * part.abs().mean() / 7**0.5 for part in X.split(8, dim=-1)]
    torch.testing.assert_close(scale, torch.stack(expected))
    assert quantizer.fake_quantize(X, 4, steps.qparams(X, 4, start=False)).shape == X.shape


def test_a_step_that_is_stored_in_half_precision_is_used_in_it():
    quantizer = Lsq(scale_dtype="float16")
    scale = weight_steps(quantizer).qparams(WEIGHT, 4, start=False).scale
    assert torch.equal(scale, scale.half().float())
    assert scale.requires_grad


def test_a_width_without_a_step_and_a_first_batch_that_is_not_finite_are_refused():
    with pytest.raises(BadInputError, match=r"a step for each of \[4, 8\] bits: got 5"):
        weight_steps(Lsq()).qparams(WEIGHT, 5, start=False)
    with pytest.raises(BadInputError, match="must be finite: h.0.mlp.c_fc activation"):
        input_steps().qparams(X * float("nan"), 4, start=True)


@pytest.mark.parametrize("parametrization", ["clamp", "log"])
@pytest.mark.parametrize("step_mode", ["per_bit", "shared"])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16"])
def test_steps_in_float64_and_their_gradients_are_never_narrowed(narrowing, parametrization, step_mode, scale_dtype):
    options = {"parametrization": parametrization, "step_mode": step_mode, "scale_dtype": scale_dtype}
    weight = Lsq(**options)
    x = X.double()
    of_weight = LsqSteps(dict.fromkeys((4, 8), weight), 20, WEIGHT.double(), "here").double()
    of_input = input_steps(replace(ACTIVATION, **options)).double()
    for steps, tensor in ((of_weight, WEIGHT.double()), (of_input, x)):
        quantizer = steps.quantizers[4]
        with narrowing() as found:
            rounded = quantizer.fake_quantize(tensor, 4, steps.qparams(tensor, 4, start=True))
            rounded.sum().backward()
        assert not found
        assert rounded.dtype is torch.float64
        assert {p.grad.dtype for p in steps.parameters() if p.grad is not None} == {torch.float64}
