"""Predictive Marker is a marking algorithm whose evictions follow predictions until a chain of them grows too long.

Lykouris and Vassilvitskii, "Competitive Caching with Machine Learned Advice", ICML 2018, arXiv 1802.05399, Section 4.
A clean page (not cached when the phase began) evicts the unmarked page that is predicted furthest away and starts a
chain; a stale page continues the chain of the page that evicted it, by prediction while the chain is at most H_k long,
afterwards by an unmarked page at random. At most min(2 + 2 sqrt(5 eta / OPT), 4 H_k) times the optimal faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.marker import drop, load_marked, mark, marks
from heedful.paging.structures import FREE, HIT, compiled, compiled_with_arrays, pick


class State(NamedTuple):
    """Cached pages, the unmarked ones in front, and what the present phase knows.

    Attributes:
        items: int32 ``[k]``, as in :class:`~heedful.paging.marker.Marks`.
        place_of: int32 ``[pages]``, likewise.
        next_of: int64 ``[pages]``: the latest predicted time of the next request.
        stale_of: int64 ``[pages]``: the last phase at whose beginning the page was cached, from 1 on.
        chain_of: int64 ``[pages]``: the chain that evicted the page in the present phase.
        chain: int64 ``[k]``: lengths of the present phase's chains.
        furthest: int32 ``[k]``: the pages that were cached when the phase began, the furthest predicted first.
        harmonic: float64 ``[1]``: H_k.
        size: int64 ``[5]``: pages held, unmarked, the present phase, its chains so far, and the first place of
            ``furthest`` that may still be unmarked and cached.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    next_of: NDArray[np.int64]
    stale_of: NDArray[np.int64]
    chain_of: NDArray[np.int64]
    chain: NDArray[np.int64]
    furthest: NDArray[np.int32]
    harmonic: NDArray[np.float64]
    size: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache."""
    held = marks(pages, k)
    following, stale, chain = np.zeros((3, pages), dtype=np.int64)
    harmonic = np.array([(1 / np.arange(1, k + 1)).sum()])
    order, lengths = np.zeros(k, dtype=np.int32), np.zeros(k, dtype=np.int64)
    size = np.zeros(5, dtype=np.int64)
    return State(held.items, held.place_of, following, stale, chain, lengths, order, harmonic, size)


@compiled_with_arrays
def begin_phase(state):  # type: ignore[no-untyped-def]
    """All pages become unmarked and stale."""
    size = state.size[0]
    state.size[1] = size
    state.size[2] += 1
    state.size[3] = state.size[4] = 0
    key = np.empty(size, dtype=np.int64)
    for at in range(size):
        state.stale_of[state.items[at]] = state.size[2]
        key[at] = -state.next_of[state.items[at]]
    order = np.argsort(key, kind="mergesort")
    for at in range(size):
        state.furthest[at] = state.items[order[at]]


@compiled
def furthest_unmarked(state):  # type: ignore[no-untyped-def]
    """The unmarked cached page that is predicted furthest away."""
    at = state.size[4]
    while True:
        page = state.furthest[at]
        place = state.place_of[page]
        if 0 <= place < state.size[1]:
            break
        at += 1
    state.size[4] = at
    return page


@compiled_with_arrays
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, told when the page is predicted to come next."""
    did = HIT
    if state.place_of[page] >= 0:
        mark(state, page)
    else:
        did = FREE
        if state.size[0] == len(state.items):
            if state.size[1] == 0:
                begin_phase(state)
            if state.stale_of[page] != state.size[2]:
                chain = state.size[3]
                state.size[3] += 1
                state.chain[chain] = 1
                did = furthest_unmarked(state)
            else:
                chain = state.chain_of[page]
                state.chain[chain] += 1
                if state.chain[chain] <= state.harmonic[0]:
                    did = furthest_unmarked(state)
                else:
                    did = state.items[pick(rng, state.size[1])]
            state.chain_of[did] = chain
            drop(state, did)
        load_marked(state, page)
    state.next_of[page] = told
    return did


@compiled_with_arrays
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class PredictiveMarker(Algorithm):
    """Follows predicted times of next requests within a marking algorithm."""

    name: ClassVar[str] = "predictive-marker"
    told: ClassVar[Told] = "next"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
