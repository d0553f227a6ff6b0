"""Mark&Predict is a marking algorithm that evicts, of the unmarked pages, one whose bit says that it is not needed.

Antoniadis, Boyar, Elias, Favrholdt, Hoeksma, Larsen, Polak, Simon, "Paging with Succinct Predictions", ICML 2023,
arXiv 2210.02775. Randomised, with phase bits, and with eta_0 wrong 0-bits and eta_1 wrong 1-bits

    E[faults] <= 2 OPT + H_k eta_0 + eta_1 + const,    and at most O(log k) OPT whatever the bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Told
from heedful.paging.structures import FREE, HIT, compiled, pick, swap


class State(NamedTuple):
    """Cached pages: first the unmarked ones with bit 1, then the unmarked ones with bit 0, then the marked ones.

    Attributes:
        items: int32 ``[k]``: places [0, ones), [ones, unmarked) and [unmarked, size).
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        bit_of: int8 ``[pages]``: the latest bit.
        phase_of: int64 ``[pages]``: the last phase in which the page was asked for, from 1 on.
        size: int64 ``[5]``: size, unmarked, ones, the present phase, and its different pages so far.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    bit_of: NDArray[np.int8]
    phase_of: NDArray[np.int64]
    size: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """An empty cache, at the beginning of the first phase."""
    items, place = np.full(k, -1, dtype=np.int32), np.full(pages, -1, dtype=np.int32)
    bit, phase = np.zeros(pages, dtype=np.int8), np.zeros(pages, dtype=np.int64)
    return State(items, place, bit, phase, np.array([0, 0, 0, 1, 0]))


@compiled
def _unmark_all(state):  # type: ignore[no-untyped-def]
    """A phase begins: every page by its bit."""
    size, ones = state.size[0], 0
    for at in range(size):
        if state.bit_of[state.items[at]] == 1:
            swap(state.items, state.place_of, at, ones)
            ones += 1
    state.size[1], state.size[2] = size, ones


@compiled
def _out_of_unmarked(state, at):  # type: ignore[no-untyped-def]
    """Moves the unmarked page at a place to the end of the unmarked ones, which become one less."""
    if at < state.size[2]:
        state.size[2] -= 1
        swap(state.items, state.place_of, at, state.size[2])
        at = state.size[2]
    state.size[1] -= 1
    swap(state.items, state.place_of, at, state.size[1])


@compiled
def step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    """One request, with its bit."""
    if state.phase_of[page] != state.size[3]:
        if state.size[4] == len(state.items):
            state.size[3] += 1
            state.size[4] = 0
            _unmark_all(state)
        state.phase_of[page] = state.size[3]
        state.size[4] += 1
    at, did = state.place_of[page], HIT
    if at >= 0:
        if at < state.size[1]:
            _out_of_unmarked(state, at)
    else:
        did = FREE
        if state.size[0] == len(state.items):
            at = pick(rng, state.size[2] if state.size[2] > 0 else state.size[1])
            did = state.items[at]
            _out_of_unmarked(state, at)
            state.size[0] -= 1
            swap(state.items, state.place_of, state.size[1], state.size[0])
            state.place_of[did] = -1
        state.items[state.size[0]] = page
        state.place_of[page] = state.size[0]
        state.size[0] += 1
    state.bit_of[page] = told
    return did


@compiled
def run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    """A whole trace."""
    for t in range(len(pages)):
        evicted[t] = step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class MarkAndPredict(Algorithm):
    """Phase bits, randomised."""

    name: ClassVar[str] = "mark-and-predict"
    told: ClassVar[Told] = "phase"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(start, step, run)
