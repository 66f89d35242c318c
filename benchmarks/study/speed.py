"""Tokens per second of the pretrained model on one thread of a CPU: rounded on the fly, packed, and in llama.cpp.

``prompt``: some tokens at once, the logits of the last; ``generation``: one token at a time behind that prompt, given
beforehand, so that no sampling is timed.  The times are those of the processor, since other work may run beside; every
variant runs once per round, in turn.  llama.cpp takes part where the extra ``runtime`` is installed; its files have
GGUF's own blocks and the unrounded embedding and head, as the other variants have.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from qalof.export.gguf_file import write_gguf
from qalof.model.pretrained import load_tokenizer
from qalof.model.switchable import SwitchableModel
from study.methods import form
from study.place import FULL, Place
from study.scoring import pretrained

PROMPT, GENERATED, ROUNDS = 128, 16, 3
BITS = (8, 4)
FILES = {8: "Q8_0", 4: "Q4_0"}

Variant = dict[str, Callable[[], None]]


def speed(place: Place, stage: str) -> dict[str, Any]:
    """Tokens per second by variant: the median, least and most over rounds."""
    place.clock.check()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    vocabulary = len(load_tokenizer(place.source))
    tokens = torch.randint(0, vocabulary, (PROMPT + GENERATED,), generator=draw).tolist()
    variants = {**_in_torch(place, tokens), **_in_llama_cpp(place, stage, tokens)}
    counts = {"prompt": PROMPT, "generation": GENERATED}
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in counts} for name in variants}
    for number in range(ROUNDS + 1):
        for name, parts in variants.items():
            for part, run in parts.items():
                began = time.process_time()
                run()
                if number:  # the first round packs and caches
                    times[name][part].append(time.process_time() - began)
        print(f"{stage}, round {number} of {ROUNDS}", file=sys.stderr, flush=True)
    return {
        "prompt": PROMPT, "generated": GENERATED, "rounds": ROUNDS, "machine": place.machine, "threads": 1,
        "tokens_per_second": {
            name: {part: _three([counts[part] / each for each in found]) for part, found in parts.items()}
            for name, parts in times.items()
        },
    }  # fmt: skip


def _three(values: list[float]) -> list[float]:
    return [round(value, 2) for value in (statistics.median(values), min(values), max(values))]


def _in_torch(place: Place, tokens: list[int]) -> dict[str, Variant]:
    variants = {}
    for name, bits, packed in (
        ("not rounded", 32, False),
        *((f"rounded to {bits} bits on the fly", bits, False) for bits in BITS),
        *((f"packed at {bits} bits", bits, True) for bits in BITS),
    ):
        model = pretrained(place).to("cpu")
        if packed:
            model.pack_for_inference((bits,))
        model.set_bitmap(FULL if bits == 32 else form(bits), quiet=True)
        variants[name] = _variant(model, tokens)
    return variants


def _variant(model: SwitchableModel, tokens: list[int]) -> Variant:
    caches = [DynamicCache(config=model.model.config)]

    @torch.inference_mode()
    def step(ids: list[int]) -> None:
        model(input_ids=torch.tensor([ids]), past_key_values=caches[0], use_cache=True, logits_to_keep=1)

    def prompt() -> None:
        caches[0] = DynamicCache(config=model.model.config)
        step(tokens[:PROMPT])

    def generation() -> None:
        for token in tokens[PROMPT:]:
            step([token])

    return {"prompt": prompt, "generation": generation}


def _in_llama_cpp(place: Place, stage: str, tokens: list[int]) -> dict[str, Variant]:
    if importlib.util.find_spec("llama_cpp") is None:
        return {}
    variants = {}
    model, tokenizer = pretrained(place, "gguf").to("cpu"), load_tokenizer(place.source)
    for bits, name in FILES.items():
        file = place.folder(stage) / f"{name}.gguf"
        if not file.exists():
            write_gguf(model, f"w{bits}a32kv32", file, tokenizer)
        variants[f"llama.cpp {name}"] = _of_llama(file, tokens)
    return variants


def _of_llama(file: Path, tokens: list[int]) -> Variant:
    import llama_cpp

    default = llama_cpp.llama_model_default_params

    def without_repacking() -> Any:  # version 0.3.36 crashes on some processors when it lays blocks out anew
        chosen = default()
        chosen.use_extra_bufts = False
        return chosen

    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    try:
        llama = llama_cpp.Llama(str(file), verbose=False, n_threads=1, n_threads_batch=1, n_ctx=512, n_batch=512)
    finally:
        llama_cpp.llama_cpp.llama_model_default_params = default

    def prompt() -> None:
        llama.reset()
        llama.eval(tokens[:PROMPT])

    def generation() -> None:
        for token in tokens[PROMPT:]:
            llama.eval([token])

    return {"prompt": prompt, "generation": generation}
