"""Memory of a long context: the full cache against a 10 % budget.

    python benchmarks/kv_memory.py [--context 16384] [--share 0.1] [--threads 1] [--quick]

Each cache is built in a fresh process: layer after layer is given ``context`` random entries, shrinks to
the budget if the method evicts from the prompt, and then 32 steps are decoded. ``stored MB`` are the bytes
of the tensors that the cache holds at the end, ``stored peak MB`` the most that its layers ever held, each
at its own peak; ``resident MB`` is the growth of the process's peak resident size over the model's,
temporary buffers included. What the prompt's own activations need in a real prefill comes on top and is the
same for all.
"""

from __future__ import annotations

import torch
from transformers import Cache, DynamicCache, StaticCache

from heedful.kv import H2O, EvictingCache, Full, LazyEviction
from kvbench import arguments, decode, filled, fresh_process, llama, native, report
from kvbench.resident import peak_growth

STEPS = 32
NAMES = ("full", "h2o", "lazy-eviction", "StaticCache", "DynamicCache")


def measure(name: str, context: int, budget: int, threads: int) -> dict[str, float]:
    """One row; run in a process of its own."""
    torch.set_num_threads(threads)
    model = llama()
    decode(model, filled(model, Full(), 64, 64, 128), 2)  # loads the kernels
    made: list[Cache] = []

    def work() -> None:
        if name == "full":
            cache: Cache = filled(model, Full(), context, context, context + STEPS)
        elif name == "h2o":
            cache = filled(model, H2O(budget), context, budget, context)
        elif name == "lazy-eviction":
            cache = filled(model, LazyEviction(budget), context, context, context + STEPS)
        elif name == "StaticCache":
            cache = native(StaticCache(model.config, max_cache_len=context + STEPS), context)
        else:
            cache = native(DynamicCache(config=model.config), context)
        decode(model, cache, STEPS)
        made.append(cache)

    growth = peak_growth(work)
    cache = made[0]
    if isinstance(cache, EvictingCache):
        usage = cache.usage()
        stored, peak = sum(usage.nbytes), sum(usage.peak_nbytes)
    else:
        stored = peak = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return {"stored MB": stored / 1e6, "stored peak MB": peak / 1e6, "resident MB": growth / 1e6}


def main() -> None:
    given = arguments(__doc__, context=16_384, share=0.1)
    context = 2048 if given.quick else given.context
    budget = int(given.share * context)
    measured = {name: fresh_process(measure, name, context, budget, given.threads) for name in NAMES}
    full = measured["full"]
    rows = [
        {
            "cache": name,
            **row,
            "stored / full": row["stored MB"] / full["stored MB"],
            "resident / full": row["resident MB"] / full["resident MB"],
        }
        for name, row in measured.items()
    ]
    report(f"Memory at a context of {context}, budget {given.share:.0%}", rows, given)


if __name__ == "__main__":
    main()
