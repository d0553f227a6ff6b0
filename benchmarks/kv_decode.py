"""Decode speed with a long context behind: a 10 % budget against our preallocated full cache.

    python benchmarks/kv_decode.py [--contexts 8192 16384 32768] [--share 0.1] [--threads 1] [--quick]

The caches are filled with random keys and values directly, without a prefill: weights and contents do not
matter for speed. The claimed ratio is against our own full cache, which is preallocated and never copies.
Hugging Face's ``DynamicCache`` (which copies everything at each step) and ``StaticCache`` (preallocated to
the same length, not compiled) run beside it, on the same model with its SDPA attention.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from transformers import Cache, DynamicCache, StaticCache

from heedful.kv import H2O, TOVA, Full, LazyEviction, Policy, StreamingLLM
from kvbench import arguments, decode, filled, interleaved, llama, native, ratio, report


def caches(model: Any, context: int, budget: int, steps: int) -> dict[str, tuple[int, Cache]]:
    """Slots held and the cache, by name."""
    bounded: list[Policy] = [H2O(budget), TOVA(budget), LazyEviction(budget), StreamingLLM(budget)]
    return {
        "full": (context, filled(model, Full(), context, context, context + steps)),
        **{policy.name: (budget, filled(model, policy, context, budget, context)) for policy in bounded},
        "StaticCache": (context, native(StaticCache(model.config, max_cache_len=context + steps), context)),
        "DynamicCache": (context, native(DynamicCache(config=model.config), context)),
    }


def main() -> None:
    given = arguments(__doc__, contexts=[8192, 16384, 32768], share=0.1, steps=8, rounds=8)
    contexts, rounds = ([2048], 1) if given.quick else (given.contexts, given.rounds)
    model = llama()
    rows = []
    for context in contexts:
        held = caches(model, context, int(given.share * context), given.steps * (rounds + 1))
        works = {name: partial(decode, model, cache) for name, (_, cache) in held.items()}
        seconds = interleaved(works, rounds, turns=given.steps)
        for name, taken in seconds.items():
            middle, low, high = ratio(seconds["full"], taken)
            rows.append(
                {
                    "context": context,
                    "cache": name,
                    "slots": held[name][0],
                    "tokens/s": 1 / statistics.median(taken),
                    "x full": middle,
                    "25 %": low,
                    "75 %": high,
                }
            )
        del held, works
    report(
        f"Decode tokens/s, budget {given.share:.0%}, {given.threads} thread(s)",
        rows,
        given,
        "x full: speed against our preallocated full cache, in the same run",
    )


if __name__ == "__main__":
    main()
