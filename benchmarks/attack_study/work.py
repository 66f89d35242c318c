"""What one process does: its trainings, and then its texts of every group, attacked and judged.

A process of ``of`` does the trainings, and the texts, whose number leaves ``shard`` when divided by ``of``.  Results go
as JSON lines into a file of its own; what any earlier run left there is done, whatever its number of processes was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from study.clock import Clock

import qalof
from attack_study.place import CHECKPOINT, Place, victim_folder
from attack_study.scales import DRAWN, FIXED_DRAWS, SOURCES, Group
from attack_study.victims import examples_of, task_of, train, with_products_of
from qalof.attacks.attack import attack_at
from qalof.attacks.meaning import Meaning
from qalof.attacks.methods.together import attack_together
from qalof.attacks.result import AttackExample, AttackResult
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import draw_table, prediction_table
from qalof.attacks.substitutes.sentence_encoder import EncoderSimilarity
from qalof.bitmap import Bitmap
from qalof.files import append_lines, read_whole_lines
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.model.switchable import SwitchableModel
from qalof.tasks.classification import ClassificationTask

ADAPTIVE = {"adaptive": "request", "adaptive by layer": "layer"}
"""The attackers who know the defense, with its granularity."""


class Records:
    """All JSON lines of a state, of which this process appends to one file."""

    def __init__(self, state: Path, shard: int, of: int) -> None:
        self._own = state / "records" / f"{shard}-of-{of}.jsonl"
        self.attacks: dict[tuple[str, str, int], AttackResult] = {}
        self.judged: dict[tuple[str, int], dict[str, Any]] = {}
        self.skipped: dict[tuple[str, int], str] = {}
        for path in sorted(state.glob("records/*.jsonl")):
            for line in read_whole_lines(path):
                self._take(json.loads(line))

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, here and in the file."""
        self._own.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self._own, [json.dumps(row)])
        self._take(row)

    def lacks(self, group: Group, target: str, example: AttackExample) -> bool:
        """Whether a text is still to be attacked at a target."""
        return (group.name, example.id) not in self.skipped and (group.name, target, example.id) not in self.attacks

    def _take(self, row: dict[str, Any]) -> None:
        if row["kind"] == "attack":
            self.attacks[row["group"], row["target"], row["example"]] = AttackResult.from_json(row["result"])
        elif row["kind"] == "skipped":
            self.skipped[row["group"], row["example"]] = row["reason"]
        else:
            self.judged[row["group"], row["example"]] = row


def targets_of(victim: str) -> list[str]:
    """Return what a victim is attacked at: its sources, then the two means."""
    return [*SOURCES[victim], *ADAPTIVE]


def defense_of(victim: str, sites: Sequence[str], granularity: str) -> RandomPrecision:
    """Return the defense of a victim."""
    return RandomPrecision.of(sites, DRAWN[victim], granularity=granularity, seed=0)


def train_all(place: Place, clock: Clock) -> bool:
    """Train this process's victims, and say whether they are done."""
    done = True
    for index, (data, victim) in enumerate(place.scale.trainings()):
        if index % place.of == place.shard:
            done = train(data, victim, place, clock) and done
    return done


def attack_all(place: Place, clock: Clock) -> bool:
    """Attack and judge this process's texts, group by group, and say whether they are done."""
    records = Records(place.state, place.shard, place.of)
    worker = Worker(place)
    for group in place.scale.of_groups():
        for chunk in _chunks(worker, group, records):
            if clock.out or not worker.attack(group, chunk, records, clock):
                return False
            worker.judge(group, chunk, records)
    return True


def _chunks(worker: Worker, group: Group, records: Records) -> Iterator[list[AttackExample]]:
    """Yield the texts of this process that are not judged yet."""
    place = worker.place
    mine = [each for each in worker.examples(group) if each.id % place.of == place.shard]
    left = [each for each in mine if (group.name, each.id) not in {*records.judged, *records.skipped}]
    size = place.scale.judge_texts
    for start in range(0, len(left), size):
        yield left[start : start + size]


