"""Decode speed and memory where heads, or layers, hold different numbers of entries.

    python benchmarks/kv_ragged.py [--contexts 8192 ...] [--budgets 0.032 0.1 0.2] [--threads 1] [--quick]

Every cache is filled with random keys and values directly and holds ``budget x context`` entries per layer
and KV head on average:

* ``uniform``: every head as many;
* ``ragged heads``: the heads of a layer share its entries unevenly, as after AdaKV or DefensiveKV;
* ``ragged layers``: every head of a layer as many, but the layers differ, as after CAKE;
* ``padded``: the same heads as ``ragged heads``, padded to the layer's longest, with a mask.

``MB`` are the bytes that the cache holds, ``bytes ratio`` what our preallocated full cache holds over that.
``allowed`` is the speed-up that this ratio allows: what a step takes without a cache stays, and what the full
cache adds to it shrinks by the ratio. ``reached`` is the measured speed-up over that. The largest context is
measured with the smallest budget alone.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from heedful.kv import EvictingCache, Full, SnapKV
from kvbench import KV_HEADS, LAYERS, arguments, decode, filled, interleaved, llama, ratio, report

EMPTY = 16
"""Entries of the cache that stands for none."""


@dataclass(frozen=True)
class Padded(SnapKV):
    """Not packed: a policy that says that it evicts nothing keeps its entries in columns, behind a mask."""

    evicts: ClassVar[bool] = False


def shares(groups: int, members: int) -> Tensor:
    """float ``[groups, members]``, of mean 1 in each group: a fifth for everyone, the rest unevenly at random."""
    torch.manual_seed(0)
    uneven = torch.distributions.Dirichlet(torch.full((members,), 2.0)).sample((groups,))
    return 0.2 + 0.8 * members * uneven


def lengths(form: str, slots: int) -> Tensor:
    """int64 ``[layers, KV heads]``: entries held."""
    if form == "uniform":
        share = torch.ones(LAYERS, KV_HEADS)
    elif form == "ragged layers":
        share = shares(1, LAYERS).T.expand(-1, KV_HEADS)
    else:
        share = shares(LAYERS, KV_HEADS)
    return (slots * share).long()


def caches(model: Any, context: int, budgets: list[float], steps: int) -> dict[tuple[str, float], EvictingCache]:
    """By form and budget."""
    held = {
        ("full", 1.0): filled(model, Full(), context, context, context + steps),
        ("none", 0.0): filled(model, Full(), EMPTY, EMPTY, EMPTY + steps),
    }
    for budget in budgets:
        slots = int(budget * context)
        for form in ("uniform", "ragged heads", "ragged layers", "padded"):
            policy = Padded(slots) if form == "padded" else SnapKV(slots)
            held[form, budget] = filled(model, policy, context, lengths(form, slots), context)
    return held


def main() -> None:
    given = arguments(
        __doc__, minutes=5, contexts=[8192, 16384, 32768, 65536, 131072], budgets=[0.032, 0.1, 0.2], steps=8, rounds=8
    )
    contexts, rounds = ([2048], 1) if given.quick else (given.contexts, given.rounds)
    model = llama()
    rows = []
    for context in contexts:
        budgets = given.budgets[:1] if context == max(contexts) and len(contexts) > 1 else given.budgets
        held = caches(model, context, budgets, given.steps * (rounds + 1))
        used = {name: sum(cache.usage().nbytes) for name, cache in held.items()}
        works = {name: partial(decode, model, cache) for name, cache in held.items()}
        seconds = interleaved(works, rounds, turns=given.steps)
        full, none = seconds["full", 1.0], seconds["none", 0.0]
        for (form, budget), taken in seconds.items():
            if form == "none":
                continue
            fewer = used["full", 1.0] / used[form, budget]
            allowed = [f / (n + (f - n) / fewer) for f, n in zip(full, none)]
            middle, low, high = ratio(full, taken)
            reached, least, most = ratio([f / t for f, t in zip(full, taken)], allowed)
            rows.append(
                {
                    "context": context,
                    "budget %": 100 * budget,
                    "cache": form,
                    "MB": used[form, budget] / 1e6,
                    "bytes ratio": fewer,
                    "tokens/s": 1 / statistics.median(taken),
                    "x full": middle,
                    "25 %": low,
                    "75 %": high,
                    "allowed": statistics.median(allowed),
                    "reached %": 100 * reached,
                    "r 25 %": 100 * least,
                    "r 75 %": 100 * most,
                }
            )
        del held, works
    note = "x full: speed against our preallocated full cache, in the same run; reached: share of the allowed speed-up"
    report(f"Decode over ragged caches, {given.threads} thread(s)", rows, given, note)


if __name__ == "__main__":
    main()
