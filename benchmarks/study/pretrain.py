"""Next-token pretraining of a GPT-2 of our own; resumable, and the same however often it is cut off (on one device)."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from study.clock import Clock
from study.data import pretraining_tokens
from study.scales import Scale

REPORT_EVERY = 50


def new_model(scale: Scale) -> GPT2LMHeadModel:
    """Fresh weights, GPT-2's vocabulary; no dropout, since no pass over the data is seen often."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=scale.width, n_layer=scale.blocks, n_head=scale.heads, n_positions=scale.positions,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def rate_at(scale: Scale, step: int) -> float:
    """Warm-up over a fiftieth of the run, then a cosine to a tenth."""
    warmup = max(1, scale.pretrain_steps // 50)
    done = max(0, step - warmup) / max(1, scale.pretrain_steps - warmup)
    return scale.pretrain_rate * min((step + 1) / warmup, 0.55 + 0.45 * math.cos(math.pi * done))


def pretrain(data: Path, place: Path, scale: Scale, device: torch.device, clock: Clock) -> dict[str, Any] | None:
    """Train until done or out of time; None in the latter case, with the state kept in ``place``."""
    tokens, valid = pretraining_tokens(data)
    model = new_model(scale).to(device).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), fused=device.type == "cuda")
    step, seconds = _load(place, model, optimizer)
    run = torch.compile(model) if device.type == "cuda" else model
    blocks = len(tokens) // scale.pretrain_context
    losses: list[float] = []
    began = time.monotonic()
    while step < scale.pretrain_steps and not clock.out:
        batch = _batch(tokens, blocks, scale, step).to(device)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(scale, step)
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(run, batch, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % REPORT_EVERY == 0 or step == scale.pretrain_steps:
            losses.append(loss.item())
            print(f"pretrain {step}/{scale.pretrain_steps}  loss {losses[-1]:.3f}", file=sys.stderr)
    seconds += time.monotonic() - began
    if step < scale.pretrain_steps:
        _save(place, model, optimizer, step, seconds)
        return None
    model.save_pretrained(place / "model")
    for file in (data / "tokenizer").iterdir():
        shutil.copyfile(file, place / "model" / file.name)
    seen = scale.pretrain_steps * scale.pretrain_batch * scale.pretrain_context
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_of_text": len(tokens),
        "tokens_seen": seen,
        "tokens_per_second": round(seen / seconds),
        "last_loss": losses[-1],
        "validation_loss": _validate(model, valid, scale, device),
        "seconds": round(seconds, 1),
    }


def _batch(tokens: np.ndarray, blocks: int, scale: Scale, step: int) -> torch.Tensor:
    """(batch, context): blocks reshuffled for each pass, a pure function of the step."""
    rows = []
    for place in range(step * scale.pretrain_batch, (step + 1) * scale.pretrain_batch):
        order = _order(blocks, place // blocks)
        at = int(order[place % blocks]) * scale.pretrain_context
        rows.append(tokens[at : at + scale.pretrain_context])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


_orders: dict[tuple[int, int], np.ndarray] = {}


def _order(blocks: int, epoch: int) -> np.ndarray:
    if (blocks, epoch) not in _orders:
        _orders[(blocks, epoch)] = np.random.default_rng((0, epoch)).permutation(blocks)
    return _orders[(blocks, epoch)]


def _loss(model: Any, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(batch).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def _validate(model: GPT2LMHeadModel, valid: np.ndarray, scale: Scale, device: torch.device) -> float:
    model.eval()
    length = scale.pretrain_context
    rows = torch.from_numpy(valid[: len(valid) // length * length].astype(np.int64)).view(-1, length)
    losses = [_loss(model, chunk.to(device), device).item() * len(chunk) for chunk in rows.split(16)]
    return sum(losses) / len(rows)


def _save(place: Path, model: GPT2LMHeadModel, optimizer: Any, step: int, seconds: float) -> None:
    place.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach()
    beside = place / "state.partial"
    header = {"progress": json.dumps({"step": step, "seconds": seconds})}
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, beside, metadata=header)
    beside.replace(place / "state.safetensors")


def _load(place: Path, model: GPT2LMHeadModel, optimizer: Any) -> tuple[int, float]:
    path = place / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq")
            state = {key: tensors[f"{key}/{name}"] for key in keys if f"{key}/{name}" in tensors}
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
    return progress["step"], progress["seconds"]