class Worker:
    """Holds the language model, the encoder, and one victim at a time."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._victim: tuple[tuple[str, str], SwitchableModel, ClassificationTask] | None = None

    @cached_property
    def lm(self) -> Any:
        """The plain language model."""
        plain = load_pretrained(str(self.place.model), HeadKind.CAUSAL_LM).to(self.place.device)
        return with_products_of(self.place.scale, plain)

    @cached_property
    def meaning(self) -> Meaning:
        """The judge of similarity, by cosines."""
        return Meaning(EncoderSimilarity(self.place.encoder, "cosine", self.place.device))

    def examples(self, group: Group) -> list[AttackExample]:
        """Return the texts of a group."""
        task = task_of(self.place.data, group.data, self.place.model, self.place.scale)
        return examples_of(task, group.texts)

    def victim(self, group: Group) -> tuple[SwitchableModel, ClassificationTask]:
        """Return the victim of a group, and its task."""
        key = (group.data, group.victim)
        if self._victim is None or self._victim[0] != key:
            self._victim = None
            model = qalof.load(victim_folder(self.place.state, *key) / CHECKPOINT).to(self.place.device).eval()
            model = with_products_of(self.place.scale, model)
            self._victim = (key, model, task_of(self.place.data, group.data, self.place.model, self.place.scale))
        return self._victim[1:]

    def attack(self, group: Group, chunk: Sequence[AttackExample], records: Records, clock: Clock) -> bool:
        """Attack texts at every target; a text that raises is skipped with its reason. False: out of time."""
        place = self.place
        settings = place.scale.settings(
            group.method, str(place.data / "synonyms.jsonl"), place.encoder, place.masked_lm
        )
        for target in targets_of(group.victim):
            todo = [each for each in chunk if records.lacks(group, target, each)]
            if todo and clock.out:
                return False
            began = time.monotonic()
            for example, found in self._attacked(group, target, settings, todo, clock):
                seconds = round((time.monotonic() - began) / len(todo), 2)
                row = {"group": group.name, "target": target, "example": example.id, "seconds": seconds}
                if isinstance(found, AttackResult):
                    records.add({"kind": "attack", **row, "result": self.meaning.judged(found).to_json()})
                elif isinstance(found, torch.OutOfMemoryError):
                    raise found
                else:  # one bad text never stops the study
                    records.add({"kind": "skipped", **row, "reason": f"{target}: {found}"})
            if any(records.lacks(group, target, each) for each in todo):
                return False
            if todo:
                spent = round(time.monotonic() - began, 1)
                print(f"{group.name} at {target}: {len(todo)} texts in {spent} s", file=sys.stderr, flush=True)
        return True

    def _attacked(
        self, group: Group, target: str, settings: Any, todo: Sequence[AttackExample], clock: Clock
    ) -> Iterator[tuple[AttackExample, AttackResult | Exception]]:
        """Yield what was found for each text, or what its attack raised, until the time is over."""
        model, task = self.victim(group)
        precisions = self._precisions(group, target)
        if group.method != "gbda" and self.place.scale.together > 1:
            where, size = precisions or target, self.place.scale.together
            found = attack_together(model, self.lm, task.tokenizer, todo, where, settings, size)
            yield from zip(todo, found, strict=True)
            return
        attack = settings.build(model, task.tokenizer, self.lm, 0, precisions)
        for example in todo:
            if clock.out:
                return
            try:
                yield example, attack_at(None if precisions else target, model, attack, example)
            except (RuntimeError, ValueError) as error:
                yield example, error

    def _precisions(self, group: Group, target: str) -> Expectation | None:
        if target not in ADAPTIVE:
            return None
        model, _ = self.victim(group)
        defense = defense_of(group.victim, model.site_names, ADAPTIVE[target])
        return Expectation(defense, None if target == "adaptive" else FIXED_DRAWS)

    def judge(self, group: Group, chunk: Sequence[AttackExample], records: Records) -> None:
        """Read every text of a chunk at every source, and under the draws of both granularities."""
        model, task = self.victim(group)
        kept = [each for each in chunk if (group.name, each.id) not in records.skipped]
        if not kept:
            return
        scale = self.place.scale
        judge = scale.settings(group.method, "embeddings", "states").judge(model, task.tokenizer)
        rows = {t: [records.attacks[group.name, t, each.id] for each in kept] for t in targets_of(group.victim)}
        sources = [rows[source] for source in SOURCES[group.victim]]
        bitmaps = [Bitmap.parse(source, model.site_names) for source in SOURCES[group.victim]]
        with torch.no_grad():
            fixed = prediction_table(judge, sources, bitmaps)
            drawn = {
                grain: draw_table(
                    judge, list(rows.values()), defense_of(group.victim, model.site_names, grain),
                    scale.request_draws if grain == "request" else scale.layer_draws,
                )
                for grain in ADAPTIVE.values()
            }  # fmt: skip
        for index, example in enumerate(kept):
            records.add(
                {
                    "kind": "judged", "group": group.name, "example": example.id,
                    "clean": fixed.clean[index].tolist(), "fixed": fixed.adversarial[:, index].tolist(),
                    "drawn": {
                        grain: {"clean": table.clean[index].tolist(), "texts": table.adversarial[:, index].tolist()}
                        for grain, table in drawn.items()
                    },
                }
            )  # fmt: skip
