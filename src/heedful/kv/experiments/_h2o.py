"""H2O's measurements: structure of attention, quality against budget, retained mass, decode speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import LlamaConfig, LlamaForCausalLM

from heedful.kv.evaluate import Episode, play
from heedful.kv.experiments import _work
from heedful.kv.experiments._h2o_claims import BYTE, TEXT
from heedful.kv.experiments.h2o import MAIN, TASK
from heedful.kv.policies import make
from heedful.kv.replay import record, simulate
from heedful.lab import Cell, Context, Row
from heedful.models import text

ROW_SHARE = 0.01
FIRST_ROW = 64
"""Attention rows before this one are too short for a share of small weights to mean anything."""


def _structure(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Sparsity of rows and concentration of columns, trained against randomly initialised."""
    length, count = ctx.params["length"], ctx.params["structure_items"]
    rng = np.random.default_rng([7, cell["seed"]])
    if cell["model"] == BYTE:
        sequences = list(text.stdlib_bytes("held-out", rng, count, length))
    else:
        sequences = [item.tokens for item in _work.items(MAIN, cell["seed"], count, length)]
    model = _work.model(cell["model"], ctx.device, 1000 + cell["seed"] if cell["twin"] else None)
    frequency = np.bincount(np.concatenate(sequences), minlength=512)
    for index, tokens in enumerate(sequences):
        for layer, rows in enumerate(record(model, torch.from_numpy(tokens[None]).to(ctx.device))):
            weights = rows[0].flatten(0, 1).cpu()
            n = weights.shape[-1]
            causal = torch.ones(n, n, dtype=torch.bool).tril()
            late = causal.clone()
            late[:FIRST_ROW] = False
            small = weights < ROW_SHARE * weights.amax(dim=-1, keepdim=True)
            received = weights.sum(dim=1) / torch.arange(n, 0, -1)
            total = weights.sum(dim=1).mean(dim=0).numpy()
            yield {
                "item": 1000 * cell["seed"] + index,
                "layer": layer,
                "sparsity": float(small[:, late].float().mean()),
                "gini": float(np.mean([_gini(head.numpy()) for head in received])),
                "gini_without_sinks": float(np.mean([_gini(head.numpy()) for head in received[:, 4:]])),
                "top_share": float(np.mean([_top_share(head.numpy()) for head in weights.sum(dim=1)])),
                "frequency_correlation": float(spearmanr(total, frequency[tokens]).statistic),
            }


def _gini(values: Any) -> float:
    """Gini coefficient of non-negative values: 0 if all are equal, towards 1 if one has everything."""
    ordered = np.sort(values)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def _top_share(values: Any) -> float:
    """Share of the total that the largest tenth holds."""
    ordered = np.sort(values)[::-1]
    return float(ordered[: max(1, len(ordered) // 10)].sum() / ordered.sum())


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    length, task = ctx.params["length"], cell["task"]
    slots = round(cell["share"] * length)
    if task == TEXT:
        rng = np.random.default_rng([11, cell["seed"]])
        chunks = text.stdlib_bytes("held-out", rng, ctx.params["chunks"], length)
        start = 16
        scored = np.arange(length) >= start
        episodes, work = [Episode(chunk, scored, (start,)) for chunk in chunks], []
        model = _work.model(BYTE, ctx.device)
    else:
        work = _work.items(task, cell["seed"], ctx.params["items"], length)
        episodes, model = (
            [_work.episode(item, task.endswith("@agnostic")) for item in work],
            _work.model(TASK, ctx.device),
        )
    played = play(
        model, _work.policy_for(cell["method"], slots, work), episodes, batch=ctx.params["batch"], device=ctx.device
    )
    for index, result in enumerate(played):
        scored = episodes[index].scored
        right = result.correct[scored]
        row: dict[str, Any] = {
            "item": 1000 * cell["seed"] + index,
            "slots": float(np.mean(result.usage.slots)),
            "peak_slots": float(np.mean(result.usage.peak_slots)),
        }
        if task == TEXT:
            row["bits_per_byte"] = float(result.nats[scored].mean() / np.log(2))
        elif task.startswith(("ledger", "verify")):
            row["accuracy"] = float(right.mean())
        else:
            row["accuracy"] = float(right.all())
        yield row


def _retained(cell: Cell, ctx: Context) -> Iterator[Row]:
    """The attention mass that the online rule retains, against the best set of that size known in hindsight."""
    slots = round(cell["share"] * ctx.params["length"])
    for index, item in enumerate(
        _work.items(cell["task"], cell["seed"], ctx.params["structure_items"], ctx.params["length"])
    ):
        rows = record(_work.model(TASK, ctx.device), torch.from_numpy(item.tokens[None]).to(ctx.device))
        alive = simulate(make("h2o", slots), rows, item.prompt_length)[0]
        ratios = []
        for layer, recorded in enumerate(rows):
            mass = recorded[0].sum(dim=1)[:, item.prompt_length :]
            online = (mass * alive[layer][:, item.prompt_length :]).sum(dim=(1, 2))
            fixed = mass.sum(dim=1).topk(slots + 1).values.sum(dim=1)
            ratios.append(float((online / fixed).mean()))
        yield {"item": 1000 * cell["seed"] + index, "retained_ratio": float(np.mean(ratios))}


def _speed(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Decode speed with caches filled with random entries: speed does not depend on what the weights know."""
    torch.set_num_threads(1)
    torch.manual_seed(cell["seed"])
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=1 << 17,
    )
    model: Any = LlamaForCausalLM(config).eval()
    model.to(ctx.device)
    context, steps = cell["context"], ctx.params["speed_steps"]
    held = context if cell["method"] == "full" else round(cell["share"] * context)
    capacity = held + (2 * steps if cell["method"] == "full" else 1)
    with torch.inference_mode(), make(cell["method"], held).on(model, capacity) as cache:
        batch = cell["batch"]
        _work.fill(cache, held, config, batch, cell["seed"], ctx.device)
        token = torch.zeros(batch, 1, dtype=torch.long, device=ctx.device)
        for step in range(2 * steps):
            if step == steps:
                if ctx.device != "cpu":
                    torch.cuda.synchronize()
                began = time.perf_counter()
            model(
                token,
                position_ids=torch.tensor([[context + step]], device=ctx.device),
                past_key_values=cache,
                use_cache=True,
            )
        if ctx.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        yield {
            "tokens_per_s": batch * steps / seconds,
            "slots": sum(cache.usage().slots) / len(cache.evicting),
            "cache_bytes": float(sum(cache.usage().nbytes)),
        }


PARTS = {"structure": _structure, "quality": _quality, "retained": _retained, "speed": _speed}
