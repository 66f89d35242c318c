"""Losses of recipes under ModelOpt's own quantizer, in ModelOpt's environment: ``python judged_by_modelopt.py JOB``.

``max`` takes the largest magnitude of a channel as its range, and ``mse`` searches the range of the least squared
error; both need no text.  Simulated quantization is folded into the weights, so a forward pass does not repeat it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from own_quantizer import answer, load
from with_modelopt import weights_alone


def quantized(folder: str, bits: int, algorithm: str) -> Any:
    import modelopt.torch.quantization as mtq

    config = weights_alone(bits)
    config["quant_cfg"].append({"quantizer_name": "*lm_head*", "enable": False})
    model = mtq.quantize(load(folder), config | {"algorithm": algorithm})
    mtq.fold_weight(model)
    return model


if __name__ == "__main__":
    answer({f"ModelOpt's {algorithm}": partial(quantized, algorithm=algorithm) for algorithm in ("max", "mse")})
