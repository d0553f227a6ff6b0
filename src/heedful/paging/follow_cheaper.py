"""Follow the cheaper of two algorithms: take them in turn, and be at most twice as bad as the better one.

On each fault with a full cache the two algorithms are followed in turn: a page goes that the one whose turn it is does
not hold. Then faults <= 2 min(A, B) + 2 k: the pairing argument of Fiat, Rabani, Ravid, "Competitive k-server
algorithms", FOCS 1990, as used by Antoniadis et al., ICML 2023, arXiv 2210.02775.
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
    did = serve(state, page, state.followed[0])
    if did >= 0:
        state.followed[0] = 1 - state.followed[0]
    return did


@compiled
def run(state, rng, pages, first, second, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, pages[t], first[t], second[t])


@dataclass(frozen=True)
class FollowCheaper(Pair):
    """Deterministic, factor 2 on the better of the two."""

    name: ClassVar[str] = "cheaper"

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
