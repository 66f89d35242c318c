"""A metric has a name, a direction in which it is better, a unit, a label and a number of digits.

A direction is a property of the metric.  Whoever ranks, optimizes, compares or shows a metric asks here and has no
table of its own, so that all of them agree: a result file, a table and a report of the same run have the same sign.
The alternative, a list of names that are better when lower beside each use, was rejected, since a use that forgot to
look maximized the loss.

Directions are those of whoever runs the model, not of an attacker: a high share of successful attacks is bad, many
queries per attack are good.  A count that is good neither way, such as that of frozen parameters, has no direction.

Metrics of one's own (a custom task's) are added by :func:`register`.  An objective may also name a metric that is not
registered, if it gives the direction itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from qalof.errors import BadInputError, nearest_hint

Direction = Literal["max", "min"]

DROP = "_drop"
"""The suffix of the name under which a metric's worsening is recorded: ``f1_drop``, ``loss_drop``; positive is
worse."""
PERCENT, NATS = "%", "nats"
ADVERSARIAL_ACCURACY = "adversarial_accuracy"
"""The accuracy that is left after a small attack, see :mod:`qalof.attacks.robustness.adversarial_accuracy`."""


@dataclass(frozen=True)
class Metric:
    """A number that describes a model.

    Raises:
        BadInputError: no name, or a direction that is neither ``max``, ``min`` nor None.
    """

    name: str
    """The name in results and objectives."""
    direction: Direction | None
    """Which values are better: higher ones (``max``), lower ones (``min``), or neither (None)."""
    label: str
    """The name in prose, without the unit; it begins with a small letter unless it is a proper name."""
    unit: str = ""
    """The unit: ``%``, ``nats``, ``bytes``, ``bits`` or ``tokens/s``; it is empty for a plain number."""
    decimals: int = 3
    """The number of digits after the point that are shown."""
    on_request: bool = False
    """Whether an evaluation measures it only where it is asked for, since it takes further passes."""

    def __post_init__(self) -> None:
        if not self.name or self.direction not in ("max", "min", None):
            raise BadInputError(
                f"a metric must have a name, and a direction max, min or None: got {self.name!r}, {self.direction!r}"
            )

    @property
    def is_likelihood(self) -> bool:
        """Whether it is a loss in nats or made of one alone, so that a divergence between distributions bounds it."""
        return self.unit == NATS or self.name in ("perplexity", "word_perplexity")

    @property
    def is_percent(self) -> bool:
        """Whether it lies on a scale of 0 to 100 of which a difference is in points."""
        return self.unit == PERCENT

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is: ``sign * value`` is always better when higher.

        Raises:
            BadInputError: the metric is better neither way.
        """
        if self.direction is None:
            raise BadInputError(
                f"{self.name} is better neither when higher nor when lower: nothing can be ranked by it"
            )
        return 1 if self.direction == "max" else -1

    @property
    def heading(self) -> str:
        """Label with its unit, for the head of a column: ``F1 (%)``."""
        label = self.label[:1].upper() + self.label[1:]
        return f"{label} ({self.unit})" if self.unit else label

    def worsening(self, reference: float, other: float) -> float:
        """Return how much worse ``other`` is than ``reference``: positive if it is worse, whatever the direction."""
        return self.sign * (reference - other)


def _quality() -> Iterable[Metric]:
    yield Metric("f1", "max", "F1", PERCENT, 1)
    yield Metric("exact_match", "max", "exact match", PERCENT, 1)
    yield Metric("accuracy", "max", "accuracy", PERCENT, 1)
    yield Metric("acc", "max", "zero-shot accuracy", PERCENT, 1)
    yield Metric("acc_norm", "max", "accuracy by characters", PERCENT, 1)
    yield Metric("loss", "min", "loss", NATS)
    yield Metric("perplexity", "min", "perplexity")
    yield Metric("word_perplexity", "min", "perplexity per word")
    yield Metric("kl", "min", "KL to full precision", NATS, 4, on_request=True)
    yield Metric("train_loss", "min", "training loss", NATS)
    yield Metric("cross_entropy", "min", "cross entropy in training", NATS)
    yield Metric("objective", "min", "optimized loss", NATS)


def _costs() -> Iterable[Metric]:
    yield Metric("average_bits", "min", "average bits", "", 2)
    yield Metric("weight_bytes", "min", "packed weights", "bytes", 0)
    yield Metric("stored_weight_bytes", "min", "stored weights", "bytes", 0)
    yield Metric("adapter_bytes", "min", "adapters", "bytes", 0)
    yield Metric("total_bytes", "min", "whole packed model", "bytes", 0)
    yield Metric("kv_bytes_per_token", "min", "KV cache per token", "bytes", 0)
    yield Metric("activation_bytes_per_token", "min", "activations per token", "bytes", 0)
    yield Metric("bit_operations_per_token", "min", "bit operations per token", "", 0)
    yield Metric("latency_seconds", "min", "measured latency of the sites", "s", 6)


