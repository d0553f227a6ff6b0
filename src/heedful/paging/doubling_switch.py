"""A heuristic: follow one algorithm until it has twice the faults of the other, then the other. Factor 3 on the better.

The pages move over lazily, one per fault. In practice it stays nearer to the better algorithm than taking turns does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.paging.base import Compiled
from heedful.paging.pairs import Pair, serve, start, watch
from heedful.paging.structures import compiled


@compiled
def step(state, rng, page, first, second):  # type: ignore[no-untyped-def]
    """One request, and what the two algorithms did with it."""
    watch(state, 0, page, first)
    watch(state, 1, page, second)
    who = state.followed[0]
    if state.faults[who] >= 2 * state.faults[1 - who] and state.faults[who] > 0:
        state.followed[0] = 1 - who
    return serve(state, page, state.followed[0])


@compiled
def run(state, rng, pages, first, second, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, pages[t], first[t], second[t])


@dataclass(frozen=True)
class DoublingSwitch(Pair):
    """Deterministic heuristic."""

    name: ClassVar[str] = "doubling"

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
