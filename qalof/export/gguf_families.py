"""Model families in GGUF: names of tensors, hyperparameters, and what a file cannot express.

Names are those of the ``gguf`` package (``constants.MODEL_TENSORS``) and of llama.cpp's converter; that llama.cpp
computes the same is tested by running it (``make test-runtime``).  GPT-2, Llama and Qwen2 are known, since they have
been run; another family is refused instead of guessed.

llama.cpp rotates pairs of neighbors in the architecture ``llama``, whereas transformers rotates a first half against a
second. So rows of queries and keys are written interleaved there, in each head 0, n/2, 1, n/2 + 1, ...  ``qwen2``
rotates as transformers does.  Blocks run along a row, so whole rows may change places without a change of any number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from qalof.errors import BadInputError

_GELUS = ("gelu_new", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class Family:
    """``architecture``: GGUF's name; paths inside the base model.

    ``block``: a format of the block's index; ``linears``, ``norms``: a block's layer -> GGUF's name, without its
    ``blk.N.``; ``others``: GGUF's name -> path; ``norm_parts``: what a norm has; ``interleaved``: GGUF's name -> the
    config's field with its number of heads; ``describe``: hyperparameters; ``check``: refuses what a file cannot say.
    """

    architecture: str
    block: str
    linears: Mapping[str, str]
    norms: Mapping[str, str]
    others: Mapping[str, str]
    norm_parts: tuple[str, ...]
    describe: Callable[[Any, Any], None]
    check: Callable[[Any], None]
    interleaved: Mapping[str, str] = field(default_factory=dict)

    def rows(self, short: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
        """Return ``tensor`` (out, ...) of the layer ``short`` in the row order of the file."""
        if short not in self.interleaved:
            return tensor
        heads = getattr(config, self.interleaved[short])
        interleaved: torch.Tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2)
        return interleaved.reshape(tensor.shape)

    def tensor_of(self, site: str) -> tuple[str, str]:
        """Return GGUF's whole and short name of a site's weight, without ``.weight``; that of the head is
        ``output``.
        """
        stem = self.block.removesuffix("{}")
        if site.startswith(stem):
            index, _, leaf = site.removeprefix(stem).partition(".")
            if index.isdecimal() and leaf in self.linears:
                return f"blk.{index}.{self.linears[leaf]}", self.linears[leaf]
        return "output", "output"


def family_of(config: Any) -> Family:
    """Return the family of a transformers config.

    Raises:
        BadInputError: The family is unknown, or a file cannot describe the model.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise BadInputError(
            f"a GGUF file is written of {', '.join(FAMILIES)}: got {config.model_type}; export packed integers instead"
        )
    family.check(config)
    return family


def _refuse(law: str, found: Any) -> None:
    raise BadInputError(f"{law}: got {found}; export packed integers instead")


def _check_gpt2(config: Any) -> None:
    if config.activation_function not in _GELUS:
        _refuse(f"GGUF's gpt2 has GELU by tanh ({' or '.join(_GELUS)})", f"activation {config.activation_function}")
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        _refuse("GGUF's gpt2 scales attention by its head size, alike in all blocks", "another scaling")
    if config.add_cross_attention:
        _refuse("GGUF's gpt2 is a decoder alone", "add_cross_attention")


def _check_llama(config: Any) -> None:
    if config.hidden_act != "silu":
        _refuse(f"GGUF's {config.model_type} has activation silu", config.hidden_act)
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        _refuse("rotary positions are written unscaled and of whole heads", dict(rope))
    if getattr(config, "use_sliding_window", False):
        _refuse("GGUF's qwen2 attends to all tokens", "use_sliding_window")
    if getattr(config, "head_dim", None) not in (None, config.hidden_size // config.num_attention_heads):
        _refuse("heads are as wide as hidden_size / num_attention_heads", f"head_dim {config.head_dim}")


def _describe_gpt2(writer: Any, config: Any) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _describe_llama(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


_LLAMA: dict[str, Any] = {
    "block": "layers.{}",
    "linears": {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
    "norms": {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    "others": {"token_embd": "embed_tokens", "output_norm": "norm"},
    "norm_parts": ("weight",),
    "describe": _describe_llama,
    "check": _check_llama,
}
FAMILIES = {
    "gpt2": Family(
        "gpt2",
        "h.{}",
        {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
        {"ln_1": "attn_norm", "ln_2": "ffn_norm"},
        {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f"},
        ("weight", "bias"),
        _describe_gpt2,
        _check_gpt2,
    ),
    "llama": Family("llama", **_LLAMA, interleaved={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}),
    "qwen2": Family("qwen2", **_LLAMA),
}
"""The families, by the ``model_type`` of transformers."""