def _profile() -> Iterable[Metric]:
    measures = {
        "predicted": "predicted size",
        "packed": "packed size",
        "packed_zlib": "packed size after zlib",
        "dequantized_zlib": "dequantized size after zlib",
    }
    for name, label in measures.items():
        yield Metric(f"{name}_bytes", "min", label, "bytes", 0)
        yield Metric(f"{name}_percent", "min", f"{label} of the fp32 model", PERCENT, 1)
        yield Metric(f"{name}_percent_untied", "min", f"{label} of the fp32 model with a head of its own", PERCENT, 1)
    yield Metric("memory_bytes", "min", "peak memory", "bytes", 0)
    yield Metric("prefill_tokens_per_second", "max", "prefill", "tokens/s", 0)
    yield Metric("calibration_tokens_per_second", "max", "calibration", "tokens/s", 0)
    yield Metric("decode_tokens_per_second", "max", "decoding", "tokens/s", 0)
    yield Metric("total", None, "parameters", "", 0)
    yield Metric("trainable", None, "trainable parameters", "", 0)
    yield Metric("frozen", None, "frozen parameters", "", 0)


def _output_error() -> Iterable[Metric]:
    yield Metric("mse", "min", "mean squared error of the output", "", 6)
    yield Metric("mae", "min", "mean absolute error of the output", "", 6)
    yield Metric("rel", "min", "relative squared error of the output", "", 6)


def _robustness() -> Iterable[Metric]:
    better = {
        "clean_accuracy": "clean accuracy",
        ADVERSARIAL_ACCURACY: "accuracy under attack",
        "accuracy_before": "next-token accuracy before the attack",
        "accuracy_after": "next-token accuracy after the attack",
        "accuracy_change": "change of next-token accuracy",
        "perturbation": "words changed",
        "recovered": "texts recovered",
    }
    worse = {
        "attack_success": "attack success",
        "success_of_all": "attack success over all texts",
        "transfer": "transferred success",
        "transfer_unconditional": "transferred success over all texts",
        "transfer_of_successes": "transferred success of successful attacks",
        "success_mean": "success per draw",
        "success_any": "success in any draw",
        "control_mean": "clean errors per draw",
        "control_any": "clean errors in any draw",
        "clean_any_wrong": "clean texts that some draw gets wrong",
        "similar": "success that keeps the meaning",
        "label_changed": "texts whose true label changed",
    }
    for name, label in better.items():
        yield Metric(name, "max", label, PERCENT, 1, on_request=name == ADVERSARIAL_ACCURACY)
    for name, label in worse.items():
        yield Metric(name, "min", label, PERCENT, 1)
    yield Metric("queries", "max", "queries per attack", "", 0)


_REGISTERED: dict[str, Metric] = {
    metric.name: metric
    for room in (_quality(), _costs(), _profile(), _output_error(), _robustness())
    for metric in room
}
PRINCIPAL = ("f1", "accuracy", "acc", "loss")
"""What a picture shows of a task that has any of these: its other metrics are made of the same scores."""
METRICS: Mapping[str, Metric] = MappingProxyType(_REGISTERED)
"""Every metric that is known, by name; those of quality come first, the most important one before the others."""


def register(metric: Metric) -> Metric:
    """Make a metric of one's own known, and return it; the same one may be registered again.

    Raises:
        BadInputError: another metric has the name.
    """
    known = _REGISTERED.setdefault(metric.name, metric)
    if known != metric:
        raise BadInputError(f"a metric's name must be its own: {metric.name!r} is registered already, as {known}")
    return known


def metric_of(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        BadInputError: none is registered.
    """
    if name not in METRICS:
        raise BadInputError(
            f"a metric must be registered for its direction to be known: got {name!r}; {nearest_hint(name, METRICS)}; "
            "qalof.metrics.register adds one"
        )
    return METRICS[name]


def described(name: str) -> Metric:
    """Return the metric of that name; an unregistered one has its name as label and no direction, for display only."""
    return METRICS.get(name) or Metric(name, None, name.replace("_", " "))


def requested(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``names`` that an evaluation measures only where they are asked for."""
    return tuple(name for name in names if described(name).on_request)


def is_percent(name: str) -> bool:
    """Return whether a metric is in percent."""
    return described(name).is_percent


def mentioned(names: Iterable[str]) -> str:
    """Return the metric to mention of several: one in percent before any other, in the order of :data:`METRICS`."""
    given = list(names)
    return next((name for name, metric in METRICS.items() if metric.is_percent and name in given), given[0])
