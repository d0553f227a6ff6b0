"""Marker marks what is asked for and evicts an unmarked page at random; when all are marked a new phase begins.

Fiat, Karp, Luby, McGeoch, Sleator, Young, "Competitive Paging Algorithms", Journal of Algorithms 12(4), 1991.
At most 2 H_k times the optimal faults in expectation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled
from heedful.paging.structures import FREE, HIT, compiled, pick, swap


class Marks(NamedTuple):
    """Cached pages: the unmarked ones in front.

    Attributes:
        items: int32 ``[k]``: places [0, unmarked) hold unmarked pages, [unmarked, size) marked ones.
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        size: int64 ``[2]``: pages held, and how many of them are unmarked.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    size: NDArray[np.int64]


def marks(pages: int, k: int) -> Marks:
    """An empty cache."""
    items, place = np.full(k, -1, dtype=np.int32), np.full(pages, -1, dtype=np.int32)
    return Marks(items, place, np.zeros(2, dtype=np.int64))


@compiled
def mark(state, page):  # type: ignore[no-untyped-def]
    """Marks a cached page."""
    at, unmarked = state.place_of[page], state.size[1]
    if at < unmarked:
        swap(state.items, state.place_of, at, unmarked - 1)
        state.size[1] -= 1


@compiled
def load_marked(state, page):  # type: ignore[no-untyped-def]
    """Loads a page into a cache with room, marked."""
    size = state.size[0]
    state.items[size] = page
    state.place_of[page] = size
    state.size[0] += 1


@compiled
def drop(state, page):  # type: ignore[no-untyped-def]
    """Evicts a cached page, marked or not."""
    at = state.place_of[page]
    if at < state.size[1]:
        swap(state.items, state.place_of, at, state.size[1] - 1)
        at = state.size[1] - 1
        state.size[1] -= 1
    swap(state.items, state.place_of, at, state.size[0] - 1)
    state.size[0] -= 1
    state.place_of[page] = -1


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request."""
    if state.place_of[page] >= 0:
        mark(state, page)
        return HIT
    out = FREE
    if state.size[0] == len(state.items):
        if state.size[1] == 0:
            state.size[1] = state.size[0]
        out = state.items[pick(rng, state.size[1])]
        drop(state, out)
    load_marked(state, page)
    return out


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class Marker(Algorithm):
    """The randomised marking algorithm."""

    name: ClassVar[str] = "marker"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(marks, step, run)
