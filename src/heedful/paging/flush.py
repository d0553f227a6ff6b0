"""Flush-When-All-0s trusts one bit per request: pages with bit 1 go first; if all bits are 0 the cache is emptied.

Antoniadis, Boyar, Elias, Favrholdt, Hoeksma, Larsen, Polak, Simon, "Paging with Succinct Predictions", ICML 2023,
arXiv 2210.02775. Deterministic, and with eta_0 wrong 0-bits and eta_1 wrong 1-bits

    faults <= OPT + (k - 1) eta_0 + eta_1 + const
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.structures import FLUSHED, FREE, HIT, compiled, link_last, swap, unlink


class State(NamedTuple):
    """Cached pages, and the order of those that may go.

    Attributes:
        items: int32 ``[k]``.
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        before_of: int32 ``[pages + 1]``: cached pages whose latest bit is 1, the oldest bit first.
        after_of: int32 ``[pages + 1]``, -1 for all others.
        size: int64 ``[1]``: pages held.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    before_of: NDArray[np.int32]
    after_of: NDArray[np.int32]
    size: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache."""
    before, after = np.full((2, pages + 1), -1, dtype=np.int32)
    before[pages] = after[pages] = pages
    items, place = np.full(k, -1, dtype=np.int32), np.full(pages, -1, dtype=np.int32)
    return State(items, place, before, after, np.zeros(1, dtype=np.int64))


@compiled
def note(state, page, bit):  # type: ignore[no-untyped-def]
    """A page's latest bit replaces the one before."""
    if state.after_of[page] >= 0:
        unlink(state.before_of, state.after_of, page)
    if bit == 1:
        link_last(state.before_of, state.after_of, page)


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, with its bit."""
    did = HIT
    if state.place_of[page] < 0:
        did, size = FREE, state.size[0]
        if size == len(state.items):
            oldest = state.after_of[len(state.after_of) - 1]
            if oldest < len(state.after_of) - 1:
                did = oldest
                unlink(state.before_of, state.after_of, oldest)
                swap(state.items, state.place_of, state.place_of[oldest], size - 1)
                state.place_of[oldest] = -1
                size -= 1
            else:
                did = FLUSHED
                for at in range(size):
                    state.place_of[state.items[at]] = -1
                size = 0
        state.items[size] = page
        state.place_of[page] = size
        state.size[0] = size + 1
    note(state, page, told)
    return did


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class FlushWhenAll0s(Algorithm):
    """Discard bits, deterministic."""

    name: ClassVar[str] = "flush-when-all-0s"
    told: ClassVar[Told] = "discard"

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
