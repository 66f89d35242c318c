"""A GPT-2 at one bitmap as a GGUF file, for llama.cpp and what else reads them.

Weight widths name a tensor's type: 4 is Q4_0, 8 is Q8_0, 16 is F16 and 32 is F32; biases, norms and positions are F32.
GGUF has no branches, so the active adapters are merged before rounding, whatever merge order the model trains with,
and no widths of activations or cache, which are the reader's business.  Such a file is therefore not what the
:class:`SwitchableModel` computes; :func:`gguf_values` says exactly what it holds, and
:mod:`qalof.export.packed` is the exact form.

Names are those of the architecture ``gpt2`` in the ``gguf`` package (``constants.MODEL_TENSORS``); weights are
(out, in), the transpose of what transformers' Conv1D stores.  Without ``output.weight`` a reader takes the embedding.
Needs the extra ``gguf``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export import gguf_blocks
from qalof.export.gguf_blocks import BlockType
from qalof.export.packed import active_branch, active_tensor, layers_of, running_at
from qalof.model.sites import HeadMode, Site
from qalof.model.switchable import HeadKind, SwitchableModel

TYPES = {4: "Q4_0", 8: "Q8_0", 16: "F16", 32: "F32"}
"""Weight width -> GGUF's name of the type."""
_LEAVES = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_NORMS = {"ln_1": "attn_norm", "ln_2": "ffn_norm"}
_GELUS = ("gelu_new", "gelu_pytorch_tanh")
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q4_0": "MOSTLY_Q4_0", "Q8_0": "MOSTLY_Q8_0"}


