"""What the kv benchmarks share: a random-weight model, caches filled directly, timing, result files."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import transformers
from torch import Tensor
from transformers import Cache, LlamaConfig, LlamaForCausalLM

import reporting
from heedful.kv import EvictingCache, Policy
from heedful.kv.slots import Slots

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 12, 8, 4, 64
TOKEN = torch.tensor([[5]])
Name = TypeVar("Name", bound=Hashable)


def arguments(doc: str | None, minutes: float | None = None, **options: Any) -> argparse.Namespace:
    """The command line: ``--quick``, ``--threads`` and the script's own options, as ``name=default``.

    Args:
        doc: the script's docstring.
        minutes: what it takes with its defaults on an idle machine with two cores; said before it begins.
        **options: defaults.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs; nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    for name, default in options.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        parser.add_argument(f"--{name}", type=kind, default=default, nargs="+" if several else None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if minutes is not None and not given.quick:
        print(f"about {minutes:g} minutes with the defaults", file=sys.stderr)
    return given


def llama(layers: int = LAYERS) -> LlamaForCausalLM:
    """51 M parameters with random weights in float32: 12 layers of width 512, 8 heads of 64, 4 KV heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HEADS * HEAD_DIM,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=1376,
        vocab_size=32_000,
        tie_word_embeddings=True,
        max_position_embeddings=65_536,
    )
    return LlamaForCausalLM(config).eval()


@lru_cache(maxsize=1)
def random_entries(count: int) -> tuple[Tensor, Tensor]:
    """Random keys and values, ``[1, KV heads, count, head dim]`` each; every layer gets a copy of them."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 1, KV_HEADS, count, HEAD_DIM, generator=generator)
    return keys, values


def filled(model: LlamaForCausalLM, policy: Policy, context: int, slots: int | Tensor, capacity: int) -> EvictingCache:
    """A cache that has seen ``context`` tokens and holds a random subset of them.

    Args:
        model: from :func:`llama`.
        policy: what decides from now on.
        context: tokens seen.
        slots: entries held per layer and KV head; int64 ``[layers, KV heads]`` if they differ.
        capacity: entries to preallocate per head before any is dropped.
    """
    cache = EvictingCache(policy, model, capacity=capacity)
    count = torch.full((len(cache.layers), KV_HEADS), slots) if isinstance(slots, int) else slots
    for index, layer in enumerate(cache.layers):
        keys, values = random_entries(context)
        layer.lazy_initialization(keys, values)
        held: Slots = layer.slots
        held.append(keys, values)
        held.fresh, held.prompt_length = False, 0  # as if they had come one by one: some methods keep a prompt
        if bool((count[index] < context).any()):
            lots = torch.rand(1, KV_HEADS, context, generator=torch.Generator().manual_seed(index))
            held.keep(lots.argsort(dim=-1).argsort(dim=-1) < count[index][None, :, None])
    return cache


def native(cache: Cache, context: int) -> Cache:
    """A Hugging Face cache, filled with ``context`` random entries per layer."""
    for index in range(len(cache.layers)):
        cache.update(*random_entries(context), index)
    return cache


def use(model: LlamaForCausalLM, cache: Cache) -> None:
    """Sets the attention implementation that suits the cache: ours, or SDPA for Hugging Face's own caches."""
    name = "heedful" if isinstance(cache, EvictingCache) else "sdpa"
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def decode(model: LlamaForCausalLM, cache: Cache, steps: int = 1) -> float:
    """Seconds that ``steps`` decode steps take, the output layer included."""
    use(model, cache)
    with torch.inference_mode():
        begun = time.perf_counter()
        for _ in range(steps):
            model(TOKEN, past_key_values=cache)
        return time.perf_counter() - begun


def interleaved(
    works: Mapping[Name, Callable[[], float]], rounds: int, turns: int = 1, warm_up: bool = True
) -> dict[Name, list[float]]:
    """Each work's mean seconds, per round.

    A round gives every work ``turns`` turns. They take turns one by one, in an order that rotates, so that a drift of
    the machine's speed hits all alike. One round goes before, to warm up, unless that has been done.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(0 if warm_up else 1, rounds + 1):
        taken = dict.fromkeys(names, 0.0)
        for turn in range(turns):
            first = (number + turn) % len(names)
            for name in names[first:] + names[:first]:
                taken[name] += works[name]()
        if number:
            for name in names:
                seconds[name].append(taken[name] / turns)
    return seconds


def clock(work: Callable[[], Any]) -> Callable[[], float]:
    """The work as one that returns its own seconds."""

    def timed() -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            work()
        return time.perf_counter() - begun

    return timed


@contextmanager
def stopwatch(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of ``owner.name`` while the context is open."""
    original: Callable[..., Any] = getattr(owner, name)
    seconds: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        result = original(*args, **kwargs)
        seconds.append(time.perf_counter() - begun)
        return result

    with patch.object(owner, name, timed):
        yield seconds


def fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result, from a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios within each round."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def report(
    title: str, rows: Sequence[Mapping[str, Any]], given: argparse.Namespace, note: str = "", part: str = ""
) -> None:
    """Prints the rows as a table and, unless ``--quick``, writes them to ``results/``.

    Args:
        title: the table's.
        rows: all with the same keys.
        given: the command line.
        note: printed below the table.
        part: tells the tables of one script apart.
    """
    name = "-".join(filter(None, [Path(sys.argv[0]).stem, part, f"threads{given.threads}"]))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    device = f"{os.cpu_count()} cores, {given.threads} torch thread(s)"
    reporting.report(title, rows, name, versions, given.quick, device, note)
