"""A GGUF file in llama.cpp, and the checkpoint from which it was exported: a text, and how well both predict one.

    make test-runtime          # builds llama.cpp
    python benchmarks/in_llama_cpp.py runs/smol.gguf --checkpoint runs/sp_real/checkpoint --bitmap w8a32kv32

llama.cpp rounds the inputs of a layer to 8 bits in blocks of 32, so the two agree closely and not exactly, unless the
model was trained with GGUF's own blocks.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

import qalof

PROMPT = "Context: The tower was built in 1889 by a company of builders.\nQuestion: When was the tower built?\nAnswer:"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bitmap", default="w8a32kv32", help="the bitmap of the export")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QALOF_DATA", "../shared/data")))
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import llama_cpp

    torch.set_num_threads(options.threads)
    llama = llama_cpp.Llama(str(options.gguf), n_ctx=512, logits_all=True, n_threads=options.threads, verbose=False)
    started = time.monotonic()
    said = llama(PROMPT, max_tokens=12, temperature=0, stop=["\n"])
    seconds, count = time.monotonic() - started, said["usage"]["total_tokens"]
    print(PROMPT + said["choices"][0]["text"])
    print(f"({count} tokens read and written in {seconds:.1f} s)")
    model = qalof.load(options.checkpoint)
    model.set_bitmap(options.bitmap)
    source, text = model.base.source, str(options.data / "wikitext2" / "wiki.valid.raw")
    task = qalof.task("language-modeling", source=source, data=text, max_length=256, stride=256)
    ours, theirs, same, tokens = 0.0, 0.0, 0, 0
    for window in task.windows()[: options.windows]:
        ids = window["input_ids"]
        llama.reset()
        llama.eval(ids)
        other = torch.tensor(np.array(llama.scores[: len(ids)])).log_softmax(-1)[:-1]
        with torch.no_grad():
            own = model(torch.tensor([ids])).logits[0].log_softmax(-1)[:-1]
        at, target = torch.arange(len(ids) - 1), torch.tensor(ids[1:])
        ours -= float(own[at, target].sum())
        theirs -= float(other[at, target].sum())
        same += int((own.argmax(-1) == other.argmax(-1)).sum())
        tokens += len(target)
    print(
        f"perplexity of {tokens} tokens: QaLoF {math.exp(ours / tokens):.2f}, llama.cpp {math.exp(theirs / tokens):.2f}"
    )
    print(f"the likeliest next token is the same for {100 * same / tokens:.1f} % of them")


if __name__ == "__main__":
    main()