def write_gguf(
    model: SwitchableModel, bitmap: Bitmap | str | int, path: Path, tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """Write ``model`` at ``bitmap``; ``path`` appears whole or not at all.

    Args:
        model: a GPT-2 with its language-modelling head.
        bitmap: of weight widths 4, 8, 16 and 32.
        path: of the file; an older one is replaced.
        tokenizer: a byte-level BPE; it goes into the file.

    Returns:
        Type by tensor name.

    Raises:
        BadInputError: another architecture or width, rows that have no whole blocks, no ``gguf`` package.
    """
    gguf = _package()
    tensors, types = _tensors_and_types(model, bitmap)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
        place = Path(beside) / path.name
        writer = gguf.GGUFWriter(place, "gpt2")
        _describe(writer, model, types, tensors)
        _add_tokenizer(writer, tokenizer, len(tensors["token_embd.weight"]))
        for name, tensor in tensors.items():
            stored = stored_form(tensor, types[name])
            writer.add_tensor(name, stored.numpy(), raw_dtype=gguf.GGMLQuantizationType[types[name]])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        place.replace(path)
    return types


def gguf_values(model: SwitchableModel, bitmap: Bitmap | str | int) -> dict[str, torch.Tensor]:
    """What the file of ``model`` at ``bitmap`` holds: values by GGUF's names, fp32, (out, in).

    Raises:
        BadInputError: as :func:`write_gguf`.
    """
    tensors, types = _tensors_and_types(model, bitmap)
    return {name: values_of(stored_form(tensor, types[name]), types[name]) for name, tensor in tensors.items()}


def read_gguf(path: Path) -> dict[str, torch.Tensor]:
    """Values of a file's tensors by name, fp32, (out, in).

    Raises:
        BadInputError: no GGUF file, or a tensor of another type than this module writes.
    """
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BadInputError(f"{path} must be a GGUF file: {error}; write it again") from None
    values = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        if kind not in TYPES.values():
            raise BadInputError(f"{path} must hold {', '.join(TYPES.values())} only: {tensor.name} is {kind}")
        values[tensor.name] = values_of(torch.from_numpy(tensor.data.copy()), kind)
    return values


def stored_form(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """``tensor`` as type ``kind`` holds it: blocks of bytes, fp16 or fp32."""
    if kind in set(BlockType):
        return gguf_blocks.encode(tensor, BlockType(kind))
    half = tensor.to(torch.float16 if kind == "F16" else torch.float32)
    if not torch.isfinite(half).all():
        raise BadInputError(f"weights must be finite as {kind}: one is beyond its range; take 32 bits there")
    return half


def values_of(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """The values of :func:`stored_form`, fp32."""
    return gguf_blocks.decode(stored, BlockType(kind)) if kind in set(BlockType) else stored.to(torch.float32)


@torch.no_grad()
def _tensors_and_types(
    model: SwitchableModel, bitmap: Bitmap | str | int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    config = model.model.config
    if config.model_type != "gpt2" or model.base.head is not HeadKind.CAUSAL_LM:
        raise BadInputError(
            f"a GGUF file is written of GPT-2 with its language-modelling head: got {config.model_type} with "
            f"{model.base.head}; export packed integers instead"
        )
    if config.activation_function not in _GELUS:
        law = f"GGUF's gpt2 has GELU by tanh ({' or '.join(_GELUS)})"
        raise BadInputError(f"{law}: got activation {config.activation_function}; export packed integers instead")
    tensors: dict[str, torch.Tensor] = {}
    types: dict[str, str] = {}
    with running_at(model, bitmap) as parsed:
        for name, source in _plain_names(config.n_layer).items():
            tensors[name], types[name] = active_tensor(model.model, source).detach().cpu(), "F32"
        sites = {site.name: site for site in model.sites}
        for index in range(config.n_layer):
            for leaf, short in _LEAVES.items():
                name, goal = f"h.{index}.{leaf}", f"blk.{index}.{short}"
                if name in sites:
                    types[f"{goal}.weight"] = _type(parsed, sites[name])
                    weight, bias = _merged(model, sites[name]), layers_of(model, sites[name])[0].bias
                else:
                    layer = model.model.get_submodule(f"transformer.{name}")
                    types[f"{goal}.weight"], weight, bias = "F32", layer.weight.T, layer.bias
                tensors[f"{goal}.weight"] = weight.detach().cpu().contiguous()
                tensors[f"{goal}.bias"], types[f"{goal}.bias"] = bias.detach().cpu(), "F32"
        for site in model.sites:
            if site.is_head:
                both = model.settings.head_mode is HeadMode.TIED_BOTH
                name = "token_embd.weight" if both else "output.weight"
                tensors[name], types[name] = _merged(model, site).detach().cpu(), _type(parsed, site)
        if "output.weight" not in tensors and not config.tie_word_embeddings:
            tensors["output.weight"], types["output.weight"] = model.model.lm_head.weight.detach().cpu(), "F32"
    return tensors, types


def _plain_names(blocks: int) -> dict[str, str]:
    """GGUF's name -> transformers', of what is never quantized."""
    names = {"token_embd.weight": "transformer.wte.weight", "position_embd.weight": "transformer.wpe.weight"}
    for part in ("weight", "bias"):
        names[f"output_norm.{part}"] = f"transformer.ln_f.{part}"
        for index in range(blocks):
            for leaf, short in _NORMS.items():
                names[f"blk.{index}.{short}.{part}"] = f"transformer.h.{index}.{leaf}.{part}"
    return names


def _merged(model: SwitchableModel, site: Site) -> torch.Tensor:
    linear, lora = layers_of(model, site)
    if linear.fixed_codes:
        raise BadInputError(
            f"a GGUF file has grids of its own: {site.name} has codes on another one, as GPTQ finds them; export packed"
        )
    branch = active_branch(lora)
    if branch is None:
        return linear.weight
    if site.is_head and model.settings.head_mode is HeadMode.TIED_BOTH:
        raise BadInputError(
            "an adapter may be merged into a head only where the embedding does not change with it: got head_mode "
            "tied_both; take tied_view or untied"
        )
    a, b, scaling = branch
    return linear.weight + scaling * (b @ a)


def _type(bitmap: Bitmap, site: Site) -> str:
    bits = bitmap[site.name].weight
    if bits not in TYPES:
        law = ", ".join(f"{width} ({kind})" for width, kind in TYPES.items())
        raise BadInputError(f"weight widths of a GGUF file are {law}: {site.name} has {bits}")
    return TYPES[bits]


def _describe(writer: Any, model: SwitchableModel, types: Mapping[str, str], tensors: Mapping[str, Any]) -> None:
    gguf, config = _package(), model.model.config
    weights: Counter[str] = Counter()
    for name, kind in types.items():
        if name.startswith("blk.") and tensors[name].dim() == 2:
            weights[kind] += tensors[name].numel()
    writer.add_name(Path(model.base.source).name)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[weights.most_common(1)[0][0]]])


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    kinds = _package().TokenType
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if described["model"]["type"] != "BPE":
        raise BadInputError(f"GGUF's gpt2 tokenizer is a byte-level BPE: got {described['model']['type']}")
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    # an embedding may have more rows than there are tokens, and a reader wants a name for each
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            kinds.UNUSED if number not in by_id else kinds.CONTROL if number in special else kinds.NORMAL
            for number in range(rows)
        ]
    )
    pairs = described["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
    ):
        if number is not None:
            add(number)


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise BadInputError(
            "GGUF files need the package gguf: it is not installed; pip install 'qalof[gguf]'"
        ) from None
    return gguf
