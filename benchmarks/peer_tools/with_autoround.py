"""Recipes by AutoRound's ``AutoScheme``, in AutoRound's own environment: ``python with_autoround.py JOB``.

The options are symmetric integers per output channel (``group_size=-1``), weights alone; scales are left out of the
average, as in QaLoF's average bits.  The tool reads texts, so it gets those of which the windows are the beginnings;
that it makes the same tokens of them is checked.  It keeps its scores in a folder, which is empty at the beginning, so
further budgets read them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from exchange import THREADS, Stopwatch, read_job, write_answer


def main() -> None:
    job = read_job(sys.argv[1])
    folder = Path(job["answer"]).with_suffix(".autoround")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    os.environ["AR_AUTO_SCHEME_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    texts = folder / "texts.json"
    texts.write_text(json.dumps(job["texts"]), encoding="utf-8")
    import torch

    torch.set_num_threads(THREADS)
    import auto_round
    from auto_round.calib_dataset import get_dataloader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    length = len(job["windows"][0])
    loader = get_dataloader(tokenizer, length, dataset_name=str(texts), bs=1, nsamples=len(job["windows"]))
    seen = sorted(batch["input_ids"][0].tolist() for batch in loader)
    if seen != sorted(job["windows"]):
        raise SystemExit(f"AutoRound reads {len(seen)} windows, and not the {len(job['windows'])} of the job")
    recipes = {}
    for budget in job["budgets"]:
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
        watch = Stopwatch()
        scheme = auto_round.AutoScheme(
            avg_bits=budget,
            options=[whole_channels(auto_round.QuantizationScheme, bits) for bits in job["menu"]],
            nsamples=len(job["windows"]),
            seqlen=length,
            ignore_scale_zp_bits=True,
        )
        tool = auto_round.AutoRound(model=model, tokenizer=tokenizer, scheme=scheme, dataset=str(texts), iters=0)
        tool.post_init()
        spent = watch.read()
        bits = {
            name.removeprefix("model."): layer["bits"]
            for name, layer in tool.layer_config.items()
            if name.endswith("_proj")
        }
        recipes[str(budget)] = {"bits": bits, **spent}
    write_answer(job["answer"], {"version": auto_round.__version__, "torch": torch.__version__, "recipes": recipes})


def whole_channels(scheme: type, bits: int) -> object:
    return scheme.from_dict({"bits": bits, "sym": True, "group_size": -1, "data_type": "int", "act_bits": 16})


if __name__ == "__main__":
    main()
