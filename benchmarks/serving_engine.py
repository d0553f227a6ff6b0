"""Wall time, evictions and recomputed tokens of schedulers inside transformers' continuous batching, on a processor.

    python benchmarks/serving_engine.py [--requests 120] [--repeats 5] [--size 128] [--layers 4] [--blocks 40] [--quick]

A small Llama with random weights answers requests that come all at once: prompts of 8 to 60 tokens, answers of 5 to
120, a cache of 40 blocks of 16. In one setting the caps are the true lengths; in the other all caps are 128 and the
model ends its answers by itself. The peer is the engine's own scheduler as it is (``transformers``), which sends
evicted requests to the end of the queue. All take turns, in every repeat; all must answer alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import torch
from rich.console import Console
from rich.table import Table
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM
from transformers.generation.continuous_batching import scheduler as peer
from transformers.generation.continuous_batching.requests import RequestState

from heedful.serving.experiments._engine import CAP, ENGINE, Work, model, work
from heedful.serving.transformers_engine import Engine, Options, scheduled

RESULTS = Path(__file__).parent / "results"
PEER = "transformers"
SCHEDULERS = (PEER, "fifo", "aggressive:watermark=0.95", "past-future:rho=0.05", "peak-with-cap")
WINDOW = 40


class Counted(peer.FIFOScheduler):
    """The engine's own scheduler, counting."""

    evictions = recomputed = 0

    def add_waiting_request(self, state: RequestState) -> None:
        if state._true_initial_tokens:
            Counted.evictions += 1
            Counted.recomputed += len(state.initial_tokens)
        super().add_waiting_request(state)


class Uncounted:
    """What an engine has to say for itself without a scheduler of ours."""

    def check(self, prompt: int, cap: int) -> None:
        """The engine checks nothing."""


def served(rule: str, llama: LlamaForCausalLM, asked: Work, blocks: int) -> dict[str, Any]:
    """Seconds of wall and of processor time, counts, and the answers."""
    greedy = GenerationConfig(max_new_tokens=CAP, eos_token_id=asked.end, do_sample=False)
    if rule == PEER:
        peer.SCHEDULER_MAPPING[PEER] = Counted
        Counted.evictions = Counted.recomputed = 0
        config = ContinuousBatchingConfig(scheduler_type=PEER, allow_block_sharing=False, num_blocks=blocks, **ENGINE)
        with llama.continuous_batching_context_manager(greedy, continuous_batching_config=config) as manager:
            row = timed(Engine(manager, Uncounted()), asked)
        return {**row, "evictions": Counted.evictions, "recomputed": Counted.recomputed}
    options = Options(window=WINDOW, longest=max(asked.caps))
    with scheduled(llama, rule, options, greedy, num_blocks=blocks, **ENGINE) as engine:
        row = timed(engine, asked)
        stats = engine.stats
    return {**row, "evictions": stats.evictions, "recomputed": stats.recomputed}


def timed(engine: Engine, asked: Work) -> dict[str, Any]:
    begun, worked = time.perf_counter(), time.process_time()
    answers = engine.generate(asked.prompts, asked.caps)
    return {
        "seconds": time.perf_counter() - begun,
        "processor": time.process_time() - worked,
        "steps": engine.manager.current_batch,
        "answers": answers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("requests", 120), ("repeats", 5), ("size", 128), ("layers", 4), ("blocks", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quick", action="store_true", help="20 requests, once, and nothing is written")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.repeats = 20, 1
    torch.set_num_threads(1)
    rows = []
    for hidden in (False, True):
        llama = model(hidden, arguments.size, arguments.layers, torch.float32)
        asked = work(arguments.requests, 0, hidden)
        served("past-future", llama, work(4, 1, hidden), arguments.blocks)  # compiled parts
        runs: dict[str, list[dict[str, Any]]] = {rule: [] for rule in SCHEDULERS}
        for repeat in range(arguments.repeats):
            for place in range(len(SCHEDULERS)):
                rule = SCHEDULERS[(place + repeat) % len(SCHEDULERS)]
                runs[rule].append(served(rule, llama, asked, arguments.blocks))
        reference = runs[PEER][0]["answers"]
        base = statistics.median(run["seconds"] for run in runs[PEER])
        for rule, found in runs.items():
            seconds = [run["seconds"] for run in found]
            counts = {name: found[0][name] for name in ("evictions", "recomputed", "steps")}
            different = max(sum(a != b for a, b in zip(run["answers"], reference)) for run in found)
            rows.append(
                {
                    "lengths": "hidden" if hidden else "known",
                    "scheduler": rule,
                    **counts,
                    "seconds": statistics.median(seconds),
                    "seconds_least": min(seconds),
                    "seconds_most": max(seconds),
                    "processor_seconds": statistics.median(run["processor"] for run in found),
                    "against_peer": statistics.median(seconds) / base,
                    "answers_that_differ": different,
                }
            )
    report(rows, arguments)


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    table = Table(title="transformers' continuous batching, by scheduler")
    for column in ("lengths", "scheduler", "evictions", "recomputed", "steps", "seconds", "against its own"):
        table.add_column(column, justify="left" if column in ("lengths", "scheduler") else "right")
    for row in rows:
        spread = f"{row['seconds']:.2f} ({row['seconds_least']:.2f} to {row['seconds_most']:.2f})"
        counts = (str(row[name]) for name in ("evictions", "recomputed", "steps"))
        table.add_row(row["lengths"], row["scheduler"], *counts, spread, f"{row['against_peer']:.2f}")
    Console().print(table)
    if arguments.quick:
        return
    settings = {key: value for key, value in vars(arguments).items() if key != "quick"}
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "settings": settings,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving-engine.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
