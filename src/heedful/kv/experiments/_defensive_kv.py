"""DefensiveKV's measurements: what importance is retained over decoding, answers under a budget, entries held."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.baselines import Full, Random
from heedful.kv.defensive_kv import DefensiveKV
from heedful.kv.experiments import MODEL, _retrieval, _work
from heedful.kv.experiments.defensive_kv import BYTE, FRAGILE, contenders
from heedful.kv.policies import make
from heedful.kv.prefill import Prefill
from heedful.kv.replay import record
from heedful.kv.shared_prompt import SharedPrompt
from heedful.kv.slots import Slots
from heedful.lab import Cell, Context, Row
from heedful.models import text
from heedful.models.tasks import Item

TINY = 1e-6
"""Attention mass below which a row says nothing about the prompt."""


@dataclass(frozen=True)
class _Lots(Prefill):
    """The control: a random part of the context, the window beside it, chosen once like everybody else's."""

    def score(self, slots: Slots, seen: Seen) -> Tensor:
        return Random(self.budget).score(slots, seen)


def policy_of(spec: str, slots: int, window: int, length: int) -> Any:
    """A contender. All decide when a prompt has been read, and none in decoding; all keep the window."""
    if spec == "full":
        return Full()
    if spec == "random":
        return _Lots(slots, window)
    if spec == "streaming-llm":
        return make(spec, slots, window=length)
    return make(spec, slots, observation_window=window)


