"""Named schemes: which quantizers belong together, so a config needs only ``quantization: grouped``.

A scheme says how tensors are rounded; a bitmap says to how many bits.  S1 to S4 are the systems of docs/systems.md.

===========  ======================================  ==========================  ==================================
name         weights                                 activations, cache          taken from
===========  ======================================  ==========================  ==================================
``default``  symmetric, per output channel           symmetric, per token        S1, S2 and S3 (``s1``, ``s2``, ``s3``)
``grouped``  symmetric, groups of 32, fp16 scales    symmetric, per token        for real models: GGUF's Q4_0 and most
                                                                                 4-bit formats group so
``s4``       logarithmic, per output channel         asymmetric, per token       S4
``gguf``     GGUF's own blocks (Q4_0, Q5_0, Q8_0)    symmetric, per token        llama.cpp's files, bit for bit
``nf4``      at 4 bits NormalFloat in groups of 64,  symmetric, per token        bitsandbytes (S1's 4 bits)
             otherwise symmetric in such groups
===========  ======================================  ==========================  ==================================

Real models have weights whose channels contain a few large values, and one scale per channel then wastes the few levels
of 4 bits on them; one scale per 32 weights costs half a bit per weight and buys more than any other choice here
(measured in docs/handbook.md).  Groups of 64 or 128 cost a quarter or an eighth of a bit.  ``grouped`` is not the
default because the references do not group, and checkpoints store their scheme in full. ``{scheme: NAME, ...}`` is that
scheme with the other keys replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qalof.errors import BadInputError, nearest_hint

_TOKEN = {"quantizer": {"method": "symmetric", "granularity": "token"}}
_GROUPS: dict[str, Any] = {"method": "symmetric", "granularity": "group", "scale_dtype": "float16"}
_ASYMMETRIC = {"quantizer": {"method": "asymmetric", "granularity": "token"}}

SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "s1": {},
    "s2": {},
    "s3": {},
    "s4": {
        "weight": {"quantizer": {"method": "log", "granularity": "channel"}},
        "activation": _ASYMMETRIC,
        "kv": _ASYMMETRIC,
    },
    "grouped": {"weight": {"quantizer": _GROUPS | {"group_size": 32}}, "activation": _TOKEN, "kv": _TOKEN},
    "gguf": {
        "weight": {"quantizer": {"method": "gguf"}, "by_width": {"16": {"method": "float16"}}},
        "activation": _TOKEN,
        "kv": _TOKEN,
    },
    "nf4": {
        "weight": {
            "quantizer": _GROUPS | {"group_size": 64},
            "by_width": {"4": {"method": "nf4", "granularity": "group", "group_size": 64}},
        },
        "activation": _TOKEN,
        "kv": _TOKEN,
    },
}
"""The schemes by name, as :meth:`qalof.quantization.scheme.QuantizationScheme.from_json` reads them."""


def with_scheme(data: Any) -> Any:
    """Return ``data`` with the scheme that it names spelled out; a name alone stands for that scheme.

    Raises:
        BadInputError: No scheme has that name.
    """
    if isinstance(data, str):
        data = {"scheme": data}
    if not isinstance(data, Mapping) or "scheme" not in data:
        return data
    name = data["scheme"]
    if name not in SCHEMES:
        raise BadInputError(
            f"quantization.scheme must be a known one: got {name!r}; {nearest_hint(str(name), SCHEMES)}"
        )
    return {**SCHEMES[name], **{key: value for key, value in data.items() if key != "scheme"}}
