"""The scores that one pass over the data gives for all sites and choices at once, each as a formula with a name.

With T labeled rows, gradients g of the summed loss at a site's output, and the error e of that output when the site
alone is rounded (:mod:`qalof.evaluation.site_damage`), sums over tokens t and outputs o:

=================  ============================================  ========  ===========================================
``fisher``         1/(2T) sum_t sum_o (g_to e_to)^2              nats      the default; labels drawn from the model
``fisher_token``   1/(2T) sum_t (sum_o g_to e_to)^2              nats      keeps the products of outputs
``fisher_norm``    1/(2T) sum_t |g_t|^2 |e_t|^2 / outputs        nats      drops the direction
``modelopt``       sum_t sum_o (g_to e_to)^2                     nats^2    NVIDIA ModelOpt's, with true labels
``taylor``         1/T | sum_t sum_o g_to e_to |                 nats      first order, with true labels
``mse``            mean e^2                                      (output)  output error (S2, docs/systems.md)
``mae``            mean abs e                                    (output)  output error (S2)
``relative_mse``   sum e^2 / sum y^2                             (share)   comparable across sites
=================  ============================================  ========  ===========================================

See docs/methods/search.md, "Scores", for what was measured of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qalof.evaluation.site_damage import Formula


@dataclass(frozen=True)
class OnePassScore:
    """A score with its formula and its unit."""

    formula: Formula
    """What is added up over tokens."""
    unit: str
    """The unit of the values; empty for a plain number."""
    value: Callable[[Sequence[float], int], float]
    """The function of the sums over all tokens and of the number of labeled rows that gives the score."""
    is_about: str
    """One sentence for a report."""


def _fisher(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums((g * e).square())


def _fisher_token(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums((g * e).sum(dim=-1).square())


def _fisher_norm(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums(g.square().sum(dim=-1) * e.square().mean(dim=-1))


def _taylor(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums(g * e)


def _squares(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums(e.square(), torch.ones_like(e[:, :1]) * e.shape[-1])


def _magnitudes(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums(e.abs(), torch.ones_like(e[:, :1]) * e.shape[-1])


def _relative(g: torch.Tensor, e: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _sums(e.square(), y.square())


def _sums(*numbers: torch.Tensor) -> torch.Tensor:
    """Return the sums in float64; rows are added up in the numbers' own dtype first, which is much faster."""
    return torch.stack([each.sum(dim=-1).double().sum() for each in numbers])


def _halved(sums: Sequence[float], rows: int) -> float:
    return sums[0] / (2 * rows)


def _ratio(sums: Sequence[float], rows: int) -> float:
    return sums[0] / sums[1] if sums[1] else 0.0


ONE_PASS: Mapping[str, OnePassScore] = {
    "fisher": OnePassScore(
        Formula(_fisher, "model"), "nats", _halved, "Half of the expected squared change of the log-probability."
    ),
    "fisher_token": OnePassScore(
        Formula(_fisher_token, "model"), "nats", _halved, "Fisher's information with the products of outputs."
    ),
    "fisher_norm": OnePassScore(
        Formula(_fisher_norm, "model"), "nats", _halved, "Fisher's information of the norms alone."
    ),
    "modelopt": OnePassScore(
        Formula(_fisher, "data"), "nats^2", lambda sums, rows: sums[0], "The score of NVIDIA ModelOpt's search."
    ),
    "taylor": OnePassScore(
        Formula(_taylor, "data"), "nats", lambda sums, rows: abs(sums[0]) / rows, "The first-order change of the loss."
    ),
    "mse": OnePassScore(Formula(_squares, None), "", _ratio, "The mean squared error of a site's output."),
    "mae": OnePassScore(Formula(_magnitudes, None), "", _ratio, "The mean absolute error of a site's output."),
    "relative_mse": OnePassScore(
        Formula(_relative, None), "", _ratio, "The squared error of a site's output over its squared size."
    ),
}
"""Every such score by name; the first is the default."""
