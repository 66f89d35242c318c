"""What each saving takes off an SP step of a real language model: SmolLM2-135M on SQuAD as completion, at two widths.

    make real-model
    QALOF_DATA=../shared/data python benchmarks/train_step_real.py > benchmarks/results/train_step_real.json

A step is the product's own (:class:`qalof.training.loop.Trainer`, optimizer included) on 16 sequences of up to 256
tokens at w8a8kv8 and w4a8kv8, weights per output channel.  The variants take turns on the same batches, and a learning
rate of 0 keeps the model as it is. Before anything is timed, all must have one loss at w4a32kv32: where activations are
rounded, another order of sums rounds some the other way, and the loss of few answers moves by percents.

``whole_head``  the head at every token and one batch, as it was before both savings
``labels``      the head at tokens with labels, one batch
``micro4``      the same in micro-batches of four sequences of similar length; ``micro2``: of two
``int8``        ``micro4`` with ``held: int8``; ``bf16``: ``micro4`` with ``precision: bf16``; each only where the
                processor has instructions for it (:mod:`qalof.processor`)

``seconds`` is the time on the wall, which counts what else the machine does; ``cpu_seconds`` adds up the threads.
``products`` are those of the model's shapes for 256 tokens, in GFLOP/s, the best of three.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from measure import environment, ratios, report, summary

from qalof import processor
from qalof.bitmap import Bitmap
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel, build
from qalof.quantization.scheme import QuantizationScheme
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.training import batch_rows
from qalof.training.loop import Trainer, TrainSettings, batch_indices, micro_batches
from qalof.training.objectives import SwitchablePrecision

SOURCE, FORMS, LENGTH = "cache:SmolLM2-135M-Instruct", ("w8a8kv8", "w4a8kv8"), 256
SHAPES = ((576, 576), (576, 192), (576, 1536), (1536, 576))
TOKENS = 256


def products(repeats: int = 3) -> dict[str, dict[str, float]]:
    """GFLOP/s of one layer's product, by kind and by in x out."""
    found: dict[str, dict[str, float]] = {}
    for inner, outer in SHAPES:
        x, weight, gradient = torch.randn(TOKENS, inner), torch.randn(outer, inner), torch.randn(TOKENS, outer)
        half = [each.bfloat16() for each in (x, weight, gradient)]
        codes = [torch.randint(-127, 128, each.shape, dtype=torch.int8) for each in (x, weight)]
        kinds: dict[str, Callable[[], Any]] = {
            "fp32": lambda x=x, w=weight: x @ w.T,
            "fp32_backward": lambda g=gradient, w=weight: g @ w,
            "bf16": lambda h=half: h[0] @ h[1].T,
            "bf16_backward": lambda h=half: h[2] @ h[1],
            "int8": lambda c=codes: torch._int_mm(c[0], c[1].T),
        }
        for kind, product in kinds.items():
            seconds = min(_seconds(product) for _ in range(repeats))
            found.setdefault(kind, {})[f"{inner}x{outer}"] = round(2e-9 * TOKENS * inner * outer / seconds, 1)
    return found


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let ``module`` have another function within the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def model_held(held: str, task: CompletionTask) -> SwitchableModel:
    """The pretrained model with an adapter per width."""
    settings = SwitchSettings(quantization=QuantizationScheme(held=held))
    return build(BaseModel(SOURCE, task.head), {bits: AdapterSpec(8, 16) for bits in ("8", "4")}, settings, seed=0)


def models(task: CompletionTask) -> dict[str, SwitchableModel]:
    """The pretrained model, by the form of its held weights, which are rounded already."""
    forms = ["values", *(["int8"] if processor.multiplies_int8() else [])]
    made = {held: model_held(held, task) for held in forms}
    for model in made.values():
        for form in FORMS:
            model.set_bitmap(form)
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64))
    return made


