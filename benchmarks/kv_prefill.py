"""What reading column sums out of a long prompt's attention costs, and evicting from it.

    python benchmarks/kv_prefill.py [--prompts 4096] [--blocks 32 64 128 256] [--threads 1] [--quick]

First, one layer's causal attention: the fused kernel alone, the blockwise pass that also returns the column
sums (at several block sizes; ``*`` marks the library's), and the fused kernel with the last 32 rows beside
it. ``extra MB`` is the growth of the peak resident size over the call, output included, in a fresh process.
Second, the whole prefill of the model under several policies with a 10 % budget, and the part of it that
goes into choosing and moving the entries that stay.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from heedful.kv import H2O, TOVA, EvictingCache, Full, Policy, StreamingLLM
from heedful.kv.attention import BLOCK, attend, attend_blockwise
from heedful.kv.slots import Slots
from kvbench import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    arguments,
    clock,
    fresh_process,
    interleaved,
    llama,
    ratio,
    report,
    stopwatch,
    use,
)
from kvbench.resident import peak_growth

SCALE = HEAD_DIM**-0.5
WINDOW = 32


def attention(prompt: int, block: int | None) -> Callable[[], Any]:
    """One layer's attention over a random prompt: fused (None), last rows (0), or column sums in blocks."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, HEADS, prompt, HEAD_DIM, generator=generator)
    keys, values = torch.randn(2, 1, KV_HEADS, prompt, HEAD_DIM, generator=generator)
    if block is None:
        return lambda: attend(query, keys, values, SCALE)
    if block == 0:
        return lambda: attend_blockwise(query, keys, values, SCALE, "last", WINDOW)
    return lambda: attend_blockwise(query, keys, values, SCALE, "sums", block=block)


def attention_growth(prompt: int, block: int | None, threads: int) -> float:
    """Megabytes by which one such call raises the peak resident size; run in a process of its own."""
    torch.set_num_threads(threads)
    attention(64, block)()  # loads the kernels
    return peak_growth(attention(prompt, block)) / 1e6


def main() -> None:
    given = arguments(__doc__, prompts=[4096], blocks=[32, 64, 128, 256], share=0.1, rounds=5)
    prompts, rounds = ([512], 1) if given.quick else (given.prompts, given.rounds)
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        kinds: dict[str, int | None] = {"fused": None, f"fused, last {WINDOW} rows": 0}
        kinds |= {f"column sums, block {b}{' *' if b == BLOCK else ''}": b for b in given.blocks}
        works = {name: clock(attention(prompt, block)) for name, block in kinds.items()}
        seconds = interleaved(works, rounds)
        for name, taken in seconds.items():
            middle, low, high = ratio(taken, seconds["fused"])
            rows.append(
                {
                    "prompt": prompt,
                    "attention": name,
                    "ms": 1e3 * statistics.median(taken),
                    "x fused": middle,
                    "25 %": low,
                    "75 %": high,
                    "extra MB": fresh_process(attention_growth, prompt, kinds[name], given.threads),
                }
            )
    report(f"One layer's attention over a prompt, {given.threads} thread(s)", rows, given, part="attention")

    model = llama()
    rows = []
    for prompt in prompts:
        budget = int(given.share * prompt)
        policies: list[Policy] = [Full(), StreamingLLM(budget), TOVA(budget), H2O(budget)]
        keep: dict[str, list[float]] = {policy.name: [] for policy in policies}
        seconds = interleaved(
            {policy.name: prefill(model, policy, prompt, keep[policy.name]) for policy in policies},
            1 if given.quick else 2,
        )
        for name, taken in seconds.items():
            middle, low, high = ratio(taken, seconds["full"])
            kept = statistics.median(keep[name]) if keep[name] else 0.0
            rows.append(
                {
                    "prompt": prompt,
                    "method": name,
                    "s": statistics.median(taken),
                    "x full": middle,
                    "25 %": low,
                    "75 %": high,
                    "evict ms/layer": 1e3 * kept,
                    "evict % of prefill": 100 * LAYERS * kept / statistics.median(taken),
                }
            )
    report(f"Whole prefill, budget {given.share:.0%}, {given.threads} thread(s)", rows, given, part="whole")


def prefill(model: Any, policy: Policy, prompt: int, keep: list[float]) -> Callable[[], float]:
    """A timed prefill of random tokens; the seconds of each layer's eviction are added to ``keep``."""
    tokens = torch.randint(model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))

    def run() -> float:
        cache = EvictingCache(policy, model)
        use(model, cache)
        with stopwatch(Slots, "keep_best") as seconds, torch.inference_mode():
            begun = time.perf_counter()
            model(tokens, past_key_values=cache, logits_to_keep=1)
            taken = time.perf_counter() - begun
        keep.extend(seconds)
        return taken

    return run


if __name__ == "__main__":
    main()
