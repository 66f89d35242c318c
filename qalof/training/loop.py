"""A plain training loop that gives the same weights however it is interrupted or split over workers.

All random choices are pure functions of (seed, step, rank): the examples of a step and the dropout masks. So a
checkpoint holds parameters, optimizer moments and the step, and nothing more is needed to resume bit for bit. Workers
take strided shares of one global batch and divide their loss sums by the units of the *whole* batch, so N workers give
the loss of one worker to float tolerance, even where shares differ by one example. A share that is split runs from
short sequences to long ones, so little is padded.

Gradients add up over bitmaps and micro-batches; then one flat all-reduce carries all of them and the losses. Parameters
of adapters that did not run keep ``grad=None``, so AdamW skips them; with zeros it would still decay them.  Gradients
are clipped adapter by adapter: with a global norm, the distillation of one width would change the step of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Protocol

import numpy as np
import torch

from qalof.batching import by_length
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError, NonFiniteLossError
from qalof.laws import Count, Law, Seed, check_numbers
from qalof.model.calibration import calibrate
from qalof.model.quantizer_state import STEPS, quantizers_of
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Feature, Task
from qalof.training.batch_rows import BatchRows
from qalof.training.execution import prepare, runs_in_bf16
from qalof.training.gradient_rounding import rounded_gradients
from qalof.training.objectives import Objective


@dataclass(frozen=True)
class TrainSettings:
    """How a training goes; :mod:`qalof.training.execution` says what the last four settings change."""

    steps: Count = 1000
    """How many optimizer steps the whole training takes."""
    batch_size: Count = 128
    """How many sequences a step takes, over all workers together."""
    micro_batch_size: Annotated[int, Law(ge=1, off="null is a worker's whole share")] | None = None
    """How many sequences a worker runs at once, those of similar length together; null runs its whole share. The
    result does not depend on it. Sequences are padded to the longest of those that run at once, so fewer are faster
    where lengths differ and few sequences are work enough for the processor."""
    learning_rate: Annotated[float, Law(ge=0, off="0 leaves the weights as they are")] = 3e-3
    """The highest learning rate, which AdamW has after the warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from there to zero; ``constant`` does not fall."""
    warmup_steps: Annotated[int, Law(ge=0, off="0 does not warm up")] = 0
    """How many steps it takes until the learning rate has risen linearly from zero."""
    weight_decay: Annotated[float, Law(ge=0, off="0 does not decay")] = 0.0
    """The decoupled weight decay of AdamW; learned step sizes have none."""
    max_grad_norm: Annotated[float, Law(gt=0, off="null does not clip")] | None = 1.0
    """The greatest norm of one adapter's gradients; longer gradients are shortened, adapter by adapter. Null shortens
    none."""
    checkpoint_every: Count = 250
    """How many steps lie between checkpoints, from which an interrupted training goes on."""
    calibration_examples: Count = 64
    """How many training examples static ranges and learned step sizes are found on, where the quantizers have any."""
    seed: Seed = 42
    """The seed of the order of the data, of dropout, of fresh adapters and of drawn bitmaps."""
    full_finetune: bool = False
    """Whether the pretrained weights are trained too, and saved."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` runs the forward pass under autocast; parameters, optimizer and quantizers stay in fp32. A CPU without
    bf16 instructions stays in fp32 altogether, which is faster there, and says so."""
    compile: bool = False
    """Whether torch.compile compiles the model, which takes minutes once per combination of bit-widths."""
    activation_checkpointing: bool = False
    """Whether only the inputs of blocks are kept and each block is run again for its gradient, which takes less memory
    and more time."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.warmup_steps > self.steps:
            raise BadInputError(
                f"warmup_steps must be at most steps {self.steps}: got {self.warmup_steps}; lower it with the steps"
            )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of ``step``: a linear warm-up, then the schedule down to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (1 - done if self.schedule == "linear" else 1.0)


CALIBRATION_BATCH = 8
"""How many sequences calibration runs at once, whatever the number of workers, since an observer may depend on it."""


