"""What the room's experiments share: models by name, items as episodes, filled caches."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from heedful import models
from heedful.kv.baselines import Clairvoyant
from heedful.kv.cache import EvictingCache
from heedful.kv.evaluate import Episode
from heedful.kv.policies import make
from heedful.models.tasks import Item

SPLITS = {"test": 0, "calibration": 1}


@lru_cache(maxsize=4)
def model(name: str, device: str, twin: int | None = None) -> Any:
    """A shipped model by name, or its randomly initialised twin with that seed; evaluation mode, one thread."""
    torch.set_num_threads(1)
    chosen: Any = models.load(name)[0]
    if twin is not None:
        torch.manual_seed(twin)
        chosen = type(chosen)(chosen.config).eval()
    return chosen.to(device)


def items(task: str, seed: int, count: int, length: int, split: str = "test", **options: Any) -> list[Item]:
    """Items of a task; the same for every method, and never the same in two splits.

    Args:
        task: a task's name, with an operand process after a colon, ``"ledger:zipf"``, or a protocol after an at sign,
            ``"niah1@agnostic"``.
        seed: data seed.
        count: number of items.
        length: tokens of an item, at most.
        split: ``"test"`` or ``"calibration"``.
        **options: of the task's generator.
    """
    name, _, protocol = task.partition("@")
    name, _, process = name.partition(":")
    if process:
        options["process"] = process
    if protocol:
        options["protocol"] = protocol
    rng = np.random.default_rng([SPLITS[split], seed, zlib.crc32(task.encode()), length])
    return models.tasks.sample(name, rng, count, length, **options)


def episode(item: Item, agnostic: bool = False) -> Episode:
    """An item with its whole prompt given at once; ``agnostic``: first its context, then the question."""
    first = item.spans[0]
    parts = (first[2], item.prompt_length) if agnostic else (item.prompt_length,)
    return Episode(item.tokens, item.scored, parts)


def uses(item: Item) -> dict[int, list[int]]:
    """Position -> the positions of the tokens whose prediction needs it, sorted."""
    found: dict[int, list[int]] = {}
    for predicted, needs in sorted(item.needs.items()):
        for alternatives in needs:
            for position in alternatives:
                found.setdefault(position, []).append(predicted)
    return found


def policy_for(spec: str, slots: int, work: Sequence[Item]) -> Any:
    """What :func:`~heedful.kv.evaluate.play` takes for a policy by name; the clairvoyant one is told the needs."""
    if spec != Clairvoyant.name:
        return make(spec, slots)
    needs = [uses(item) for item in work]
    return lambda batch: Clairvoyant(slots, needs=tuple(needs[i] for i in batch))


def fill(cache: EvictingCache, length: int, config: Any, batch: int, seed: int, device: str = "cpu") -> None:
    """Puts random keys and values of ``length`` tokens into every managed layer, as if a prompt had been read."""
    generator = torch.Generator().manual_seed(seed)
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in cache.evicting:
        slots = cache.slots(layer)
        keys, values = torch.randn(2, batch, heads, length, width, generator=generator).to(device)
        slots.append(keys, values)
        slots.fresh = False
