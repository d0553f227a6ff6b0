"""Two algorithms watched side by side, and a cache that steers between theirs: what the combiners share.

Whatever rule decides whom to follow, a page is moved only when there is a fault: then a page goes that the followed
algorithm does not hold. There is one, because the followed algorithm holds the requested page and we do not.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled, Run, Told, Trace, check_k, check_told, grown
from heedful.paging.structures import FLUSHED, FREE, HIT, compiled


class State(NamedTuple):
    """Our pages, both algorithms' pages, and which of ours either lacks. Index 0 is the first algorithm.

    Attributes:
        held_of: int32 ``[2, pages]``: where a page is among an algorithm's pages, -1 if it does not hold it.
        held: int32 ``[2, k]``: an algorithm's pages.
        lacked_of: int32 ``[2, pages]``: where a page is among those of ours that an algorithm lacks, or -1.
        lacked: int32 ``[2, k]``: our pages that an algorithm lacks.
        ours_of: bool ``[1, pages]``: our pages.
        size: int64 ``[5]``: sizes of ``held``, sizes of ``lacked``, and our own.
        faults: float64 ``[4]``: the algorithms' faults so far, and two numbers of the rule's own.
        followed: int64 ``[1]``: which algorithm is followed.
    """

    held_of: NDArray[np.int32]
    held: NDArray[np.int32]
    lacked_of: NDArray[np.int32]
    lacked: NDArray[np.int32]
    ours_of: NDArray[np.bool_]
    size: NDArray[np.int64]
    faults: NDArray[np.float64]
    followed: NDArray[np.int64]


def start(pages: int, k: int) -> State:
    """Three empty caches."""
    held_of, lacked_of = np.full((2, 2, pages), -1, dtype=np.int32)
    held, lacked = np.full((2, 2, k), -1, dtype=np.int32)
    ours = np.zeros((1, pages), dtype=np.bool_)
    faults, followed = np.array([0.0, 0.0, 0.5, 0.5]), np.zeros(1, dtype=np.int64)
    return State(held_of, held, lacked_of, lacked, ours, np.zeros(5, dtype=np.int64), faults, followed)


@compiled
def _add(items, place_of, size, at, page):  # type: ignore[no-untyped-def]
    items[size[at]] = page
    place_of[page] = size[at]
    size[at] += 1


@compiled
def _remove(items, place_of, size, at, page):  # type: ignore[no-untyped-def]
    place = place_of[page]
    if place >= 0:
        size[at] -= 1
        last = items[size[at]]
        items[place] = last
        place_of[last] = place
        place_of[page] = -1


@compiled
def _left(state, who, page):  # type: ignore[no-untyped-def]
    """An algorithm no longer holds a page."""
    _remove(state.held[who], state.held_of[who], state.size, who, page)
    if state.ours_of[0, page]:
        _add(state.lacked[who], state.lacked_of[who], state.size, 2 + who, page)


@compiled
def watch(state, who, page, did):  # type: ignore[no-untyped-def]
    """Notes what an algorithm did with a request."""
    if did == HIT:
        return
    state.faults[who] += 1
    if did == FLUSHED:
        while state.size[who] > 0:
            _left(state, who, state.held[who, 0])
    elif did >= 0:
        _left(state, who, did)
    _add(state.held[who], state.held_of[who], state.size, who, page)
    _remove(state.lacked[who], state.lacked_of[who], state.size, 2 + who, page)


@compiled
def serve(state, page, who):  # type: ignore[no-untyped-def]
    """Our own cache serves a request, evicting what the followed algorithm lacks."""
    if state.ours_of[0, page]:
        return HIT
    did = FREE
    if state.size[4] == state.held.shape[1]:
        did = state.lacked[who, 0]
        for other in range(2):
            _remove(state.lacked[other], state.lacked_of[other], state.size, 2 + other, did)
        state.ours_of[0, did] = False
    else:
        state.size[4] += 1
    state.ours_of[0, page] = True
    return did


@dataclass(frozen=True)
class Pair(Algorithm):
    """Two algorithms and a rule that steers between them.

    Args:
        first: an algorithm.
        second: another one; at most one of the two is told something, or both the same.

    Raises ValueError if they are told different things.
    """

    first: Algorithm
    second: Algorithm

    def __post_init__(self) -> None:
        if len({self.first.told, self.second.told} - {"none"}) > 1:
            raise ValueError(
                f"{self.first.name} and {self.second.name} are told different things "
                f"({self.first.told}, {self.second.told}); combine ones that are told the same, or nothing"
            )

    @property
    def told(self) -> Told:  # type: ignore[override]
        """What either of the two is told."""
        return self.second.told if self.first.told == "none" else self.first.told

    @property
    def randomised(self) -> bool:  # type: ignore[override]
        """Whether either of the two depends on the seed."""
        return self.first.randomised or self.second.randomised

    def compiled(self) -> Compiled:
        """``step(state, rng, page, did, did)`` and ``run(state, rng, pages, first, second, evicted)`` of the rule."""
        raise NotImplementedError

    def run(self, trace: Trace, k: int, told: Any = None, seed: int = 0) -> Run:
        check_k(k)
        check_told(self, told, len(trace))
        first, second = (
            one.run(trace, k, None if one.told == "none" else told, seed).evicted for one in (self.first, self.second)
        )
        parts, evicted = self.compiled(), np.empty(len(trace), dtype=np.int32)
        parts.run(parts.start(trace.distinct, k), _generator(seed), trace.pages, first, second, evicted)
        return Run(evicted)

    def cache(self, k: int, seed: int = 0) -> Any:
        return PairCache(self, k, seed)


def _generator(seed: int) -> np.random.Generator:
    """The rule's own generator, apart from those of the two algorithms."""
    return np.random.default_rng([seed, 1])


class PairCache:
    """As :class:`~heedful.paging.base.Cache`, for a pair of algorithms."""

    def __init__(self, pair: Pair, k: int, seed: int = 0) -> None:
        check_k(k)
        self.algorithm, self.k, self.time = pair, k, 0
        self._caches = pair.first.cache(k, seed), pair.second.cache(k, seed)
        self._parts, self._rng, self._room = pair.compiled(), _generator(seed), 64
        self._state = self._parts.start(self._room, k)
        self._number: dict[Hashable, int] = {}
        self._page: list[Hashable] = []
        self._held: dict[Hashable, None] = {}
        self.flushed: tuple[Hashable, ...] = ()
        """Always empty: a combined cache evicts one page at a time."""

    def request(self, page: Hashable, told: int = 0) -> Hashable | None:
        """Asks for a page; returns the one that was evicted for it, or None."""
        number = self._number.setdefault(page, len(self._page))
        if number == len(self._page):
            self._page.append(page)
            if number == self._room:
                self._state = grown(self._state, self._parts, self._room, self.k)
                self._room *= 2
        did = [self._ask(cache, page, told) for cache in self._caches]
        mine = int(self._parts.step(self._state, self._rng, number, *did))
        self.time += 1
        out = None
        if mine >= 0:
            out = self._page[mine]
            del self._held[out]
        self._held[page] = None
        return out

    def _ask(self, cache: Any, page: Hashable, told: int) -> int:
        """What one of the two algorithms does, in the numbers of the compiled step."""
        if page in cache:
            cache.request(page, told)
            return HIT
        out = cache.request(page, told)
        if cache.flushed:
            return FLUSHED
        return FREE if out is None else self._number[out]

    def __contains__(self, page: Hashable) -> bool:
        return page in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def pages(self) -> tuple[Hashable, ...]:
        """What is held, in order of loading."""
        return tuple(self._held)
