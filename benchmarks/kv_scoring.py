"""What deciding costs while a prompt is read: every method that evicts when the prompt is over, against none.

    python benchmarks/kv_scoring.py [--prompts 1024 2048 4096] [--share 0.1] [--threads 1] [--quick]
    python benchmarks/kv_scoring.py --prompts 8192

Prefill of a model with 6 layers, otherwise as in the other benchmarks; budget ``share`` of the prompt,
observation window 32. ``overhead`` is what the whole prefill takes longer than under the full cache, which
reads attention by the fused kernel alone and decides nothing; quartiles are over rounds, in which all methods
take turns. ``deciding`` is the time inside the policy's own hooks: for LookaheadKV the trained rows' pass, for
LAQ the draft. What is not in it is the observation window's attention rows, beside the fused kernel.
LookaheadKV's parts are random, 32 tokens and a LoRA of rank 8; LAQ drafts 8 or 32 tokens. Beyond 4096 tokens
only some methods are measured.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from heedful.kv import (
    CAKE,
    LAQ,
    AdaCriticalKV,
    AdaKV,
    CriticalKV,
    DefensiveKV,
    EvictingCache,
    Full,
    LayerDefensiveKV,
    LookaheadKV,
    Policy,
    PyramidKV,
    SnapKV,
)
from heedful.kv.lookahead_kv import KIND
from heedful.kv.lookahead_training import LookaheadSettings, initial
from heedful.kv.parts import Parts, likeness, store
from kvbench import arguments, clock, interleaved, llama, ratio, report, stopwatch, use

LAYERS = 6
LONG = ("full", "snapkv", "cake", "defensivekv", "layer-defensivekv", "lookaheadkv", "laq, 8", "laq, 32")


def policies(budget: int, parts: str) -> dict[str, Policy]:
    """What is measured, by name."""
    found: list[Policy] = [Full(), SnapKV(budget), PyramidKV(budget), AdaKV(budget), CriticalKV(budget)]
    found += [AdaCriticalKV(budget), CAKE(budget), DefensiveKV(budget), LayerDefensiveKV(budget)]
    found += [LookaheadKV(budget, parts=parts)]
    drafting = {f"laq, {draft}": LAQ(budget, draft=draft, observation_window=32) for draft in (8, 32)}
    return {policy.name: policy for policy in found} | drafting


def random_parts(model: Any, folder: Path) -> str:
    """LookaheadKV's parts before any training, as a file."""
    settings = LookaheadSettings(tokens=32, rank=8)
    tensors = initial(model, [torch.arange(64)], settings)
    path = folder / "lookahead.safetensors"
    store(path, Parts(KIND, tensors, asdict(settings), likeness(model)))
    return str(path)


def reading(model: Any, policy: Policy, prompt: int, deciding: list[float]) -> Callable[[], float]:
    """A timed prefill of random tokens; the seconds in the policy's hooks are added to ``deciding``."""
    tokens = torch.randint(model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        cache = EvictingCache(policy, model, prompt if isinstance(policy, Full) else None)
        use(model, cache)
        with ExitStack() as stack:
            hooks = [stack.enter_context(stopwatch(type(policy), name)) for name in ("prompted", "passed")]
            model(tokens, past_key_values=cache, logits_to_keep=1)
        deciding.append(sum(sum(seconds) for seconds in hooks))

    return clock(run)


def main() -> None:
    given = arguments(__doc__, minutes=5, prompts=[1024, 2048, 4096], share=0.1, rounds=4)
    model = llama(layers=LAYERS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        parts = random_parts(model, Path(folder))
        reading(model, Full(), 512, [])()  # loads the kernels
        for prompt in [512] if given.quick else given.prompts:
            chosen = policies(int(given.share * prompt), parts)
            if prompt > 4096:
                chosen = {name: chosen[name] for name in LONG}
            deciding: dict[str, list[float]] = {name: [] for name in chosen}
            works = {name: reading(model, policy, prompt, deciding[name]) for name, policy in chosen.items()}
            rounds = 1 if given.quick else given.rounds - (prompt > 4096)
            seconds = interleaved(works, rounds, warm_up=False)
            for name, taken in seconds.items():
                middle, low, high = ratio(taken, seconds["full"])
                rows.append(
                    {
                        "prompt": prompt,
                        "method": name,
                        "s": statistics.median(taken),
                        "overhead %": 100 * (middle - 1),
                        "25 %": 100 * (low - 1),
                        "75 %": 100 * (high - 1),
                        "deciding ms/layer": 1e3 * statistics.median(deciding[name]) / LAYERS,
                        "deciding %": 100 * statistics.median(deciding[name]) / statistics.median(seconds["full"]),
                    }
                )
    note = "overhead, deciding %: of the full cache's prefill, in the same run"
    title = f"Prefill, budget {given.share:.0%}, {LAYERS} layers, {given.threads} thread(s)"
    report(title, rows, given, note, part="-".join(map(str, given.prompts)))


if __name__ == "__main__":
    main()
