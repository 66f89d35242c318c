"""How many texts per second an attack on words gets through: one text at a time, and many in one forward pass.

    python benchmarks/attacks.py > benchmarks/results/attacks.json

The victim is the tiny review classifier, trained here as ``configs/train/classifier_tiny.yaml`` says, and the attack
TextFooler as ``configs/attack/textfooler_tiny.yaml`` has it.  Both ways attack the same texts at the same bitmap, turn
by turn, on one thread; seconds are those of the processor, so what else the machine does counts little.  How many of
the results are equal is counted: text, status and queries.

TextAttack's own TextFooler is not beside them, since it does not run offline: it downloads counter-fitted vectors, the
Universal Sentence Encoder, a part-of-speech tagger and stop words from their servers when the recipe is built.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import environment, report, summary

import qalof
from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.methods.together import attack_together
from qalof.attacks.result import AttackExample, AttackResult
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.switchable import SwitchableModel
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import SwitchablePrecision

AT_ONCE = (1, 4, 16)


def victim(steps: int) -> tuple[SwitchableModel, Any]:
    """The classifier and its task."""
    task: Any = qalof.task("classification", source="tiny", data="tiny", max_length=64)
    base = BaseModel("tiny", task.head, labels=task.labels)
    model = qalof.build(base, {"8": AdapterSpec(8, 16), "4": AdapterSpec(8, 16)}, seed=0)
    objective = SwitchablePrecision([qalof.Bitmap.uniform(model.site_names, bits) for bits in (8, 4)], model.sites)
    trainer = Trainer(model, task, objective, TrainSettings(steps, 32, learning_rate=3e-3, warmup_steps=10, seed=42))
    for _ in range(steps):
        trainer.train_step()
    return model.eval(), task


def timed(run: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """Processor seconds, and the results."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def attacked(
    model: SwitchableModel, lm: Any, tokenizer: Any, texts: list[AttackExample], bitmap: str,
    settings: TextFoolerSettings, at_once: int,
) -> list[Any]:  # fmt: skip
    """The results, one text at a time or several."""
    if at_once == 1:
        return list(attack_examples(model, lm, tokenizer, texts, bitmap, settings))
    return attack_together(model, lm, tokenizer, texts, bitmap, settings, at_once)


def same(one: AttackResult, other: AttackResult) -> bool:
    """Whether two results are equal in all that a reader sees."""
    return (one.status, one.adversarial_text, one.queries) == (other.status, other.adversarial_text, other.queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bitmaps", default="8")
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, task = victim(options.steps)
    lm = load_pretrained("tiny", HeadKind.CAUSAL_LM)
    settings = TextFoolerSettings(least_cosine=0.9, least_similarity=0.97, max_length=64)
    texts = [AttackExample(i, each.text, each.label) for i, each in enumerate(task.validation[: options.texts])]
    rows: list[dict[str, Any]] = []
    for bitmap in options.bitmaps.split(","):
        seconds: dict[int, list[float]] = {size: [] for size in AT_ONCE}
        found: dict[int, list[Any]] = {}
        for turn in range(options.rounds + 1):
            for size in AT_ONCE:
                spent, found[size] = timed(partial(attacked, model, lm, task.tokenizer, texts, bitmap, settings, size))
                if turn:
                    seconds[size].append(spent)
        alone = found[1]
        for size in AT_ONCE:
            equal = sum(map(same, alone, found[size]))
            rows.append({
                "bitmap": bitmap, "at_once": size, "texts": len(texts),
                "successes": sum(result.status.value == "success" for result in found[size]),
                "equal_results": equal,
                "texts_per_second": round(len(texts) / statistics.median(seconds[size]), 3),
                "times_as_fast": summary([a / b for a, b in zip(seconds[1], seconds[size], strict=True)]),
            })  # fmt: skip
    report({"benchmark": "attacks", "rows": rows, **environment()})


if __name__ == "__main__":
    main()