def variants(
    made: dict[str, SwitchableModel], task: CompletionTask, sequences: int, forms: tuple[str, ...] = FORMS
) -> dict[str, Callable[[int], dict[str, float]]]:
    """A function per variant, of the step whose batch it takes; it returns the losses."""

    def step(model: SwitchableModel, size: int | None, around: Any = nullcontext, precision: Any = "fp32") -> Any:
        objective = SwitchablePrecision([Bitmap.parse(form, model.site_names) for form in forms], model.sites)
        settings = TrainSettings(
            1000, sequences, size, learning_rate=0.0, schedule="constant", precision=precision, seed=0
        )
        trainer = Trainer(model, task, objective, settings)

        def run(at: int) -> dict[str, float]:
            trainer.step = at
            with around():
                return trainer.train_step().losses

        return run

    values = made["values"]
    found = {
        "whole_head": step(values, None, lambda: replaced(batch_rows, "head_at", lambda model, labeled: nullcontext())),
        "labels": step(values, None),
        "micro4": step(values, 4),
        "micro2": step(values, 2),
    }
    if "int8" in made:
        found["int8"] = step(made["int8"], 4)
    if processor.multiplies_bf16():
        found["bf16"] = step(values, 4, precision="bf16")
    return found


def check(steps: dict[str, Callable[[int], dict[str, float]]]) -> dict[str, float]:
    """All variants have one loss where nothing but weights is rounded; return it by variant."""
    losses = {name: step(0)["w4a32"] for name, step in steps.items()}
    for name, loss in losses.items():
        if abs(loss - losses["whole_head"]) > (0.02 if name == "bf16" else 1e-5) * loss:
            raise SystemExit(f"all variants must have one loss: got {losses}")
    return losses


def shown(task: CompletionTask, sequences: int, step: int) -> dict[str, int]:
    """Tokens that a step runs on, padding included, and those that are real or have a label."""
    share = [task.train_features()[i] for i in batch_indices(len(task.train_features()), sequences, step, 0)]

    def padded(batches: list[list[Any]]) -> int:
        return sum(len(batch) * max(len(each["input_ids"]) for each in batch) for batch in batches)

    unsorted = [share[at : at + 4] for at in range(0, len(share), 4)]
    sizes = {"one_batch": padded([share]), "unsorted4": padded(unsorted)}
    sizes |= {f"micro{size}": padded(micro_batches(share, size)) for size in (4, 2)}
    return sizes | {"real": padded([[each] for each in share]), "labeled": int(sum(task.units(each) for each in share))}


def timed(
    steps: dict[str, Callable[[int], dict[str, float]]], rounds: int, minutes: float
) -> dict[str, dict[str, list[float]]]:
    """Seconds on the wall and of the processor, by kind, variant and round; two rounds at least."""
    end = time.perf_counter() + 60 * minutes
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in steps} for kind in ("wall", "cpu")}
    for turn in range(rounds):
        if turn > 1 and time.perf_counter() > end:
            break
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(turn)
            times["wall"][name].append(time.perf_counter() - wall)
            times["cpu"][name].append(time.process_time() - cpu)
            print(f"round {turn + 1} of {rounds}: {name} {times['wall'][name][-1]:.1f} s", file=sys.stderr)
    return times


def main() -> None:
    """Measure, and print the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0, help="no round begins later, but for the first two")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speeds = products()
    settings = CompletionSettings(data="data:squad", max_length=LENGTH, train_split="train[:2000]")
    task = CompletionTask(load_tokenizer(SOURCE), settings)
    made = models(task)
    losses = check(variants(made, task, 4, ("w4a32kv32",)))
    steps = variants(made, task, options.sequences)
    times = timed(steps, options.rounds, options.minutes)
    report(
        {
            "benchmark": "train_step_real",
            "model": f"{SOURCE}: SmolLM2-135M, dequantized from Q4_1",
            "sequences": options.sequences,
            "max_length": LENGTH,
            "bitmaps": FORMS,
            "environment": environment(),
            "instructions": {"bf16": processor.multiplies_bf16(), "int8": processor.multiplies_int8()},
            "products_gflop_per_second": speeds,
            "loss_at_w4a32kv32": losses,
            "tokens_by_round": [shown(task, options.sequences, turn) for turn in range(len(times["cpu"]["labels"]))],
            "seconds": {name: summary(values) for name, values in times["wall"].items()},
            "cpu_seconds": {name: summary(values) for name, values in times["cpu"].items()},
            "cpu_over_whole_head": {name: ratios(times["cpu"], name, "whole_head") for name in steps},
        }
    )


if __name__ == "__main__":
    main()