def _quality(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Answers under every contender; an item is lost if the full cache answers it and the contender does not."""
    window, length = ctx.params["window"], ctx.params["length"]
    task, _, protocol = cell["task"].partition("@")
    work = None
    if protocol == "repeat":
        seed = 1_000 * cell["seed"] + cell["chunk"]
        items = _work.items(task, seed, ctx.params["items"], length - window)
        work = [repeated(item, window) for item in items]
    solved: dict[int, float] = {}
    for row in _retrieval.measure(
        cell,
        ctx,
        contenders(protocol, ctx.params),
        window=window,
        sums=False,
        policy_for=lambda spec, slots, _: policy_of(spec, slots, window, length),
        work=work,
    ):
        # The full cache comes first. What is held while reading is not measured on a shared prompt.
        found: dict[str, Any] = {name: value for name, value in row.items() if name != "held_peak"}
        yield found | {"lost": solved.setdefault(found["item"], found["accuracy"]) * (1 - found["accuracy"])}


def repeated(item: Item, window: int) -> Item:
    """The item with its question said over and over, so that it fills the last ``window`` tokens of the prompt."""
    start, end = item.spans[0][2], item.prompt_length
    question = item.tokens[start : end - 1]
    more = -(-window // len(question)) - 1
    put = np.tile(question, more)
    nothing = np.zeros(len(put), dtype=bool)
    shift = len(put)
    return dataclasses.replace(
        item,
        tokens=np.insert(item.tokens, start, put),
        scored=np.insert(item.scored, start, nothing),
        prompt_length=end + shift,
        needs={at + shift: needs for at, needs in item.needs.items()},
        last_use=np.insert(item.last_use, start, np.full(len(put), -1)),
        spans=(item.spans[0], *((name, a + shift, b + shift) for name, a, b in item.spans[1:])),
    )


def _fragility(cell: Cell, ctx: Context) -> Iterator[Row]:
    """How much of the attention that decoding pays to the prompt falls on what was kept of it."""
    model = _work.model(MODEL if cell["model"] == "task" else BYTE, ctx.device)
    for index, (tokens, prompt) in enumerate(_sequences(cell, ctx)):
        sequence = torch.from_numpy(tokens[None]).to(ctx.device)
        before = model.config._attn_implementation
        rows = [layer[0] for layer in record(model, sequence)]
        shared = SharedPrompt(model, sequence[:, :prompt], window=ctx.params["window"], sums=False)
        for share in ctx.params["fragile_shares"]:
            slots = int(share * prompt)
            for spec in FRAGILE:
                policy = make(spec, slots, observation_window=ctx.params["window"])
                cache = shared.cache_for(policy)
                kept = [_kept(cache.slots(layer), prompt) for layer in cache.evicting]
                retained = np.concatenate([_retained(r[:, :, prompt:, :prompt], k) for r, k in zip(rows, kept)])
                row: dict[str, Any] = {
                    "item": 1000 * cell["seed"] + index,
                    "method": spec,
                    "share": share,
                    "retained_mean": float(np.nanmean(retained)),
                    "retained_p01": float(np.nanquantile(retained, 0.01)),
                    "retained_min": float(np.nanmin(retained)),
                    "retained_worst_step": float(np.nanmean(retained, axis=0).min()),
                }
                if isinstance(policy, DefensiveKV) and policy.stage1:
                    row["first_stage"] = _first_stage(policy, shared, rows, prompt)
                yield row
        model.set_attn_implementation(before)


def _sequences(cell: Cell, ctx: Context) -> Iterator[tuple[np.ndarray, int]]:
    """Token sequences and the lengths of their prompts: items of a task, or held-out text."""
    length, count = ctx.params["length"], ctx.params["fragile_items"]
    if cell["model"] == "task":
        for item in _work.items(cell["task"], cell["seed"], count, length):
            yield item.tokens, item.prompt_length
    else:
        rng = np.random.default_rng([13, cell["seed"]])
        steps = ctx.params["fragile_steps"]
        for chunk in text.stdlib_bytes("held-out", rng, count, length):
            yield chunk, length - steps


def _kept(slots: Slots, prompt: int) -> Tensor:
    """bool ``[heads, prompt]``: which of the prompt's entries a layer holds."""
    kept = torch.zeros(slots.heads, prompt + 1, dtype=torch.bool)
    position = slots.position[0].cpu().long()
    kept.scatter_(1, torch.where(position < 0, prompt, position), True)
    return kept[:, :prompt]


def _retained(rows: Tensor, kept: Tensor) -> np.ndarray:
    """The share of the prompt's mass that is on kept entries, ``[query heads, steps]``; NaN where there is none.

    Args:
        rows: ``[heads, group, steps, prompt]``.
        kept: bool ``[heads, prompt]``.
    """
    mass = rows.sum(dim=-1)
    held = (rows * kept.to(rows.device)[:, None, None]).sum(dim=-1)
    return (held / mass).masked_fill(mass < TINY, torch.nan).flatten(0, 1).cpu().double().numpy()


def _first_stage(policy: DefensiveKV, shared: SharedPrompt, rows: Sequence[Tensor], prompt: int) -> float:
    """Share of the budget beyond the window that the first stage hands out, over all layers and heads."""
    window, shares = policy.observation_window, []
    for index, layer in enumerate(shared.cache.evicting):
        slots = shared.cache.slots(layer)
        last = rows[index][None, :, :, prompt - window : prompt, :prompt]
        there = torch.ones(1, slots.heads, prompt - window, dtype=torch.bool, device=last.device)
        first = policy.first_stage(slots, last, there)
        shares.append(float(first.sum()) / (slots.heads * (int(policy.room(slots)[0]) - window)))
    return float(np.mean(shares))


def _peak(cell: Cell, ctx: Context) -> Iterator[Row]:
    """Entries that all layers together hold while a prompt is read, in a pass of the policy's own."""
    model, length, window = _work.model(MODEL, ctx.device), ctx.params["length"], ctx.params["window"]
    for index, item in enumerate(_work.items(cell["task"], cell["seed"], ctx.params["fragile_items"], length)):
        prompt = torch.from_numpy(item.tokens[None, : item.prompt_length]).to(ctx.device)
        for share in ctx.params["fragile_shares"]:
            slots = int(share * item.prompt_length)
            for spec in ("full", "defensivekv", "layer-defensivekv"):
                with torch.inference_mode(), policy_of(spec, slots, window, length).on(model) as cache:
                    model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    held = cache.usage().held_peak
                    layers = len(cache.evicting)
                bound = layers * item.prompt_length if spec == "full" else layers * slots + item.prompt_length - window
                yield {
                    "item": 1000 * cell["seed"] + index,
                    "method": spec,
                    "share": share,
                    "held_peak": held / layers,
                    "over_bound": float(held > bound),
                }


PARTS = {"quality": _quality, "fragility": _fragility, "peak": _peak}
