"""BlindOracle evicts the page that is predicted to be asked for furthest in the future; with true times it is LFD.

Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966 (LFD);
Wei, "Better and Simpler Learning-Augmented Online Caching", APPROX 2020, arXiv 2005.13716 (the name, and the bound
min(1 + 2 eta / OPT, 4 + 4 eta / ((k - 1) OPT)) with eta the sum of the times' errors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Run, Told, Trace
from heedful.paging.structures import FREE, HIT, compiled, push, rekey, replace_top


class State(NamedTuple):
    """Cached pages in a heap.

    Attributes:
        heap: int32 ``[k]``.
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        key_of: int64 ``[pages]``: the predicted time of the next request.
        size: int64 ``[1]``: pages held.
    """

    heap: NDArray[np.int32]
    place_of: NDArray[np.int32]
    key_of: NDArray[np.int64]
    size: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache."""
    place, key = np.full(pages, -1, dtype=np.int32), np.zeros(pages, dtype=np.int64)
    return State(np.full(k, -1, dtype=np.int32), place, key, np.zeros(1, dtype=np.int64))


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, told when the page is predicted to come next."""
    size = state.size[0]
    if state.place_of[page] >= 0:
        rekey(state.heap, state.place_of, state.key_of, page, told, size)
        return HIT
    if size < len(state.heap):
        push(state.heap, state.place_of, state.key_of, page, told, size)
        state.size[0] += 1
        return FREE
    return replace_top(state.heap, state.place_of, state.key_of, page, told, size)


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class BlindOracle(Algorithm):
    """Follows predicted times of next requests blindly; equal times: the page that appeared first goes."""

    name: ClassVar[str] = "blind-oracle"
    told: ClassVar[Told] = "next"

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)


def lfd(trace: Trace, k: int) -> Run:
    """What the optimal offline algorithm does: evicts the page whose next request is furthest away.

    Among pages that are never asked for again the one that appeared first goes. Raises ValueError for k below 1.
    """
    return BlindOracle().run(trace, k, trace.next_request)
