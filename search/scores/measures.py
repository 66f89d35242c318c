"""How each kind of score is measured, as items of work that can be done one by one, in any process, and put together.

An item's part is plain JSON, so a table that was interrupted goes on from the parts it has written, and gives the same
numbers: parts are put together in the order of the items.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.hessian import curvature, trace_probe
from qalof.evaluation.kl import Reference, divergence, reference_of
from qalof.evaluation.result import Evaluation
from qalof.evaluation.shared_prefix import SharedPrefix
from qalof.evaluation.site_damage import Choices, damage_sums, layer_bits_at
from qalof.layer_bits import read_kv
from qalof.metrics import metric_of
from qalof.model.patch import SwitchableSite
from qalof.model.switchable import SwitchableModel
from qalof.site import Site
from qalof.tasks.base import Task
from search.scores.data import ScoringData
from search.scores.formulas import OnePassScore
from search.scores.table import Values

Part = Any
"""What one item leaves, as JSON."""


class Measure(Protocol):
    """A score as items of work."""

    unit: str
    items: int
    """The number of items, or the most of them."""

    def do(self, index: int) -> Part:
        """Do one item."""
        ...

    def enough(self, parts: Sequence[Part]) -> bool:
        """Return whether the first items' parts suffice, so the rest need not be done."""
        ...

    def values(self, parts: Sequence[Part]) -> Values:
        """Return the damages by role, site and choice."""
        ...


