"""Distances of outputs and of hidden states, by which a low bitmap learns from a higher one.

See docs/methods/objectives.md, "Distances". S4 (docs/systems.md) adds to the KL of tempered outputs the squared
difference of hidden states, of all blocks (accumulative), of the last one (non-accumulative) or of one drawn per step
(stochastic). It mentions no cross entropy and gives neither weights nor temperature, so all of them are fields. S4
mentions no stop-gradient at the teacher's hidden states either; it is applied here, since otherwise the highest bitmap
would learn to be easy to imitate.

Raw residuals have a few enormous coordinates and grow from block to block, while the last state has passed the final
norm.  So the state of each token is normalized (a LayerNorm without gain or bias) and its squares are averaged over the
features; otherwise one block would decide alone.

Contrastive alignment (InfoNCE) asks less than equality: a low bitmap's state z must be nearer, by cosine, to the
higher bitmap's state of the same thing than to its states of other things,

    - log ( exp(cos(z_i, SG t_i) / tau) / sum_k exp(cos(z_i, SG t_k) / tau) )

for the last block.  ``answers``: i are the tokens that carry the answer and k all tokens of the same sequence, so
batches may be split in any way. ``pooled``: i and k are the sequences of a micro-batch, each the mean of its tokens;
the size of a micro-batch then changes the loss, and a micro-batch of one sequence has no such loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from qalof.errors import BadInputError
from qalof.laws import Positive, Weight, check_numbers
from qalof.precision import at_least_float32
from qalof.training.objectives.base import Anchors, Distance, FeatureLayers, Hidden
from qalof.training.objectives.draws import FEATURE_LAYER, generator


@dataclass(frozen=True)
class Distillation:
    """What a bitmap with teachers minimizes.

        ce_weight CE + sum over teachers ( beta Dist + feature_weight Features + contrastive_weight InfoNCE )

    A bitmap without teachers learns from the labels only, at full weight: with ``ce_weight`` 0 the highest would learn
    nothing.
    """

    beta: Weight = 1.0
    """The weight of the distance between outputs, for each teacher."""
    distance: Distance = "kl"
    """How outputs are compared: ``kl`` from teacher to student, or ``mse`` of centered logits."""
    teachers: Literal["all_higher", "highest"] = "all_higher"
    """Who teaches a bitmap: every higher one of the step, or the highest alone."""
    temperature: Positive = 1.0
    """The KL divergence's tau: it divides both logits, and its square multiplies the divergence."""
    ce_weight: Weight = 1.0
    """The weight of the labels for a bitmap that has teachers."""
    feature_weight: Weight = 0.0
    """The weight of the distance between hidden states; 0 leaves it out."""
    features: FeatureLayers = "all"
    """Which hidden states are compared: of all blocks, of the last one, or of one drawn per step."""
    contrastive_weight: Weight = 0.0
    """The weight of InfoNCE between last hidden states; 0 leaves it out."""
    contrastive_temperature: Positive = 0.1
    """What divides the cosines of InfoNCE."""
    contrastive: Anchors = "answers"
    """What InfoNCE compares: tokens that carry the answer, or mean states of sequences."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (self.beta or self.ce_weight or self.feature_weight or self.contrastive_weight):
            raise BadInputError(
                "one of beta, ce_weight, feature_weight and contrastive_weight must be above 0: got 0 for all of them"
            )

    @property
    def teaches(self) -> bool:
        """Whether a teacher's outputs or hidden states enter the loss at all."""
        return self.beta > 0 or self.looks_inside

    @property
    def looks_inside(self) -> bool:
        """Whether hidden states enter the loss."""
        return self.feature_weight > 0 or self.contrastive_weight > 0


def distance(student: torch.Tensor, teacher: torch.Tensor, how: Distillation) -> torch.Tensor:
    """Return the distance of two sets of logits, (units, classes) each, summed over the units.

    ``kl``: tau^2 KL(softmax(teacher/tau) || softmax(student/tau)).  ``mse``: mean squared difference over the
    possible classes, each row's mean taken out first, since logits are free up to a constant.
    """
    if how.distance == "kl":
        tau = how.temperature
        log_student = functional.log_softmax(student / tau, dim=-1)
        log_teacher = functional.log_softmax(teacher / tau, dim=-1)
        return tau**2 * functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    possible = teacher > torch.finfo(teacher.dtype).min
    count = possible.sum(dim=-1, keepdim=True)
    difference = torch.where(possible, student - teacher, 0.0)
    centered = torch.where(possible, difference - difference.sum(dim=-1, keepdim=True) / count, 0.0)
    return (centered.square() / count).sum()


def chosen_layers(features: FeatureLayers, blocks: int, seed: int, step: int) -> list[int]:
    """Return the indices of the blocks whose states are compared at ``step``; ``random`` draws one from (seed,
    step).
    """
    if features == "all":
        return list(range(blocks))
    if features == "last":
        return [blocks - 1]
    return [int(generator(seed, FEATURE_LAYER, step).integers(blocks))]


def feature_distance(student: Hidden, teacher: Hidden, layers: list[int]) -> torch.Tensor:
    """Return the mean squared difference of normalized states, weighted over tokens and summed over ``layers``."""
    total = student.weights.new_zeros(())
    for layer in layers:
        ours, theirs = (_normalized(hidden.layers[layer]) for hidden in (student, teacher))
        total = total + (student.weights * (ours - theirs.detach()).square().mean(dim=-1)).sum()
    return total


def contrastive_distance(student: Hidden, teacher: Hidden, how: Distillation) -> torch.Tensor:
    """Return InfoNCE of the last states, weighted by the units of each sequence and summed over sequences."""
    ours, theirs = (at_least_float32(hidden.layers[-1]) for hidden in (student, teacher))
    weights = student.weights
    if how.contrastive == "pooled":
        share = (weights / weights.sum(dim=1, keepdim=True))[..., None]
        ours, theirs = ((state * share).sum(dim=1)[None] for state in (ours, theirs))
        anchors, candidates = weights.sum(dim=1)[None], torch.ones_like(weights[None, :, 0])
    else:
        anchors, candidates = student.answers, weights
    ours, theirs = functional.normalize(ours, dim=-1), functional.normalize(theirs.detach(), dim=-1)
    similar = ours @ theirs.transpose(-1, -2) / how.contrastive_temperature
    # padding is not a candidate, except for itself: a row without any candidate would be NaN
    barred = (candidates == 0)[:, None, :] & ~torch.eye(similar.shape[-1], dtype=torch.bool, device=similar.device)
    matched = similar.masked_fill(barred, -torch.inf).log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
    return -(anchors * matched).sum()


def _normalized(state: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(at_least_float32(state), state.shape[-1:])
