"""LMarker is a marking algorithm that trusts predictions for clean pages only.

Rohatgi, "Near-Optimal Bounds for Online Caching with Machine Learned Advice", SODA 2020, arXiv 1910.12172, Section 3.
A clean page evicts the unmarked page that is predicted furthest away, a stale page a random unmarked one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.marker import drop, load_marked, mark
from heedful.paging.predictive_marker import begin_phase, furthest_unmarked, start
from heedful.paging.structures import FREE, HIT, compiled_with_arrays, pick


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
                did = furthest_unmarked(state)
            else:
                did = state.items[pick(rng, state.size[1])]
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
class LMarker(Algorithm):
    """Predictions for clean pages, chance for stale ones."""

    name: ClassVar[str] = "lmarker"
    told: ClassVar[Told] = "next"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
