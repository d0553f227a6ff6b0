"""Mark0 trusts one bit per request: pages with bit 1 go first; if all bits are 0 it does what Marker would.

Antoniadis, Boyar, Elias, Favrholdt, Hoeksma, Larsen, Polak, Simon, "Paging with Succinct Predictions", ICML 2023,
arXiv 2210.02775. Randomised, and with eta_0 wrong 0-bits and eta_1 wrong 1-bits

    E[faults] <= OPT + 2 H_k eta_0 + eta_1 + const
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.flush import note
from heedful.paging.marker import drop, load_marked, mark, marks
from heedful.paging.structures import FREE, HIT, compiled, pick, unlink


class State(NamedTuple):
    """Cached pages, the unmarked ones in front, and the order of those that may go.

    Attributes:
        items: int32 ``[k]``, as in :class:`~heedful.paging.marker.Marks`.
        place_of: int32 ``[pages]``, likewise.
        before_of: int32 ``[pages + 1]``: cached pages whose latest bit is 1, the oldest bit first.
        after_of: int32 ``[pages + 1]``, -1 for all others.
        size: int64 ``[2]``: pages held, and how many of them are unmarked.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    before_of: NDArray[np.int32]
    after_of: NDArray[np.int32]
    size: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache."""
    held = marks(pages, k)
    before, after = np.full((2, pages + 1), -1, dtype=np.int32)
    before[pages] = after[pages] = pages
    return State(held.items, held.place_of, before, after, held.size)


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, with its bit."""
    did = HIT
    if state.place_of[page] >= 0:
        mark(state, page)
    else:
        did = FREE
        if state.size[0] == len(state.items):
            did = state.after_of[len(state.after_of) - 1]
            if did < len(state.after_of) - 1:
                unlink(state.before_of, state.after_of, did)
            else:
                if state.size[1] == 0:
                    state.size[1] = state.size[0]
                did = state.items[pick(rng, state.size[1])]
            drop(state, did)
        load_marked(state, page)
    note(state, page, told)
    return did


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class Mark0(Algorithm):
    """Discard bits, randomised."""

    name: ClassVar[str] = "mark0"
    told: ClassVar[Told] = "discard"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
