"""How fast an attack on words gets through its texts: one changed text a pass, all changes of a word, several texts.

    python benchmarks/attacks.py > benchmarks/results/attacks.json
    python benchmarks/attacks.py --data build/attacks/data --state build/attacks/state > benchmarks/results/attacks.json

The victim is the tiny review classifier, trained here as ``configs/train/classifier_tiny.yaml`` says, under TextFooler
as ``configs/attack/textfooler_tiny.yaml`` has it.  With the data and the state of ``attacks_real.py`` another victim is
SmolLM2-135M on SST-2, under that study's TextFooler.  All ways attack the same texts at the same bitmap, turn by turn,
on one thread; seconds are those of the processor, so what else the machine does counts little.  How many of the results
are equal to those of one text at a time is counted: text, status and queries.

``one changed text a pass`` is what a loop over candidates does; ``one text at a time`` reads all substitutes of a word
together, as ``qalof attack`` does unless it is told otherwise; the others are its ``texts_at_once``.  ``actors`` is the
rate of ``qalof attack`` between its first result and its last, by the clock, with one and with two workers.

TextAttack's own TextFooler is not beside them, since it does not run offline: it downloads counter-fitted vectors, the
Universal Sentence Encoder, a part-of-speech tagger and stop words from their servers when the recipe is built.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attack_study.place import Place
from attack_study.scales import SCALES
from attack_study.work import Worker
from measure import environment, report, summary

import qalof.attacks.victim
from orchestrate.cluster.connection import connect, logical_cpus, physical_cores, worker_environment
from orchestrate.config.loader import read_yaml
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.attack.job import check
from orchestrate.jobs.attack.on_pool import attack_and_judge
from orchestrate.jobs.run import execute
from qalof.attacks.attack import attack_examples
from qalof.attacks.methods.together import attack_together
from qalof.attacks.result import AttackExample, AttackResult
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.model.pretrained import HeadKind, load_pretrained

CONFIGS = Path(__file__).parent.parent / "configs"
ONE, ALONE = "one changed text a pass", "one text at a time"


@dataclass(frozen=True)
class Attacked:
    """A victim, what attacks it, and its texts."""

    name: str
    model: Any
    lm: Any
    tokenizer: Any
    settings: Any
    bitmap: str
    texts: Sequence[AttackExample]

    def alone(self) -> list[Any]:
        """One text at a time."""
        return list(attack_examples(self.model, self.lm, self.tokenizer, self.texts, self.bitmap, self.settings))

    def one_a_pass(self) -> list[Any]:
        """The same, with a batch of one changed text."""
        batch, qalof.attacks.victim.BATCH = qalof.attacks.victim.BATCH, 1
        try:
            return self.alone()
        finally:
            qalof.attacks.victim.BATCH = batch

    def together(self, at_once: int) -> list[Any]:
        """Several texts in one pass."""
        return attack_together(self.model, self.lm, self.tokenizer, self.texts, self.bitmap, self.settings, at_once)


def ways(at_once: Sequence[int], victim: Attacked) -> dict[str, Callable[[], list[Any]]]:
    """Every way to attack the texts, by name."""
    together = {f"{size} texts together": partial(victim.together, size) for size in at_once}
    return {ONE: victim.one_a_pass, ALONE: victim.alone, **together}


def compared(victim: Attacked, at_once: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """The rows of one victim; a round that does not count comes first."""
    named = ways(at_once, victim)
    seconds: dict[str, list[float]] = {name: [] for name in named}
    found: dict[str, list[Any]] = {}
    for turn in range(rounds + 1):
        print(f"{victim.name}: round {turn} of {rounds}", file=sys.stderr)
        for name, run in named.items():
            start = time.process_time()
            found[name] = run()
            if turn:
                seconds[name].append(time.process_time() - start)
    return [
        {
            "victim": victim.name, "bitmap": victim.bitmap, "way": name, "texts": len(victim.texts),
            "successes": sum(result.status.value == "success" for result in found[name]),
            "equal_results": sum(map(same, found[ALONE], found[name])),
            "texts_per_second": round(len(victim.texts) / statistics.median(seconds[name]), 3),
            "times_as_fast": summary([a / b for a, b in zip(seconds[ONE], seconds[name], strict=True)]),
        }
        for name in named
    ]  # fmt: skip


def same(one: AttackResult, other: AttackResult) -> bool:
    """Whether two results are equal in all that a reader sees."""
    return (one.status, one.adversarial_text, one.queries) == (other.status, other.adversarial_text, other.queries)


def tiny(checkpoint: Path, texts: int) -> Attacked:
    """The tiny review classifier under TextFooler."""
    opened: Any = OpenCheckpoint(checkpoint)
    settings = attack_config(checkpoint, texts, 1).method.settings
    examples = settings.examples(opened.task)[:texts]
    lm = load_pretrained("tiny", HeadKind.CAUSAL_LM)
    return Attacked("tiny, reviews", opened.model.eval(), lm, opened.task.tokenizer, settings, "8", examples)


def real(data: Path, state: Path, texts: int) -> Attacked:
    """The study's classifier of SST-2 under TextFooler."""
    scale = SCALES["cpu"]
    worker = Worker(Place(data, state / "model", str(data / "encoder"), state, scale, torch.device("cpu")))
    group = next(each for each in scale.of_groups() if each.name == "textfooler/sst2/sp")
    model, task = worker.victim(group)
    settings = scale.settings("textfooler", str(data / "synonyms.jsonl"), str(data / "encoder"))
    examples = worker.examples(group)[:texts]
    return Attacked("SmolLM2-135M, SST-2", model, worker.lm, task.tokenizer, settings, "w8a8kv8", examples)


