"""Request sequences to measure on: generated ones, which are there always."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from heedful.paging.base import Trace


def zipf(n: int, k: int, rng: np.random.Generator) -> Trace:
    """Independent requests for 10 k pages whose popularity falls with the 0.9th power of their rank."""
    weight = np.arange(1, 10 * k + 1) ** -0.9
    return Trace.of(rng.choice(len(weight), size=n, p=weight / weight.sum()), "zipf")


def scan(n: int, k: int, rng: np.random.Generator) -> Trace:
    """k + 1 pages in a circle: LRU faults at every request."""
    return Trace.of((np.arange(n) + int(rng.integers(k + 1))) % (k + 1), "scan")


def working_sets(n: int, k: int, rng: np.random.Generator) -> Trace:
    """A working set of 0.8 k pages, one of which is replaced by a new page, or one of long ago, now and then."""
    size = max(1, int(0.8 * k))
    turns = np.flatnonzero(rng.random(n) < 0.05)
    pages = np.empty(n, dtype=np.int64)
    members, newest = np.arange(size), size
    for start, stop in zip(np.concatenate([[0], turns]), np.concatenate([turns, [n]])):
        pages[start:stop] = members[rng.integers(size, size=stop - start)]
        members[rng.integers(size)] = rng.integers(newest) if rng.random() < 0.5 else newest
        newest += 1
    return Trace.of(pages, "working-sets")


GENERATORS: dict[str, Callable[[int, int, np.random.Generator], Trace]] = {
    "zipf": zipf,
    "scan": scan,
    "working-sets": working_sets,
}
"""By name: ``(requests, k, generator) -> trace``."""
