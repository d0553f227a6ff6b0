"""Memory while a prompt is read: methods that shrink the first layers before the last ones have read it.

    python benchmarks/kv_cascade.py [--prompts 512 1024 2048 4096 8192] [--share 0.1] [--threads 1] [--quick]

Each prompt is read in a fresh process. ``entries`` are the most entries per KV head that all layers together
ever held at one time, ``bound`` what they may hold: for CAKE with its cascade ``T + L W`` for what stays, ``L``
for rounding up and ``S`` for the layer that is reading (L layers, a window of W, a pool of ``T = (budget - W) L``,
a prompt of S); for LayerDefensiveKV ``budget x L + S``; for methods that wait for the end, and for the full
cache, ``L S``. ``held MB`` are the bytes that the cache had allocated at that time, positions and the policy's
own numbers included; ``resident MB`` is the growth of the process's peak resident size, the layers'
activations included.
"""

from __future__ import annotations

from typing import Any

import torch

from heedful.kv import CAKE, EvictingCache, Full, LayerDefensiveKV, Policy, SnapKV
from kvbench import LAYERS, arguments, fresh_process, llama, report, use
from kvbench.resident import peak_growth

WINDOW = 32
NAMES = ("full", "snapkv", "cake, at the end", "cake", "layer-defensivekv")


def policy_of(name: str, budget: int) -> Policy:
    """What is measured, by name."""
    found: dict[str, Policy] = {
        "full": Full(),
        "snapkv": SnapKV(budget, observation_window=WINDOW),
        "cake, at the end": CAKE(budget, observation_window=WINDOW, cascade=False),
        "cake": CAKE(budget, observation_window=WINDOW),
        "layer-defensivekv": LayerDefensiveKV(budget, observation_window=WINDOW),
    }
    return found[name]


def bound(name: str, prompt: int, budget: int) -> int:
    """The most entries per KV head that all layers together may hold at one time."""
    if name == "cake":
        return (budget - WINDOW) * LAYERS + LAYERS + LAYERS * WINDOW + prompt
    if name in ("snapkv", "layer-defensivekv"):
        return budget * LAYERS + prompt
    return LAYERS * prompt


def measure(name: str, prompt: int, budget: int, threads: int) -> dict[str, float]:
    """Entries, bytes and resident growth; run in a process of its own."""
    torch.set_num_threads(threads)
    model = llama()
    tokens = torch.randint(model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    made: list[EvictingCache] = []

    def read(length: int) -> None:
        policy = policy_of(name, budget)
        cache = EvictingCache(policy, model, length if isinstance(policy, Full) else None)
        use(model, cache)
        model(tokens[:, :length], past_key_values=cache, logits_to_keep=1)
        made.append(cache)

    with torch.inference_mode():
        read(WINDOW)  # loads the kernels
    growth = peak_growth(lambda: read(prompt))
    usage = made[-1].usage()
    return {"entries": usage.held_peak, "bytes": usage.held_peak_nbytes, "resident": growth}


def main() -> None:
    given = arguments(__doc__, minutes=5, prompts=[512, 1024, 2048, 4096, 8192], share=0.1)
    rows: list[dict[str, Any]] = []
    for prompt in [512] if given.quick else given.prompts:
        budget = int(given.share * prompt)
        full: dict[str, float] = {}
        for name in NAMES:
            row = fresh_process(measure, name, prompt, budget, given.threads)
            full = full or row
            rows.append(
                {
                    "prompt": prompt,
                    "method": name,
                    "entries": row["entries"],
                    "bound": bound(name, prompt, budget),
                    "of full": row["entries"] / full["entries"],
                    "held MB": row["bytes"] / 1e6,
                    "held / full": row["bytes"] / full["bytes"],
                    "resident MB": row["resident"] / 1e6,
                    "resident / full": row["resident"] / full["resident"],
                }
            )
    report(f"Peak memory of a prefill, budget {given.share:.0%}, {LAYERS} layers", rows, given)


if __name__ == "__main__":
    main()
