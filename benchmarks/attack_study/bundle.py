"""What the study reads, in a folder that can travel to a machine with nothing but torch, transformers, peft and scipy.

A folder of: ``sst2/`` and ``ag_news/`` with ``train.jsonl`` and ``dev.jsonl``; ``labels.json``; ``synonyms.jsonl``
(Open English WordNet); ``encoder/``, a sentence encoder whose weights were rounded to fp16; ``model/``, the language
model's config and tokenizer, with its weights as ``weights-0.npz`` and ``weights-1.npz``: the very blocks of its GGUF
file (Q4_1 and Q8_0), under Hugging Face's names, which :func:`unpacked` turns into fp32.  ``site/`` holds the one pure
Python package that such a machine may lack.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

DATA = ("sst2", "ag_news")
PARTS = 2
_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def prepare(raw: Path, folder: Path, model: str, encoder: str) -> dict[str, float]:
    """Fill ``folder`` from the data below ``raw`` and two model sources; returns the size of each part in MB."""
    import platformdirs

    folder.mkdir(parents=True, exist_ok=True)
    for name in DATA:
        (folder / name).mkdir(exist_ok=True)
        for split in ("train", "dev"):
            place = Path(name) / f"{split}.jsonl"
            (folder / place).write_bytes((raw / "classification" / place).read_bytes())
    (folder / "labels.json").write_bytes((raw / "classification" / "labels.json").read_bytes())
    (folder / "synonyms.jsonl").write_bytes((raw / "synonyms" / "oewn_synonyms.jsonl").read_bytes())
    source = Path(platformdirs.__file__).parent
    shutil.copytree(
        source, folder / "site" / "platformdirs", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    _half(encoder, folder / "encoder")
    _pack(model, folder / "model")
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    parts: dict[str, float] = {}
    for path, size in sizes.items():
        where = path.relative_to(folder)
        part = str(where) if where.name.startswith("weights-") else where.parts[0]
        parts[part] = round(parts.get(part, 0) + size / 1e6, 2)
    return parts


def unpacked(model: Path, place: Path) -> Path:
    """Return a folder that transformers loads: ``model`` itself, or ``place``, filled from its packed weights."""
    if (model / "model.safetensors").is_file():
        return model
    if not (place / "model.safetensors").is_file():
        place.mkdir(parents=True, exist_ok=True)
        for path in model.iterdir():
            if path.suffix != ".npz":
                shutil.copyfile(path, place / path.name)
        tensors: dict[str, torch.Tensor] = {}
        for part in range(PARTS):
            with np.load(model / f"weights-{part}.npz") as stored:
                tensors |= {name.partition("|")[2]: _decoded(name.partition("|")[0], stored[name]) for name in stored}
        beside = place / "partial"
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.rename(place / "model.safetensors")
    return place


def _half(source: str, folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from qalof.model.pretrained import resolve_source

    place = resolve_source(source)
    AutoModel.from_pretrained(place, dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(place).save_pretrained(folder)


def _pack(source: str, folder: Path) -> None:
    """Store a GGUF file's blocks by Hugging Face's names; checked to decode to the converted model's very weights."""
    from gguf import GGUFReader

    from qalof.cache import CACHED, models_dir
    from qalof.model.gguf_source import find_gguf
    from qalof.model.pretrained import resolve_source

    place = models_dir() / source.removeprefix(CACHED) if source.startswith(CACHED) else Path(source)
    file, whole = find_gguf(place), Path(resolve_source(source))
    assert file is not None, f"{source} must be a GGUF file or hold one"
    folder.mkdir(parents=True, exist_ok=True)
    for path in whole.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    config, expected = _json(whole / "config.json"), load_file(whole / "model.safetensors")
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(PARTS)]
    for index, tensor in enumerate(GGUFReader(file).tensors):
        kind, name = tensor.tensor_type.name, _hugging_face(tensor.name)
        stored = np.array(tensor.data)
        if re.search(r"attn_[qk]\.", tensor.name):
            heads = config["num_attention_heads" if "attn_q." in tensor.name else "num_key_value_heads"]
            stored = stored.reshape(heads, len(stored) // heads // 2, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        assert torch.equal(_decoded(kind, stored), expected[name]), name
        # the embedding is a third of everything: it goes into the first part alone, the blocks into both
        parts[0 if index == 0 or sum(v.nbytes for v in parts[0].values()) < 48e6 else 1][f"{kind}|{name}"] = stored
    for number, part in enumerate(parts):
        np.savez(folder / f"weights-{number}.npz", **part)


def _hugging_face(name: str) -> str:
    block, _, rest = name.removeprefix("blk.").partition(".") if name.startswith("blk.") else ("", "", name)
    stem, _, leaf = rest.rpartition(".")
    return f"model.layers.{block}.{_NAMES[stem]}.{leaf}" if block else f"{_NAMES[stem]}.{leaf}"


def _decoded(kind: str, stored: np.ndarray) -> torch.Tensor:
    """Return fp32 weights of rows of GGUF blocks: Q4_1 is d q + m in 20 bytes, Q8_0 is d q in 34, of 32 weights."""
    if kind == "F32":
        return torch.from_numpy(np.array(stored, dtype=np.float32))
    size = {"Q4_1": 20, "Q8_0": 34}[kind]
    blocks = stored.reshape(len(stored), -1, size)
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        found = scale * np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.float32)
    else:
        least = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16).astype(np.float32)
        codes = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1).astype(np.float32)
        found = scale * codes + least
    return torch.from_numpy(found.reshape(len(stored), -1))


def _json(path: Path) -> Mapping[str, Any]:
    import json

    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
