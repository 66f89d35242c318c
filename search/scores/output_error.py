"""Output error, a score of S2 (docs/systems.md): how much a site's output changes when only that site is rounded.

See docs/methods/search.md, "Output errors". Inputs are those of the full-precision model without adapters; every site
sees them in one forward pass per batch. For a site with weight W, bias b, inputs x over real tokens (padding does not
count) and layer bits q

    y = W x + b,   e_q = Q_q(W) Q_q(x) + b - y  (keys and values in it rounded as the cache would hold them),
    mse = mean e^2,   mae = mean |e|,   rel = sum e^2 / sum y^2,

where means and sums are over tokens and output features.  ``mse`` and ``mae`` are S2's; ``rel`` makes sites of
different scale comparable.  Sums are computed in float64 and per batch, so batches may be distributed over processes
and added up in order: the numbers do not depend on the number of processes. The score is the same as in S2: across
sites it says little about the quality that a bitmap costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qalof.bitmap import FULL_PRECISION
from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.layer_bits import LayerBits
from qalof.model.at_bitmap import layers_of
from qalof.model.layers.kv_cache import quantize_kv
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.switchable import SwitchableModel
from qalof.site import Site

SENSITIVITY_JSON = "sensitivity.json"


@dataclass(frozen=True)
class OutputError:
    """Errors of one site at one width; see the module's docstring."""

    mse: float
    """The mean squared error."""
    mae: float
    """The mean absolute error."""
    rel: float
    """The sum of squared errors over the sum of squared outputs."""


@dataclass(frozen=True)
class ErrorSums:
    """The sums over batches: squared errors, absolute errors, squared outputs, and the number of outputs."""

    squared: float
    absolute: float
    output: float
    count: int

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.squared + other.squared,
            self.absolute + other.absolute,
            self.output + other.output,
            self.count + other.count,
        )

    def error(self) -> OutputError:
        """Return the means of the sums; a site whose outputs are all zero has a relative error of zero."""
        relative = self.squared / self.output if self.output else 0.0
        return OutputError(self.squared / self.count, self.absolute / self.count, relative)


Sums = Mapping[str, Mapping[LayerBits, ErrorSums]]
"""The sums by site and layer bits."""
Errors = Mapping[str, Mapping[str, OutputError]]
"""The errors by site and layer bits, as they were requested."""


@torch.no_grad()
def error_sums(model: SwitchableModel, batch: Mapping[str, torch.Tensor], widths: Sequence[LayerBits]) -> Sums:
    """Return the sums of one batch.

    Args:
        model: a model, which returns to its bitmap and mode.
        batch: keyword arguments of the model; with an ``attention_mask``, padding does not count.
        widths: the layer bits that each site is rounded to, one site at a time.
    """
    found: dict[str, dict[LayerBits, ErrorSums]] = {}
    with model.at(FULL_PRECISION, eval=True):
        model.use_adapter(None)
        with _watching(model, widths, batch.get("attention_mask"), found):
            model(**batch)
    return {site.name: found[site.name] for site in model.sites if site.name in found}


def added(parts: Iterable[Sums]) -> Sums:
    """Return the sums over several batches, added up in their order.

    Raises:
        BadInputError: There is no batch.
    """
    total: dict[str, dict[LayerBits, ErrorSums]] = {}
    for part in parts:
        for site, by_width in part.items():
            kept = total.setdefault(site, {})
            for bits, sums in by_width.items():
                kept[bits] = kept[bits] + sums if bits in kept else sums
    if not total:
        raise BadInputError("output errors need at least one batch of inputs: got none; give training examples")
    return total


def to_json(sums: Sums, names: Mapping[LayerBits, str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the content of S2's file: site -> width as it was requested -> ``mse``, ``mae``, ``rel``."""
    return {
        site: {names[bits]: asdict(each.error()) for bits, each in by_width.items()} for site, by_width in sums.items()
    }


def read_errors(path: str | Path, measure: str = "mse") -> dict[str, dict[str, float]]:
    """Return site -> width -> one measure, from a file that :func:`to_json` made.

    Raises:
        BadInputError: The file is missing, damaged, or without that measure.
    """
    data = read_json(Path(path), "sensitivity file")
    try:
        return {
            str(site): {str(bits): float(errors[measure]) for bits, errors in by_width.items()}
            for site, by_width in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInputError(
            f"sensitivity file {path} must read like {{site: {{width: {{{measure}: number}}}}}}: it does not; "
            "make it by `qalof sensitivity` with score=output_error"
        ) from None


@contextmanager
def _watching(
    model: SwitchableModel,
    widths: Sequence[LayerBits],
    mask: torch.Tensor | None,
    found: dict[str, dict[LayerBits, ErrorSums]],
) -> Iterator[None]:
    """Fill ``found`` as the inputs pass the sites."""

    def hook(site: Site, linear: SwitchableLinear) -> Any:
        def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[site.name] = _site_sums(site, linear, _real(inputs[0], mask), widths)

        return see

    sites = [(site, layers_of(model, site)[0]) for site in model.sites]
    handles = [linear.register_forward_pre_hook(hook(site, linear)) for site, linear in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _real(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the rows of real tokens: (batch, tokens, features) -> (1, real tokens, features)."""
    if mask is None or x.shape[:2] != mask.shape:
        return x
    return x[mask.bool()][None]


def _site_sums(
    site: Site, linear: SwitchableLinear, x: torch.Tensor, widths: Sequence[LayerBits]
) -> dict[LayerBits, ErrorSums]:
    y = functional.linear(x, linear.weight, linear.bias)
    output = float(y.double().square().sum())
    found = {}
    for bits in widths:
        rounded = linear.input_quantizer(x, bits.activation)
        got = functional.linear(rounded, linear.rounded_weight(bits.weight_width), linear.bias)
        error = (quantize_kv(got, site.kv, bits.kv, linear.kv_quantizers) - y).double()
        found[bits] = ErrorSums(float(error.square().sum()), float(error.abs().sum()), output, error.numel())
    return found
