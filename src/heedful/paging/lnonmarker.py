"""LNonMarker is LMarker, but where chance has evicted wrongly once, any page may go.

Rohatgi, "Near-Optimal Bounds for Online Caching with Machine Learned Advice", SODA 2020, arXiv 1910.12172, Section 4.
A stale page whose evictor was not stale evicts a uniformly random page, marked or not; another stale page a random
unmarked one. Phases are those of the request sequence. It is not robust by itself: combine it with Marker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging import predictive_marker
from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.marker import drop, load_marked, mark
from heedful.paging.predictive_marker import begin_phase, furthest_unmarked
from heedful.paging.structures import FREE, HIT, compiled_with_arrays, pick


class State(NamedTuple):
    """As in :class:`heedful.paging.predictive_marker.State`, and what the sequence's phases need.

    Attributes:
        asked_of: int64 ``[pages]``: the last phase in which the page was asked for, from 1 on.
        by_clean_of: bool ``[pages]``: whether the request that evicted the page was for one that was not stale.
        phase: int64 ``[2]``: the sequence's present phase, and its different pages so far.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    next_of: NDArray[np.int64]
    stale_of: NDArray[np.int64]
    furthest: NDArray[np.int32]
    size: NDArray[np.int64]
    asked_of: NDArray[np.int64]
    by_clean_of: NDArray[np.bool_]
    phase: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache."""
    held = predictive_marker.start(pages, k)
    return State(
        held.items,
        held.place_of,
        held.next_of,
        held.stale_of,
        held.furthest,
        held.size,
        np.zeros(pages, dtype=np.int64),
        np.zeros(pages, dtype=np.bool_),
        np.array([1, 0]),
    )


@compiled_with_arrays
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, told when the page is predicted to come next."""
    if state.asked_of[page] != state.phase[0]:
        if state.phase[1] == len(state.items):
            state.phase[0] += 1
            state.phase[1] = 0
            begin_phase(state)
        state.asked_of[page] = state.phase[0]
        state.phase[1] += 1
    did = HIT
    if state.place_of[page] >= 0:
        mark(state, page)
    else:
        did = FREE
        if state.size[0] == len(state.items):
            clean = state.stale_of[page] != state.size[2]
            if clean:
                did = furthest_unmarked(state)
            elif state.by_clean_of[page]:
                did = state.items[pick(rng, state.size[0])]
            else:
                did = state.items[pick(rng, state.size[1])]
            state.by_clean_of[did] = clean
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
class LNonMarker(Algorithm):
    """LMarker with a better constant, for use in a combination."""

    name: ClassVar[str] = "lnonmarker"
    told: ClassVar[Told] = "next"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
