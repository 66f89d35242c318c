"""Losses of recipes under AutoRound's own quantizer, in AutoRound's environment: ``python judged_by_autoround.py JOB``.

This is its mode ``rtn``: ``iters=0``, without the search of scales that is weighted by activations.  Its grid reaches
one level further on the side of the largest magnitude, and scales are float16.  Without ``amp=False`` the tool turns
the model into bfloat16.
"""

from __future__ import annotations

import os
from typing import Any

from own_quantizer import answer, load
from with_autoround import whole_channels


def quantized(folder: str, bits: int) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import auto_round
    from transformers import AutoTokenizer

    scheme = whole_channels(auto_round.QuantizationScheme, bits)
    tool = auto_round.AutoRound(
        model=load(folder), tokenizer=AutoTokenizer.from_pretrained(folder), scheme=scheme, iters=0,
        disable_opt_rtn=True, amp=False,
    )  # fmt: skip
    model, _ = tool.quantize()
    return model


if __name__ == "__main__":
    answer({"AutoRound's RTN": quantized})
