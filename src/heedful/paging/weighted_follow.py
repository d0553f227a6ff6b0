"""Follow one of two algorithms at random, with weights that shrink with their faults: near the better of the two.

Blum and Burch, "On-line Learning and the Metrical Task System Problem", Machine Learning 39, 2000: each fault
multiplies an algorithm's weight by beta; the followed one is left just often enough that it is followed with
probability in proportion to its weight. Factor 1 + eps on the better algorithm, with eps shrinking as beta nears 1,
plus O(k / eps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.paging.base import Compiled
from heedful.paging.pairs import Pair, State, serve, start, watch
from heedful.paging.structures import HIT, compiled, pick

BETA = 0.99


def begin(pages: int, k: int) -> State:
    """Three empty caches, and nobody followed yet."""
    state = start(pages, k)
    state.followed[0] = -1
    return state


@compiled
def step(state, rng, page, first, second):  # type: ignore[no-untyped-def]
    """One request, and what the two algorithms did with it."""
    if state.followed[0] < 0:
        state.followed[0] = pick(rng, 2)
    watch(state, 0, page, first)
    watch(state, 1, page, second)
    share = state.faults[2:]
    if (first == HIT) != (second == HIT):
        loser = 1 if first == HIT else 0
        before = share[loser]
        share[loser] = before * BETA / (before * BETA + (1 - before))
        share[1 - loser] = 1 - share[loser]
        if state.followed[0] == loser and rng.random() * before >= share[loser]:
            state.followed[0] = 1 - loser
    return serve(state, page, state.followed[0])


@compiled
def run(state, rng, pages, first, second, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, pages[t], first[t], second[t])


@dataclass(frozen=True)
class WeightedFollow(Pair):
    """Randomised, factor 1 + eps on the better of the two."""

    name: ClassVar[str] = "weighted"

    @property
    def randomised(self) -> bool:  # type: ignore[override]
        """Always."""
        return True

    def compiled(self) -> Compiled:
        return Compiled(begin, step, run)
