"""Recipes by ModelOpt's ``auto_quantize``, in ModelOpt's own environment: ``python with_modelopt.py JOB``.

Weights alone are rounded, as integers, symmetrically and per output channel, which is QaLoF's default.  "Not rounded"
is taken out of the menu, and the rules that tie q, k and v (gate and up) are taken out unless the job asks for them, so
that the space is that of the other tools.  The score is the tool's default (``gradient``).  Rounding weights to the
largest magnitude needs no text, so calibration is one forward pass of the tool's loop.
"""

from __future__ import annotations

import sys

import torch
from exchange import THREADS, Stopwatch, read_job, write_answer


def main() -> None:
    job = read_job(sys.argv[1])
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    import modelopt
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.algorithms import AutoQuantizeGradientSearcher
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    if not job["tied"]:
        AutoQuantizeGradientSearcher.quant_grouping_rules = []
    batches = [{"input_ids": ids, "labels": ids} for ids in torch.tensor(job["windows"]).split(1)]
    formats = [weights_alone(bits) for bits in job["menu"]]
    watch = Stopwatch()
    model, state = mtq.auto_quantize(
        model,
        constraints=within(job["budgets"][0]),
        module_search_spaces=[
            {"module_name_patterns": "*_proj", "quantization_formats": formats, "allow_no_quant": False}
        ],
        quantization_formats=formats,
        data_loader=batches,
        forward_step=lambda model, batch: model(**batch),
        loss_func=lambda output, batch: output.loss,
        disabled_layers="*lm_head*",
        num_calib_steps=1,
        num_score_steps=len(batches),
    )
    recipes = {}
    for budget in job["budgets"]:
        config = mtq.get_auto_quantize_config(state, within(budget))
        recipes[str(budget)] = {"bits": bits_of(config), **watch.read()}
        watch = Stopwatch()
    write_answer(job["answer"], {"version": modelopt.__version__, "torch": torch.__version__, "recipes": recipes})


def within(bits: float) -> dict:
    """Return a budget of average bits, in which the head, which is left alone, does not count."""
    return {"effective_bits": bits, "cost": {"excluded_module_name_patterns": ["*lm_head*"]}}


def weights_alone(bits: int) -> dict:
    return {
        "quant_cfg": [
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "enable": False},
        ],
        "algorithm": "max",
    }


def bits_of(config: dict) -> dict[str, int]:
    """Return site -> bits of a config for ``mtq.quantize``."""
    return {
        entry["quantizer_name"].removeprefix("model.").removesuffix(".weight_quantizer"): entry["cfg"]["num_bits"]
        for entry in config["quant_cfg"]
        if entry["quantizer_name"].endswith("_proj.weight_quantizer") and entry.get("enable", True)
    }


if __name__ == "__main__":
    main()
