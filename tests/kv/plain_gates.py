"""Attention-Gate's flags token by token, and what a cache holds by them; for its tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heedful.kv import AttentionGate
from heedful.kv.gates import Gates, Rules
from heedful.kv.parts import store

HEADS, SIZE, STORED = 2, 4, 2
DEFAULT = Rules()
MakeGate = Callable[..., AttentionGate]


def random_gates(folder: Path) -> MakeGate:
    """``make(model, rules, bias=..., heads=..., **options)``: a policy with random gates; half is let through.

    Their files lie in ``folder``.
    """
    made: dict[Any, Path] = {}

    def make(
        model: Any, rules: Rules = DEFAULT, bias: float = 0.0, heads: int = HEADS, seed: int = 3, **options: Any
    ) -> AttentionGate:
        key = model, rules, bias, heads, seed  # the model itself, kept alive: an address can come again
        if key not in made:
            gates = Gates.new(model, rules, heads, SIZE, bias, seed)
            for name, weight in gates.named_parameters():
                if name.endswith(("query", "key")):
                    weight.data *= 2
            path = folder / f"{len(made)}.safetensors"
            store(path, gates.parts(model))
            made[key] = path
        return AttentionGate(parts=str(made[key]), **options)

    return make


def positions(cache: Any) -> list[list[list[set[int]]]]:
    return [
        [[{p for p in head.tolist() if p >= 0} for head in item] for item in cache.slots(i).position]
        for i in cache.evicting
    ]


def forward(model: Any, ids: Tensor, cache: Any, mask: Tensor | None = None) -> Tensor:
    position = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(ids, attention_mask=mask, position_ids=position, past_key_values=cache).logits


def inputs_of(model: Any, run: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
    """What ``run`` returns, and the inputs of the attention modules meanwhile."""
    found: list[Tensor] = []
    hooks = [
        layer.input_layernorm.register_forward_hook(lambda _m, _a, out: found.append(out.detach()))
        for layer in model.model.layers
    ]
    try:
        return run(), found
    finally:
        for hook in hooks:
            hook.remove()


def scores(gates: Gates, layer: int, x: Tensor) -> Tensor:
    """G of one sequence ``[n, D]``, token by token and head by head: ``[stored, n]``."""
    gate: Any = gates[str(layer)]
    n, out = len(x), torch.empty(STORED, len(x), dtype=x.dtype)
    for i in range(n):
        parts = []
        for a in range(HEADS) if gate.heads else ():
            rows = slice(a * SIZE, (a + 1) * SIZE)
            q, seen = gate.query[rows].to(x.dtype) @ x[i], range(i + 1 if gates.rules.context == "prefix" else n)
            logits = torch.stack([q @ (gate.key[rows].to(x.dtype) @ x[j]) / math.sqrt(SIZE) for j in seen])
            values = torch.stack([gate.value[rows].to(x.dtype) @ x[j] for j in seen])
            parts.append(logits.softmax(0) @ values)
        z = torch.cat(parts) if parts else x[i]
        for head in range(STORED):
            out[head, i] = 1 / (1 + torch.exp(-(gate.score[head].to(x.dtype) @ z + gate.bias[head])))
    return out.detach()
