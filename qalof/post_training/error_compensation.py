"""GPTQ rounds a weight column by column, and later columns compensate for each error.

    min over codes  tr((W - W^) H (W - W^)^T),   H = X^T X / tokens,   X (tokens, in) the layer's inputs

Columns are rounded in turn; the error of column j, divided by U_jj, is taken out of all later columns along row j of
U, where H^-1 = U^T U and U is upper triangular (Frantar et al. 2022, arXiv 2210.17323, algorithm 1).  H is damped by a
share of its mean diagonal.  ``act_order`` takes the columns with the largest inputs first.

The grid is computed once, from the weight as it was, by our quantizer of any method, granularity and width; so codes
are those of that quantizer and pack like any others. The grids of groups are fixed beforehand, which the public code
calls static groups: an order by activation then keeps the layout of groups.

Three choices differ from the public code. A column whose calibration inputs are all zero is rounded to nearest, not set
to zero, since other texts may use it.  A row whose compensated rounding errs by more on the calibration inputs than
rounding to nearest keeps the latter (``keep_better``): the method is greedy and guarantees nothing by itself.
Everything is computed in fp64, in which a Hessian of few tokens still factorizes.

GPTQModel 7.7 was tried as a library for this and rejected: it requires another torch than the one tested here (2.14.1
or later), and it has uniform grids only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from qalof.errors import BadInputError
from qalof.laws import Count, Law, check_numbers
from qalof.precision import at_least_float32
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer


@dataclass(frozen=True)
class GptqSettings:
    """The settings of error compensation.

    Raises:
        BadInputError: A number is out of range, or the sequence does not exist.
    """

    damping: Annotated[float, Law(ge=0, lt=1)] = 0.01
    """The share of the Hessian's mean diagonal that is added to its diagonal."""
    act_order: bool = True
    """Whether columns are rounded in the order of falling mean square input; otherwise they go as they stand."""
    block_size: Count = 128
    """How many columns are rounded before the rest of the weight is updated; it changes the speed, and the result only
    by the order of sums."""
    sequence: str = "block"
    """Which layers share a calibration pass. ``block``: the layers of a transformer block do, with all blocks before it
    rounded. ``site``: every layer has its own pass, with all layers before it rounded, which takes several times as
    long."""
    keep_better: bool = True
    """Whether rows that rounding to nearest serves better keep it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.sequence not in ("block", "site"):
            raise BadInputError(f"sequence must be 'block' or 'site': got {self.sequence!r}")


@dataclass(frozen=True)
class Compensated:
    """A rounded weight, with its effect on the layer's output on the calibration inputs.

    ``error``, ``nearest_error``: squared output error per token, summed over outputs, of these codes and of rounding to
    nearest on the same grid.
    """

    quantized: QuantizedTensor
    error: float
    nearest_error: float


class InputMoments:
    """X^T X of a layer's inputs, gathered batch by batch.

    Args:
        features: the number of features of a token.
        place: the name of the layer, for errors.
        device: the device on which it is summed.
    """

    def __init__(self, features: int, place: str, device: torch.device | None = None) -> None:
        self.place, self.tokens = place, 0
        self._sum = torch.zeros(features, features, dtype=torch.float64, device=device)

    def add(self, inputs: torch.Tensor) -> None:
        """Add ``inputs`` (..., features)."""
        rows = at_least_float32(inputs.detach().reshape(-1, inputs.shape[-1]))
        self._sum += (rows.T @ rows).to(torch.float64)
        self.tokens += rows.shape[0]

    def hessian(self) -> torch.Tensor:
        """Return the mean over tokens, (features, features), fp64.

        Raises:
            BadInputError: There was no token, or an input was not finite.
        """
        if not self.tokens:
            raise BadInputError(f"calibration must give every layer inputs: {self.place} saw no token; give examples")
        if not torch.isfinite(self._sum).all():
            raise BadInputError(f"calibration inputs must be finite: {self.place} got NaN or infinity")
        return self._sum / self.tokens


@torch.no_grad()
def compensate_weight(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    quantizer: Quantizer,
    bits: int,
    settings: GptqSettings | None = None,
    qparams: QParams | None = None,
) -> Compensated:
    """Round ``weight`` (out, in) with error compensation.

    Args:
        weight: the weight, which must be finite.
        hessian: (in, in), X^T X of the layer's inputs, in any scale.
        quantizer: the quantizer that determines grid and codes.
        bits: a whole width that has codes.
        settings: the settings; None takes the default.
        qparams: the grid of learned steps; None takes the weight's own.

    Raises:
        BadInputError: Weight or Hessian is not finite, the width has no codes, or the damped Hessian is not positive
            definite.
    """
    settings = settings or GptqSettings()
    if not torch.isfinite(hessian).all():
        raise BadInputError("a Hessian must be finite: it holds NaN or infinity; look at the calibration inputs")
    nearest = quantizer.quantize(weight, bits, qparams)
    exact, wide = hessian.to(torch.float64), weight.to(torch.float64)
    codes = _round_columns(wide, exact, quantizer, nearest, settings)
    found = replace(nearest, codes=codes)
    errors, before = (_row_errors(wide, quantizer.dequantize(each), exact) for each in (found, nearest))
    if settings.keep_better:
        worse = errors > before
        found = replace(found, codes=torch.where(worse.unsqueeze(1), nearest.codes, codes))
        errors = torch.where(worse, before, errors)
    return Compensated(found, float(errors.sum()), float(before.sum()))


def _round_columns(
    weight: torch.Tensor, hessian: torch.Tensor, quantizer: Quantizer, nearest: QuantizedTensor, settings: GptqSettings
) -> torch.Tensor:
    """Return codes (out, in) of algorithm 1, in the order of the weight's columns."""
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    if not settings.act_order:
        order = torch.arange(len(order), device=order.device)
    factor = _inverse_factor(hessian[order][:, order], settings.damping)
    # a column is a weight of one feature, so the grid of its group is that of a channel
    alone = replace(quantizer, granularity=Granularity.CHANNEL, group_size=None)
    work, codes = weight[:, order].clone(), torch.empty_like(nearest.codes)
    columns = len(order)
    for start in range(0, columns, settings.block_size):
        end = min(start + settings.block_size, columns)
        errors = torch.zeros_like(work[:, start:end])
        for at in range(start, end):
            place = int(order[at])
            column = work[:, at : at + 1]
            qparams = _column_grid(nearest.qparams, quantizer, place, len(work))
            quantized = alone.quantize(column.to(qparams.scale.dtype), nearest.bits, qparams)
            codes[:, place] = quantized.codes[:, 0].to(codes.dtype)
            error = (column - alone.dequantize(quantized)) / factor[at, at]
            work[:, at + 1 : end] -= error * factor[at, at + 1 : end]
            errors[:, at - start : at - start + 1] = error
        work[:, end:] -= errors @ factor[start:end, end:]
    return codes


def _inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return U, upper triangular with H^-1 = U^T U, of the damped Hessian; columns without input get a diagonal of
    1.
    """
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal += damping * diagonal.mean()
    diagonal[hessian.diagonal() == 0] = 1  # it depends on no other column, so it is rounded to nearest
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError:
        raise BadInputError(
            f"a damped Hessian must be positive definite: at damping {damping} it is not; give more calibration "
            "examples than a layer has inputs, or a damping such as 0.01"
        ) from None
    return factor


def _column_grid(qparams: QParams, quantizer: Quantizer, column: int, rows: int) -> QParams:
    """Return the grid of one column, with tensors of (rows, 1)."""

    def part(values: torch.Tensor) -> torch.Tensor:
        if quantizer.granularity is Granularity.TENSOR:
            return values.expand(rows, 1)
        if not quantizer.granularity.grouped:
            return values
        assert quantizer.group_size is not None
        group = column // quantizer.group_size
        return values[:, group : group + 1]

    return QParams(part(qparams.scale), None if qparams.zero_point is None else part(qparams.zero_point))


def _row_errors(weight: torch.Tensor, rounded: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return the squared output error per token of each row, (out,)."""
    off = weight - rounded
    return ((off @ hessian) * off).sum(dim=1)
