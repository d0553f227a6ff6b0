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


def zipf_with_scans(
    n: int,
    pages: int,
    rng: np.random.Generator,
    *,
    exponent: float = 0.9,
    scanned: float = 0.3,
    length: int = 300,
) -> Trace:
    """A made trace: requests by popularity, interrupted by scans over other pages, as of a database.

    Args:
        n: requests.
        pages: popular pages, and as many that are only scanned, one after the other and round again.
        rng: what draws.
        exponent: a page's popularity is its rank to the power of minus this.
        scanned: the share of requests that belong to scans, in [0, 1).
        length: requests of a scan.

    Raises ValueError for numbers below 1, or a share that is not one.

    >>> trace = zipf_with_scans(1000, 50, np.random.default_rng(0))
    >>> len(trace), trace.distinct <= 100
    (1000, True)
    """
    for name, value in (("n", n), ("pages", pages), ("length", length)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= scanned < 1:
        raise ValueError(f"scanned={scanned}: must lie in [0, 1)")
    cumulative = np.cumsum(np.arange(1, pages + 1) ** -exponent)
    ids = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right").clip(max=pages - 1)
    begins = np.flatnonzero(rng.random(n) < scanned / (length * (1 - scanned)))
    begins += length * np.arange(len(begins))  # a scan pushes what follows it back
    begins = begins[begins < n]
    turns = np.zeros(n + 1, dtype=np.int64)
    turns[begins] += 1
    turns[np.minimum(begins + length, n)] -= 1
    inside = np.flatnonzero(np.cumsum(turns[:-1]))
    ids[inside] = pages + np.arange(len(inside)) % pages
    return Trace.of(ids, "zipf with scans")


GENERATORS: dict[str, Callable[[int, int, np.random.Generator], Trace]] = {
    "zipf": zipf,
    "scan": scan,
    "working-sets": working_sets,
}
"""By name: ``(requests, k, generator) -> trace``."""