@dataclass
class OnePass:
    """A formula over gradients and errors; an item is a batch."""

    model: SwitchableModel
    data: ScoringData
    choices: Choices
    score: OnePassScore
    reference: Bitmap
    seed: int

    def __post_init__(self) -> None:
        self.unit, self.items = self.score.unit, len(self.data.batches)

    def do(self, index: int) -> Part:
        """Return the sums of one batch."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{index}").getrandbits(63))
        with self.model.at(self.reference, eval=True):
            found = damage_sums(self.model, self.data.batches[index], self.choices, self.score.formula, generator)
        return {"values": found.values, "rows": found.rows}

    def enough(self, parts: Sequence[Part]) -> bool:
        """Return False: every batch counts."""
        return False

    def values(self, parts: Sequence[Part]) -> Values:
        """Return the formula of the sums over all batches; what is at or above the reference does no damage."""
        rows = sum(part["rows"] for part in parts)
        found: dict[str, dict[str, dict[str, float]]] = {}
        known = {site.name: site for site in self.model.sites}
        for role, sites in parts[0]["values"].items():
            for site, choices in sites.items():
                for choice in choices:
                    each = [part["values"][role][site][choice] for part in parts]
                    sums = [sum(numbers) for numbers in zip(*each, strict=True)]
                    value = self.score.value(sums, rows)
                    reached = self._reaches(known[site], role, choice)
                    found.setdefault(role, {}).setdefault(site, {})[choice] = 0.0 if reached else value
        forced = self.score.formula.labels is not None
        return non_increasing(found, self.model.sites) if forced else found

    def _reaches(self, site: Site, role: str, choice: str) -> bool:
        """Return whether nothing that a choice rounds has fewer bits than at the reference."""
        kept = self.reference[site.name]
        reference = site.kv_widths(kept.kv) if role == "kv" else (getattr(kept, role),)
        return all(bits >= least for bits, least in zip(widths_of(site, role, choice), reference, strict=True))


@dataclass
class OneAtATime:
    """What the model itself loses when one site alone is rounded; an item is a site.

    Every pass begins at the first changed site, from states at the reference (:mod:`qalof.evaluation.shared_prefix`).
    With a metric it is the metric's worsening on the task's validation split; without one, KL to the reference.
    """

    model: SwitchableModel
    choices: Choices
    reference: Bitmap
    data: ScoringData | None = None
    task: Task | None = None
    metric: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        self.items, self.unit = len(self.model.sites), metric_of(self.metric).unit if self.metric else "nats"
        self.shared = SharedPrefix(self.model, self.reference)
        self._kept: Reference | Evaluation | None = None

    def do(self, index: int) -> Part:
        """Return the damages of one site by role and choice."""
        switch = self.model.switches[index]
        reference = self._reference()
        held = set(switch.linear.held_tensors())
        found: dict[str, dict[str, float]] = {}
        for role, choices in self.choices.items():
            if not takes_part(switch, role):
                continue
            for choice in choices:
                bits = layer_bits_at(self.reference[switch.site.name], role, choice)
                bitmap = self.reference.replace({switch.site.name: bits})
                with self.shared.changing([switch.site.name]):
                    found.setdefault(role, {})[choice] = self._damage(bitmap, reference)
        if set(switch.linear.held_tensors()) - held:
            switch.linear.forget()  # the weights of all choices at all sites would be several times the model
        return {switch.site.name: found}

    def _reference(self) -> Reference | Evaluation:
        if self._kept is None:
            with self.shared.recording():
                if self.data is not None:
                    self._kept = reference_of(self.model, self.data.batches, self.reference, forward=self.shared)
                else:
                    assert self.task is not None
                    self._kept = self.task.evaluate(self.shared, limit=self.limit)
        return self._kept

    def _damage(self, bitmap: Bitmap, reference: Reference | Evaluation) -> float:
        if isinstance(reference, Reference):
            return float(divergence(self.model, bitmap, reference, forward=self.shared).kl.mean())
        assert self.task is not None
        with self.model.at(bitmap, eval=True), torch.no_grad():
            lowered = self.task.evaluate(self.shared, limit=self.limit)
        return metric_of(self.metric).worsening(reference[self.metric], lowered[self.metric])

    def enough(self, parts: Sequence[Part]) -> bool:
        """Return False: every site counts."""
        return False

    def values(self, parts: Sequence[Part]) -> Values:
        """Return what was measured."""
        found: dict[str, dict[str, dict[str, float]]] = {role: {} for role in self.choices}
        for part in parts:
            for site, roles in part.items():
                for role, choices in roles.items():
                    found[role][site] = dict(choices)
        return found


@dataclass
class Hessian:
    """HAWQ-V2's score, mean curvature times squared error of the weight; an item is a probe."""

    model: SwitchableModel
    data: ScoringData
    choices: Choices
    reference: Bitmap
    seed: int
    items: int = 100
    """The most probes."""
    tolerance: float = 1e-3
    """The relative change of the mean trace below which no further probe is made."""
    unit: str = "nats"

    def do(self, index: int) -> Part:
        """Return v H v by site for one probe v."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{index}").getrandbits(63))
        with self.model.at(self.reference, eval=True):
            return trace_probe(self.model, self.data.batches, generator)

    def enough(self, parts: Sequence[Part]) -> bool:
        """Return whether the last probe changed the mean of all traces by less than the tolerance."""
        if len(parts) < 2:
            return False
        sums = [sum(part.values()) for part in parts]
        before, after = sum(sums[:-1]) / (len(sums) - 1), sum(sums) / len(sums)
        return bool(abs(after - before) <= self.tolerance * abs(before))

    def values(self, parts: Sequence[Part]) -> Values:
        """Return Tr(H) / n times the squared error; a trace that comes out negative counts as none."""
        traces = {site: max(0.0, sum(part[site] for part in parts) / len(parts)) for site in parts[0]}
        with self.model.at(self.reference, eval=True):
            found = curvature(self.model, traces, self.choices["weight"])
        return non_increasing({"weight": found}, self.model.sites)


def check_weights_alone(choices: Choices) -> None:
    """Refuse any role but weights, of which alone there is a Hessian.

    Raises:
        BadInputError: There is another role.
    """
    others = [role for role in choices if role != "weight"]
    if others:
        raise BadInputError(f"score hessian weighs errors of weights alone: got role {others[0]}; take fisher")


def takes_part(switch: SwitchableSite, role: str) -> bool:
    """Return whether a site has something of that role to round."""
    if role == "kv":
        return switch.site.kv is not None
    return role == "weight" or not switch.site.is_embedding


def widths_of(site: Site, role: str, choice: str) -> tuple[int, ...]:
    """Return the bits of what a choice rounds at a site: 4 for ``4g32``, and 8 and 4 for ``k8v4`` where a site makes
    keys and values.
    """
    return site.kv_widths(read_kv(choice)) if role == "kv" else (int(choice.partition("g")[0]),)


def non_increasing(values: Values, sites: Sequence[Site]) -> dict[str, dict[str, dict[str, float]]]:
    """Let no choice do less damage than one of the same group size that has no fewer bits in anything it rounds: it
    then gets that one's damage.
    """
    by_name = {site.name: site for site in sites}
    return {
        role: {name: _non_increasing(by_name[name], role, choices) for name, choices in found.items()}
        for role, found in values.items()
    }


def _non_increasing(site: Site, role: str, choices: Mapping[str, float]) -> dict[str, float]:
    kinds = {choice: (choice.partition("g")[2], widths_of(site, role, choice)) for choice in choices}

    def no_worse(other: str, choice: str) -> bool:
        (group, bits), (its_group, its_bits) = kinds[other], kinds[choice]
        return group == its_group and all(mine >= its for mine, its in zip(bits, its_bits, strict=True))

    return {choice: max(0.0, *(choices[other] for other in choices if no_worse(other, choice))) for choice in choices}