class World(Protocol):
    """The workers that share a global batch."""

    rank: int
    size: int

    def sum_in_place(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum over all workers."""
        ...


@dataclass(frozen=True)
class OneWorker:
    """A world of one process."""

    rank: int = 0
    size: int = 1

    def sum_in_place(self, tensor: torch.Tensor) -> None:
        """Do nothing, since there is nothing to add."""


class ProcessGroup:
    """The default ``torch.distributed`` group."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def sum_in_place(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum, with one all-reduce."""
        torch.distributed.all_reduce(tensor)


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of a step, over the whole batch of all workers; losses are in nats per label row."""

    step: int
    """The number of the step, from 0."""
    learning_rate: float
    """The learning rate of this step."""
    losses: dict[str, float]
    """The cross entropy by the label of the objective, before the step."""
    objective: float | None = None
    """The loss whose gradient was taken, distillation included; None in records from before it was kept."""


class Trainer:
    """Trains a model on a task under an objective, step by step.

    Raises:
        BadInputError: There are more workers than the batch has examples.
    """

    def __init__(
        self,
        model: SwitchableModel,
        task: Task,
        objective: Objective,
        settings: TrainSettings,
        world: World | None = None,
    ) -> None:
        self.model, self.task, self.objective, self.settings = model, task, objective, settings
        self.world = world or OneWorker()
        if settings.batch_size < self.world.size:
            raise BadInputError(
                f"every worker must have an example of a batch: got {self.world.size} for {settings.batch_size}"
            )
        self.features: Sequence[Feature] = task.train_features()
        prepare(model, objective, full_finetune=settings.full_finetune, compiled=settings.compile,
                activation_checkpointing=settings.activation_checkpointing)  # fmt: skip
        self.groups = {name: list(group.values()) for name, group in model.trainable_groups().items()}
        groups: list[dict[str, object]] = [{"params": parameters} for parameters in self.groups.values()]
        for name, group in zip(self.groups, groups, strict=True):
            if name == STEPS:  # decay would shrink a step size without a reason in the loss
                group["weight_decay"] = 0.0
        self.device = model.device
        self.bf16 = runs_in_bf16(settings.precision, self.device)
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=self.device.type == "cuda"
        )
        self.step = 0

    def calibrate(self) -> None:
        """Set static ranges and learned steps, before the first step; nothing where the quantizers have none.

        Every worker sees the same examples in the same batches, so the ranges are those of one worker.
        """
        if not any(quantizers_of(self.model)):
            return
        chosen = batch_indices(len(self.features), self.settings.calibration_examples, 0, self.settings.seed)
        chunks = [chosen[at : at + CALIBRATION_BATCH] for at in range(0, len(chosen), CALIBRATION_BATCH)]
        batches = (self.task.model_inputs(self.task.collate([self.features[i] for i in chunk])) for chunk in chunks)
        calibrate(self.model, ({k: v.to(self.device) for k, v in batch.items()} for batch in batches))

    def train_step(self) -> StepMetrics:
        """Run one step and advance.

        Raises:
            NonFiniteLossError: The loss is not finite; no parameter was changed.
        """
        step, settings = self.step, self.settings
        torch.manual_seed(_mix(settings.seed, step, self.world.rank))
        rate = settings.rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        bitmaps = self.objective.bitmaps(step)
        bits = self.objective.gradient_bits
        with rounded_gradients(self.model.outer_layers, bits, settings.seed, step, self.world.rank):
            losses = self._accumulate(step)
        self._reduce(losses)
        *cross_entropies, optimized = losses.tolist()
        self._check(cross_entropies, optimized, bitmaps)
        if settings.max_grad_norm is not None:
            for parameters in self.groups.values():
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        names = self.objective.labels(step)
        return StepMetrics(step, rate, dict(zip(names, cross_entropies, strict=True)), optimized)

    def _accumulate(self, step: int) -> torch.Tensor:
        """Return this worker's share of the cross entropies of the step's bitmaps and, last, of the optimized loss."""
        indices = batch_indices(len(self.features), self.settings.batch_size, step, self.settings.seed)
        chosen = [self.features[i] for i in indices]
        units = sum(self.task.units(feature) for feature in chosen)
        mine = chosen[self.world.rank :: self.world.size]
        self.model.train()
        shares = []
        for features in micro_batches(mine, self.settings.micro_batch_size):
            batch = {name: tensor.to(self.device) for name, tensor in self.task.collate(features).items()}
            own = [self.task.units(feature) for feature in features]
            rows = BatchRows(self.model, self.task, batch, own, bf16=self.bf16)
            losses = self.objective.accumulate(rows, step, units)
            shares.append(torch.stack([*losses.cross_entropies, losses.optimized]))
        return sum(shares[1:], start=shares[0])

    def _reduce(self, losses: torch.Tensor) -> None:
        if self.world.size == 1:
            return
        grads = [p.grad for group in self.groups.values() for p in group if p.grad is not None]
        flat = torch.cat([losses, *[grad.flatten() for grad in grads]])
        self.world.sum_in_place(flat)
        sizes = [len(losses), *[grad.numel() for grad in grads]]
        summed = flat.split(sizes)
        losses.copy_(summed[0])
        for grad, total in zip(grads, summed[1:], strict=True):
            grad.copy_(total.view_as(grad))

    def _check(self, losses: Sequence[float], optimized: float, bitmaps: Sequence[Bitmap]) -> None:
        # this follows the sum, so every worker sees the same loss and stops at the same step
        for bitmap, loss in zip(bitmaps, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(self.step, str(bitmap), loss)
        if not math.isfinite(optimized):  # the distance to a teacher is not finite, while every cross entropy is
            raise NonFiniteLossError(self.step, " and ".join(map(str, bitmaps)), optimized)


def batch_indices(examples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Return the examples of the global batch of ``step``; each pass shuffles the data, and batches cross its end."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(examples, seed, place // examples)[place % examples]) for place in places]


def micro_batches(share: list[Feature], size: int | None) -> list[list[Feature]]:
    """Return ``share`` in batches of ``size`` and of similar length, short ones first; as it is where one holds all."""
    if size is None or size >= len(share):
        return [share]
    lengths = [len(feature["input_ids"]) for feature in share]
    return [[share[place] for place in places] for places in by_length(lengths, size)]


@lru_cache(maxsize=4)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


def _mix(*numbers: int) -> int:
    """Return one well-mixed seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
