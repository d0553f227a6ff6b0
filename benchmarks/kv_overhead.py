"""What tracking and eviction cost per decode step, against our full cache with as many slots.

    python benchmarks/kv_overhead.py [--slots 1024] [--window 16] [--threads 1] [--quick]

Every cache holds ``slots`` entries per layer and KV head (on average between two decisions, for methods
that decide every ``window`` steps) and is in steady state: every step appends one entry, and entries leave
as the method says. ``overhead`` is a share of the full cache's whole step, model and output layer included;
quartiles are over rounds. A second pass says where a layer's microseconds go: storing the new entry,
attention, and the policy.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from typing import Any

import heedful.kv.cache_layer as layer_module
from heedful.kv import H2O, TOVA, EvictingCache, Full, LazyEviction, Policy, RaaS, Random, StreamingLLM
from heedful.kv.slots import Slots
from kvbench import LAYERS, arguments, decode, filled, interleaved, llama, ratio, report, stopwatch


def stages(model: Any, cache: EvictingCache, steps: int) -> tuple[float, float, float]:
    """Microseconds per layer and step: storing and attention (medians), the policy (mean)."""
    with ExitStack() as stack:
        store = stack.enter_context(stopwatch(Slots, "append"))
        plain = stack.enter_context(stopwatch(layer_module, "attend"))
        rows = stack.enter_context(stopwatch(layer_module, "attend_step"))
        policy = stack.enter_context(stopwatch(type(cache.policy), "decoded"))
        decode(model, cache, steps)
    attention = statistics.median(plain + rows)
    return 1e6 * statistics.median(store), 1e6 * attention, 1e6 * statistics.fmean(policy)


def main() -> None:
    given = arguments(__doc__, slots=1024, window=16, rounds=25)
    slots, window = given.slots, given.window
    rounds = 2 if given.quick else given.rounds
    model = llama()
    lagged = slots - window // 2
    policies: dict[str, Policy] = {
        "streaming-llm": StreamingLLM(slots),
        "random": Random(slots),
        "h2o": H2O(slots),
        "tova": TOVA(slots),
        "raas": RaaS(slots),
        "h2o+window": H2O(lagged, window=window),
        "tova+window": TOVA(lagged, window=window),
        "raas+window": RaaS(lagged, window=window),
        "lazy-eviction": LazyEviction(lagged, window=window),
        "lazy-eviction, reference": LazyEviction(lagged, window, birth="reference", variant="reference"),
    }
    if given.quick:
        policies = {name: policies[name] for name in ("h2o", "lazy-eviction")}
    caches = {name: filled(model, policy, 4 * slots, slots, 4 * slots) for name, policy in policies.items()}
    for cache in caches.values():
        decode(model, cache, window)  # a first decision, so that every method is in its steady state

    plain = filled(model, Full(), lagged, lagged, slots + window)

    def full() -> float:
        taken = decode(model, plain)
        if plain.get_seq_length() == lagged + window:  # as many slots as the others, on average
            plain.crop(-window)
        return taken

    works = {name: partial(decode, model, cache) for name, cache in caches.items()}
    seconds = interleaved({"full": full, **works}, rounds, turns=window)
    caches["full"] = plain
    rows = []
    for name, taken in seconds.items():
        middle, low, high = ratio(taken, seconds["full"])
        store, attention, policy = stages(model, caches[name], window)
        rows.append(
            {
                "method": name,
                "ms/step": 1e3 * statistics.median(taken),
                "overhead %": 100 * (middle - 1),
                "25 %": 100 * (low - 1),
                "75 %": 100 * (high - 1),
                "store us": store,
                "attention us": attention,
                "policy us": policy,
            }
        )
    report(
        f"Decode step at {slots} slots, {LAYERS} layers, {given.threads} thread(s)",
        rows,
        given,
        "overhead: share of the full cache's whole step; us: per layer and step",
    )


if __name__ == "__main__":
    main()
