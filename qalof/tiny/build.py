"""Make the tiny model and its data again: `python -m qalof.tiny.build [--output DIR] [--stage STAGE]`.

Stages: `data` (seconds), `tokenizer` (seconds), `pretrain` (about half an hour on two cores) or `all`. Each stage
writes next to its target and renames at the end, so a broken run keeps the earlier files. Data and tokenizer are equal
byte for byte on any machine; the weights depend on the order of floating-point sums, so they come out the same on one
machine with one thread count, and equally good on another.
"""

import argparse
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qalof.tiny import TINY_DIR
from qalof.tiny.reviews import LABELS, Review, make_reviews
from qalof.tiny.world import World

SEED = 7
QUESTIONS = {"train": 3_000, "validation": 500}
REVIEWS = {"train": 1_000, "validation": 300}
FACTS = 7
SUBJECTS = 3
QUESTIONS_A_CONTEXT = 3
CONTEXTS_AN_ARTICLE = 20
STAGES = ("data", "tokenizer", "pretrain")


def squad_split(split: str) -> dict[str, Any]:
    """Return one split in SQuAD v1.1 form: {"version", "data": [{"title", "paragraphs": [{"context", "qas"}]}]}."""
    rng = random.Random(f"{SEED}-{split}")
    world = World(split, rng)
    paragraphs: list[dict[str, Any]] = []
    asked = 0
    while asked < QUESTIONS[split]:
        passage = world.passage(FACTS, SUBJECTS)
        count = min(QUESTIONS_A_CONTEXT, QUESTIONS[split] - asked)
        answers = []
        for question in rng.sample(passage.questions, count):
            answer = {"text": question.answer, "answer_start": question.start}
            answers.append({"id": f"{split}-{asked:05d}", "question": question.text, "answers": [answer]})
            asked += 1
        paragraphs.append({"context": passage.context, "qas": answers})
    pages = range(0, len(paragraphs), CONTEXTS_AN_ARTICLE)
    data = [
        {"title": f"Notes {number}", "paragraphs": paragraphs[first : first + CONTEXTS_AN_ARTICLE]}
        for number, first in enumerate(pages, start=1)
    ]
    return {"version": "1.1", "data": data}


def review_splits() -> dict[str, list[Review]]:
    """Return train and validation reviews; no text is in both."""
    validation = make_reviews(random.Random(f"{SEED}-reviews-validation"), REVIEWS["validation"])
    taken = {review.text for review in validation}
    return {
        "train": make_reviews(random.Random(f"{SEED}-reviews-train"), REVIEWS["train"], taken),
        "validation": validation,
    }


def build_data(directory: Path) -> None:
    """Write `squad/*.json`, `reviews/*.jsonl` and `reviews/labels.json` under an empty directory."""
    for name in ("squad", "reviews"):
        (directory / name).mkdir(parents=True)
    for split in QUESTIONS:
        text = json.dumps(squad_split(split), separators=(",", ":")) + "\n"
        (directory / "squad" / f"{split}.json").write_text(text, encoding="utf-8")
    for split, reviews in review_splits().items():
        lines = "".join(json.dumps(review._asdict()) + "\n" for review in reviews)
        (directory / "reviews" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (directory / "reviews" / "labels.json").write_text(json.dumps(list(LABELS)) + "\n", encoding="utf-8")


def build_tokenizer(directory: Path) -> None:
    """Write the tokenizer's files."""
    from qalof.tiny.tokenizer import train_tokenizer

    print(f"tokenizer: {len(train_tokenizer(directory, SEED))} tokens", flush=True)


def build_model(directory: Path, tokenizer_directory: Path, checkpoint: Path | None) -> None:
    """Pretrain and write weights and configuration, with the values of the recipe."""
    import torch
    from transformers import AutoTokenizer

    from qalof.tiny.documents import DocumentMaker
    from qalof.tiny.pretrain import Recipe, pretrain

    torch.set_num_threads(2)
    recipe = Recipe(facts=FACTS, subjects=SUBJECTS, seed=SEED)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    held_out = {review.text for review in review_splits()["validation"]}
    documents = DocumentMaker(tokenizer, recipe.seed, held_out)
    model = pretrain(recipe, documents, lambda line: print(line, flush=True), checkpoint)
    model.save_pretrained(directory)
    (directory / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")


def _write_beside(target: Path, write: Callable[[Path], None], keep: bool = False) -> None:
    """Let `write` fill a fresh directory next to `target`, then put it in the target's place.

    With `keep`, files of the target that were not written again stay (the weights next to a new tokenizer).
    """
    beside = target.with_name(f"{target.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    if keep and target.exists():
        for path in beside.iterdir():
            path.replace(target / path.name)
        beside.rmdir()
        return
    shutil.rmtree(target, ignore_errors=True)
    beside.replace(target)


def build(output: Path, stage: str, checkpoint: Path | None = None) -> None:
    """Run one stage, or all, into `output`/data and `output`/model."""
    if stage in ("data", "all"):
        _write_beside(output / "data", build_data)
        print(f"data: {output / 'data'}", flush=True)
    if stage in ("tokenizer", "all"):
        _write_beside(output / "model", build_tokenizer, keep=True)
    if stage in ("pretrain", "all"):
        model = output / "model"
        _write_beside(model, lambda directory: build_model(directory, model, checkpoint), keep=True)
        print(f"model: {model}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m qalof.tiny.build", description="Make the tiny model again.")
    parser.add_argument("--output", type=Path, default=TINY_DIR, help="directory for data/ and model/")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--checkpoint", type=Path, help="file to save the run to, and to go on from")
    arguments = parser.parse_args()
    build(arguments.output, arguments.stage, arguments.checkpoint)


if __name__ == "__main__":
    main()
