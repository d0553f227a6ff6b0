"""Policies on recorded attention: seconds per policy instead of minutes, and no feedback through the model.

A full-cache pass records every attention row once. A replay feeds each row, renormalised over what a policy still
holds, to that policy; renormalising a softmax over a subset is the softmax over the subset. What replay leaves out is
that a model which has lost entries would have produced other queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.kv.attention import Seen
from heedful.kv.base import Policy, Reads
from heedful.kv.slots import Slots


@dataclass(frozen=True)
class _Recorder(Policy):
    """Keeps everything and notes every row."""

    @property
    def reads(self) -> Reads:
        return Reads(prompt="rows")

    def begin(self, layers: int) -> list[Tensor]:
        return []

    def prompted(self, slots: Slots, seen: Seen) -> None:
        assert seen.rows is not None
        slots.state.append(seen.rows)


@torch.inference_mode()
def record(model: Any, tokens: Tensor) -> list[Tensor]:
    """The full-cache attention rows of equally long sequences, one tensor per full-attention layer.

    Args:
        model: a Hugging Face causal language model.
        tokens: int64 ``[batch, T]``, no padding.

    Returns:
        per layer ``[batch, KV heads, group, T, T]``, float32; memory grows with the square of T.
    """
    with _Recorder().on(model) as cache:
        model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return list(cache.state)


@torch.inference_mode()
def simulate(policy: Policy, rows: Sequence[Tensor], prompt: int) -> Tensor:
    """Which entries each query finds alive.

    Args:
        policy: the policy; it sees the recorded rows renormalised over what it holds.
        rows: per layer ``[batch, heads, group, T, T]``, causal, from :func:`record`. A policy that stores per query
            head needs group 1: ``rows.flatten(1, 2).unsqueeze(2)``.
        prompt: leading tokens that come at once; the others come one at a time.

    Returns:
        bool ``[batch, layers, heads, T, T]``: ``[..., t, p]`` tells whether query t found entry p; row t is what is
        held after token t has arrived and before the policy decides.

    Raises ValueError if ``prompt`` is not within 1..T, or the policy needs more than attention rows.
    """
    batch, heads, _, length, _ = rows[0].shape
    if not 1 <= prompt <= length:
        raise ValueError(f"prompt={prompt}: must be within 1..{length}, the recorded length")
    reads = policy.reads
    if reads.hidden or reads.outputs or reads.queries or reads.inputs or type(policy).passed is not Policy.passed:
        raise ValueError(f"{policy.name}: needs more than attention rows, so it cannot be replayed")
    alive = torch.zeros(batch, len(rows), heads, length, length, dtype=torch.bool)
    triangle = torch.ones(length, length, dtype=torch.bool).tril()
    state = policy.begin(len(rows))
    stores = [Slots(layer, policy, state) for layer in range(len(rows))]
    for layer, (slots, recorded) in enumerate(zip(stores, rows)):
        nothing = recorded.new_empty(batch, heads, prompt, 0)
        slots.append(nothing, nothing)
        alive[:, layer, :, :prompt] = triangle[:prompt]
        policy.prompted(slots, _of_prompt(reads, recorded, prompt))
        slots.fresh = False
    for layer, (slots, recorded) in enumerate(zip(stores, rows)):
        nothing = recorded.new_empty(batch, heads, 1, 0)
        for t in range(prompt, length):
            slots.append(nothing, nothing)
            slots.steps += 1
            where = slots.position.long()
            held = where.clamp(min=0)
            alive[:, layer, :, t].scatter_(-1, held.cpu(), (where >= 0).cpu())
            if reads.step:
                row = recorded[:, :, :, t].gather(-1, held[:, :, None].expand(-1, -1, recorded.shape[2], -1))
                if (where < 0).any():
                    row = row.masked_fill((where < 0)[:, :, None], 0.0)
                seen = Seen(rows=(row / row.sum(dim=-1, keepdim=True).clamp(min=1e-30)).unsqueeze(3))
            else:
                seen = Seen()
            policy.decoded(slots, seen)
    return alive


def _of_prompt(reads: Reads, recorded: Tensor, prompt: int) -> Seen:
    square = recorded[:, :, :, :prompt, :prompt]
    if reads.prompt == "sums":
        return Seen(sums=square.sum(dim=(2, 3)))
    if reads.prompt == "last":
        return Seen(rows=square[:, :, :, -reads.window :])
    return Seen(rows=square) if reads.prompt == "rows" else Seen()


def hits(alive: Tensor, needs: Mapping[int, Sequence[Sequence[int]]]) -> dict[int, float]:
    """How much of what a prediction needs was still there when it was made.

    Args:
        alive: bool ``[layers, heads, T, T]``, one sequence of :func:`simulate`'s result.
        needs: predicted position t -> needs, each a list of positions any of which will do. Query t - 1 predicts t.

    Returns:
        per predicted position, the share of (layer, head, need) combinations that were met.
    """
    met = {}
    for t, alternatives in needs.items():
        found = [alive[:, :, t - 1, list(positions)].any(dim=-1).float().mean().item() for positions in alternatives]
        met[t] = float(np.mean(found)) if found else float("nan")
    return met


def belady(length: int, prompt: int, budget: int, needs: Mapping[int, Sequence[Sequence[int]]]) -> dict[int, float]:
    """A bound on how many needs any policy of that size can meet: Belady's rule, with two things made easier.

    Copies of the same information count as one entry, which every new copy refreshes, and an entry that was missed is
    back after its use, as in paging. Among what is held, what is needed furthest in the future goes first; that
    maximises the number of needs met under these easier rules, so no policy that evicts for good meets more.

    Args:
        length: tokens of the sequence.
        prompt: leading tokens that come at once.
        budget: entries held after each step.
        needs: as for :func:`hits`.

    Returns:
        per predicted position, the share of its needs that were met.
    """
    entry = _merged(needs)
    uses: dict[int, list[int]] = {}
    for t, alternatives in sorted(needs.items()):
        for positions in alternatives:
            uses.setdefault(entry.get(positions[0], positions[0]), []).append(t)
    held = {entry.get(position, position) for position in range(prompt)}
    met = {}
    for now in range(prompt - 1, length):
        held.add(entry.get(now, now))
        if wanted := [entry.get(positions[0], positions[0]) for positions in needs.get(now + 1, ())]:
            met[now + 1] = float(np.mean([each in held for each in wanted]))
            held.update(wanted)
        if len(held) > budget:
            soonest = {each: next((t for t in uses.get(each, ()) if t > now + 1), 2 * length) for each in held}
            held = set(sorted(held, key=lambda each: (soonest[each], -each))[:budget])
    return met


def _merged(needs: Mapping[int, Sequence[Sequence[int]]]) -> dict[int, int]:
    """Position -> the one position that stands for all its copies."""
    parent: dict[int, int] = {}

    def find(position: int) -> int:
        while parent.setdefault(position, position) != position:
            position = parent[position]
        return position

    for alternatives in needs.values():
        for positions in alternatives:
            for position in positions[1:]:
                parent[find(position)] = find(positions[0])
    return {position: find(position) for position in parent}


@torch.inference_mode()
def recurrence(rows: Sequence[Tensor], prompt: int, alpha: float) -> Tensor:
    """The maximum recurrence interval of every entry under a full cache.

    Args:
        rows: per layer ``[batch, heads, group, T, T]``, from :func:`record`.
        prompt: leading tokens that come at once; intervals count decode steps.
        alpha: attention weight from which an entry counts as active.

    Returns:
        int32 ``[batch, layers, heads, T]``; 0 for entries that were never active again. The first four steps of an
        entry's life are not counted.
    """
    from heedful.kv.lazy_eviction import LazyEviction

    length = rows[0].shape[-1]
    policy = LazyEviction(budget=length + 1, window=length, alpha=alpha)
    found = []
    for layer, recorded in enumerate(rows):
        batch, heads = recorded.shape[:2]
        slots = Slots(layer, policy)
        nothing = recorded.new_empty(batch, heads, prompt, 0)
        slots.append(nothing, nothing)
        policy.prompted(slots, Seen())
        slots.fresh = False
        for t in range(prompt, length):
            slots.append(nothing[:, :, :1], nothing[:, :, :1])
            slots.steps += 1
            policy.decoded(slots, Seen(rows=recorded[:, :, :, t : t + 1, : t + 1]))
        found.append(slots["recurrence"].clone())
    return torch.stack(found, dim=1)