def attack_config(checkpoint: Path, texts: int, workers: int) -> AttackConfig:
    """The shipped attack, with so many texts and workers of one thread."""
    changes = {"limit": texts, "workers": {"count": workers, "threads": 1}, "checkpoint": str(checkpoint)}
    return AttackConfig.model_validate(read_yaml(CONFIGS / "attack/textfooler_tiny.yaml") | changes)


def rate(checkpoint: Path, texts: int, workers: int) -> float:
    """Items per second between the first and the last result of a pool; an item is a text at a bitmap, or judged."""
    config = attack_config(checkpoint, texts, workers)
    checked, times = check(config), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        attack_and_judge(
            checked.plan, checked.examples, config.workers, Path(folder), lambda *done: times.append(time.monotonic())
        )
    return (len(times) - 1) / (times[-1] - times[0])


def on_actors(checkpoint: Path, texts: int, rounds: int) -> dict[str, Any]:
    """The rates with one and with two actors, which take turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with connect(None, logical_cpus(2, physical_cores()), environment=worker_environment(2)):
        for turn in range(rounds + 1):
            print(f"actors: round {turn} of {rounds}", file=sys.stderr)
            for workers, found in rates.items():
                measured = rate(checkpoint, texts, workers)
                if turn:
                    found.append(measured)
    return {
        "victim": "tiny, reviews", "texts": texts,
        "items_per_second": {str(workers): summary(found) for workers, found in rates.items()},
        "times_as_fast": summary([b / a for a, b in zip(rates[1], rates[2], strict=True)]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--real-texts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="of attacks_real.py; with --state, its victim is attacked as well")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        config = read_yaml(CONFIGS / "train/classifier_tiny.yaml")
        changes = {"workers": {"count": 1, "threads": 1, "in_process": True}, "tracking": {"root": place}}
        execute("train", TrainConfig.model_validate(config | changes), Path(place) / "victim")
        checkpoint = Path(place) / "victim" / "checkpoint"
        rows = compared(tiny(checkpoint, options.texts), (4, 16), options.rounds)
        if options.state is not None:
            victim = real(options.data, options.state, options.real_texts)
            rows += compared(victim, (4, options.real_texts), options.rounds)
        actors = on_actors(checkpoint, options.texts, options.rounds)
    report({"benchmark": "attacks", "rows": rows, "actors": actors, **environment()})


if __name__ == "__main__":
    main()
