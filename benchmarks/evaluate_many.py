"""What it costs to score every site of a GPT-2-124M-shaped model: one site at a time, in full and by a shared prefix,
and by Fisher's information from one pass.

    python benchmarks/evaluate_many.py > benchmarks/results/evaluate_many.json

Weights are random, since no time depends on them.  A site is rounded to 4 bits alone, all others stay in full
precision, and each site is timed in full and shared right after one another.  Seconds are those of the processor, on
one thread, so what else the machine does counts little.  That the outputs are equal bit for bit is checked on the way.

There are two heads: spans (the tasks of S1 and S2, where the blocks are nearly all of the work), and language modeling
with KL per token, where every evaluation also pays for the head.  A table at six widths takes six times the seconds of
one width; Fisher's table of the same six widths is timed as it is computed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import environment, report, summary
from transformers import GPT2Config, GPT2ForQuestionAnswering, GPT2LMHeadModel

from qalof.evaluation.kl import divergence, reference_of
from qalof.evaluation.label_rows import LabeledBatch, labeled_windows
from qalof.evaluation.shared_prefix import SharedPrefix, prefix_bytes
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel
from search.scores.compute import compute

WIDTHS = ("2", "3", "4", "5", "6", "8")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def one_at_a_time(
    model: SwitchableModel, batches: list[LabeledBatch], evaluate: Callable[[Any], torch.Tensor], sites: list[str]
) -> dict[str, Any]:
    """Seconds per site, in full and shared."""
    shared = SharedPrefix(model, 32)
    with shared.recording():
        for batch in batches:
            shared(**batch.inputs)
    whole, part = [], []
    for site in sites:
        bitmap = model.bitmap.replace({site: "w4"})
        layer = next(switch.linear for switch in model.switches if switch.site.name == site)
        layer.rounded_weight(4)  # rounding is no part of either
        with model.at(bitmap):
            seconds, expected = timed(lambda: evaluate(model))
            whole.append(seconds)
            with shared.changing([site]):
                seconds, found = timed(lambda: evaluate(shared))
            part.append(seconds)
        layer.forget()
        assert torch.equal(found, expected), site
    return {
        "seconds_full": round(sum(whole), 3),
        "seconds_shared": round(sum(part), 3),
        "times_faster": round(sum(whole) / sum(part), 3),
        "times_faster_by_site": summary([a / b for a, b in zip(whole, part, strict=True)]),
        "bit_identical": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--sites", type=int, default=48, help="every site, unless fewer are enough for a try")
    parser.add_argument("--rounds", type=int, default=2, help="how often Fisher's table is computed")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    ids = torch.randint(0, 50000, (options.windows, options.tokens))

    spans = SwitchableModel.of(GPT2ForQuestionAnswering(GPT2Config()), BaseModel("GPT2Config()", HeadKind.SPAN)).eval()
    chosen = list(spans.site_names)[:: len(spans.sites) // options.sites]
    batches = labeled_windows(ids, options.windows)
    with torch.inference_mode():
        of_spans = one_at_a_time(spans, batches, lambda call: call(**batches[0].inputs).start_logits, chosen)

    model = SwitchableModel.of(GPT2LMHeadModel(GPT2Config()), BaseModel("GPT2Config()", HeadKind.CAUSAL_LM)).eval()
    reference = reference_of(model, batches)

    def kl(call: Any) -> torch.Tensor:
        return torch.from_numpy(divergence(model, model.bitmap, reference, forward=call).kl)

    of_language = one_at_a_time(model, batches, kl, chosen)
    seconds = [timed(lambda: compute(model, ids, "fisher", {"weight": WIDTHS}))[0] for _ in range(options.rounds)]
    fisher = sorted(seconds)[len(seconds) // 2]
    scale = len(WIDTHS) * len(model.sites) / len(chosen)
    report(
        {
            "benchmark": "evaluate_many",
            "what": "processor seconds to score every site: one at a time (one width), and Fisher's table (six widths)",
            "sites": len(chosen),
            "tokens": options.windows * options.tokens,
            "prefix_bytes": prefix_bytes(model, options.windows * options.tokens),
            "environment": environment(),
            "one_at_a_time_spans": of_spans,
            "one_at_a_time_language_modeling_kl": of_language,
            "fisher": {
                "widths": [int(bits) for bits in WIDTHS],
                "seconds": summary(seconds) if len(seconds) > 1 else seconds,
                "times_faster_than_full": round(scale * of_language["seconds_full"] / fisher, 1),
                "times_faster_than_shared": round(scale * of_language["seconds_shared"] / fisher, 1),
            },
        }
    )


if __name__ == "__main__":
    main()
