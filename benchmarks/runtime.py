"""Tokens a second of a GPT-2-124M-shaped random model in llama.cpp at F32, Q8_0 and Q4_0, and unquantized in torch.

    python benchmarks/runtime.py > benchmarks/results/runtime.json

``prompt``: 128 tokens at once, the logits of the last; ``generation``: one token at a time behind that prompt, given
beforehand, so that no sampling is timed.  Every variant runs once a round, in turn, on the same number of threads;
medians, quartiles and extremes over rounds, and the ratio to torch round by round.  The head is tied and quantized with
the rest (``head_mode: tied_both``), as readers of such files are used to.  Needs the extra ``runtime``.

``--repack``: let llama.cpp lay the blocks out anew for the processor, as it does by default; off, because that crashes
in version 0.3.36 on some processors with AMX.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import torch
from measure import environment, interleaved, report, summary
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from qalof.export.gguf_file import write_gguf
from qalof.model.pretrained import BaseModel, HeadKind, load_tokenizer
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import SwitchableModel
from qalof.tiny import MODEL_DIR

WIDTHS = {"F32": 32, "Q8_0": 8, "Q4_0": 4}


def config(layers: int) -> GPT2Config:
    return GPT2Config(n_layer=layers, bos_token_id=0, eos_token_id=0)


def write_files(folder: Path, layers: int) -> dict[str, Path]:
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(config(layers)).eval()
    settings = SwitchSettings(head_mode="tied_both", quantization={"weight": {"quantizer": {"method": "gguf"}}})  # type: ignore[arg-type]
    model = SwitchableModel.of(plain, BaseModel("random GPT2Config()", HeadKind.CAUSAL_LM), {}, settings).eval()
    tokenizer = load_tokenizer(str(MODEL_DIR))
    files = {name: folder / f"{name}.gguf" for name in WIDTHS}
    for name, bits in WIDTHS.items():
        write_gguf(model, bits, files[name], tokenizer)
    return files


def open_llama(path: Path, threads: int, context: int) -> Any:
    options = {"n_threads": threads, "n_threads_batch": threads, "n_ctx": context, "n_batch": context}
    return llama_cpp.Llama(str(path), verbose=False, **options)


def llama_variants(model: Any, prompt: list[int], rest: list[int]) -> dict[str, Callable[[], None]]:
    def read_prompt() -> None:
        model.reset()
        model.eval(prompt)

    def generate() -> None:
        model.n_tokens = len(prompt)  # what lies behind it in the cache is dropped by the next call
        for token in rest:
            model.eval([token])

    return {"prompt": read_prompt, "generation": generate}


def torch_variants(model: GPT2LMHeadModel, prompt: list[int], rest: list[int]) -> dict[str, Callable[[], None]]:
    caches = [DynamicCache(config=model.config)]

    @torch.inference_mode()
    def step(tokens: list[int]) -> None:
        model(torch.tensor([tokens]), past_key_values=caches[0], use_cache=True, logits_to_keep=1)

    def read_prompt() -> None:
        caches[0] = DynamicCache(config=model.config)
        step(prompt)

    def generate() -> None:
        for token in rest:
            step([token])
        caches[0].crop(-len(rest))

    return {"prompt": read_prompt, "generation": generate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repack", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    default = llama_cpp.llama_model_default_params

    def parameters() -> Any:
        chosen = default()
        chosen.use_extra_bufts = args.repack
        return chosen

    llama_cpp.llama_cpp.llama_model_default_params = parameters
    tokens = torch.randint(
        0, 50257, (args.prompt + args.generate,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    prompt, rest = tokens[: args.prompt], tokens[args.prompt :]
    variants: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), args.layers)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        torch.manual_seed(0)
        plain = GPT2LMHeadModel(config(args.layers)).eval()
        models = {"torch F32": torch_variants(plain, prompt, rest)}
        for name, path in files.items():
            models[f"llama.cpp {name}"] = llama_variants(open_llama(path, args.threads, 512), prompt, rest)
        for name, both in models.items():
            variants |= {f"{name} {part}": run for part, run in both.items()}
        times = interleaved(variants, args.rounds)
    counts = {"prompt": args.prompt, "generation": args.generate}
    result: dict[str, Any] = {
        "settings": vars(args),
        "environment": environment() | {"llama_cpp": llama_cpp.__version__},
    }
    result["file_bytes"] = sizes
    result["tokens_per_second"] = {
        part: {name: summary([count / t for t in times[f"{name} {part}"]]) for name in models}
        for part, count in counts.items()
    }
    result["speed_over_torch"] = {
        part: {
            name: summary([a / b for a, b in zip(times[f"torch F32 {part}"], times[f"{name} {part}"], strict=True)])
            for name in models
            if name != "torch F32"
        }
        for part in counts
    }
    report(result)


if __name__ == "__main__":
    main()
