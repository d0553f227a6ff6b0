"""The textbook algorithms: LRU, FIFO, Random, CLOCK, LFU, and flush-when-full. None is told anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.base import Algorithm, Compiled
from heedful.paging.structures import (
    FLUSHED,
    FREE,
    HIT,
    compiled,
    link_last,
    pick,
    push,
    rekey,
    replace_top,
    unlink,
)


class _Order(NamedTuple):
    """Cached pages in an order, the next one to go first.

    Attributes:
        before_of: int32 ``[pages + 1]``.
        after_of: int32 ``[pages + 1]``, -1 for pages that are not cached.
        size: int64 ``[2]``: pages held, and k.
    """

    before_of: NDArray[np.int32]
    after_of: NDArray[np.int32]
    size: NDArray[np.int64]


def _order(pages: int, k: int) -> _Order:
    before, after = np.full((2, pages + 1), -1, dtype=np.int32)
    before[pages] = after[pages] = pages
    return _Order(before, after, np.array([0, k]))


@compiled
def _admit(state, page):  # type: ignore[no-untyped-def]
    """Loads a page at the end of the order; what goes for it is the first."""
    out = FREE
    if state.size[0] == state.size[1]:
        out = state.after_of[len(state.after_of) - 1]
        unlink(state.before_of, state.after_of, out)
    else:
        state.size[0] += 1
    link_last(state.before_of, state.after_of, page)
    return out


@compiled
def _lru_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    if state.after_of[page] >= 0:
        unlink(state.before_of, state.after_of, page)
        link_last(state.before_of, state.after_of, page)
        return HIT
    return _admit(state, page)


@compiled
def _lru_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _lru_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class LRU(Algorithm):
    """Evicts the page that was asked for least recently."""

    name: ClassVar[str] = "lru"

    def compiled(self) -> Compiled:
        return Compiled(_order, _lru_step, _lru_run)


@compiled
def _fifo_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    return HIT if state.after_of[page] >= 0 else _admit(state, page)


@compiled
def _fifo_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _fifo_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class FIFO(Algorithm):
    """Evicts the page that was loaded first."""

    name: ClassVar[str] = "fifo"

    def compiled(self) -> Compiled:
        return Compiled(_order, _fifo_step, _fifo_run)


class _Set(NamedTuple):
    """Cached pages in any order.

    Attributes:
        items: int32 ``[k]``.
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        size: int64 ``[2]``: pages held, and a hand that goes round.
    """

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    size: NDArray[np.int64]


def _set(pages: int, k: int) -> _Set:
    return _Set(np.full(k, -1, dtype=np.int32), np.full(pages, -1, dtype=np.int32), np.zeros(2, dtype=np.int64))


@compiled
def _put(state, page, at):  # type: ignore[no-untyped-def]
    """Puts a page at a place; returns the one that was there."""
    out = state.items[at]
    state.place_of[out] = -1
    state.items[at] = page
    state.place_of[page] = at
    return out


@compiled
def _random_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    if state.place_of[page] >= 0:
        return HIT
    size = state.size[0]
    if size < len(state.items):
        state.items[size] = page
        state.place_of[page] = size
        state.size[0] += 1
        return FREE
    return _put(state, page, pick(rng, size))


@compiled
def _random_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _random_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class Random(Algorithm):
    """Evicts a uniformly random page."""

    name: ClassVar[str] = "random"
    randomised: ClassVar[bool] = True

    def compiled(self) -> Compiled:
        return Compiled(_set, _random_step, _random_run)


class _Clock(NamedTuple):
    """As :class:`_Set`; ``used_of`` bool ``[pages]``: asked for since the hand last came by."""

    items: NDArray[np.int32]
    place_of: NDArray[np.int32]
    used_of: NDArray[np.bool_]
    size: NDArray[np.int64]


def _clock(pages: int, k: int) -> _Clock:
    held = _set(pages, k)
    return _Clock(held.items, held.place_of, np.zeros(pages, dtype=np.bool_), held.size)


@compiled
def _clock_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    if state.place_of[page] >= 0:
        state.used_of[page] = True
        return HIT
    size, hand = state.size
    state.used_of[page] = False
    if size < len(state.items):
        state.items[size] = page
        state.place_of[page] = size
        state.size[0] += 1
        return FREE
    while state.used_of[state.items[hand]]:
        state.used_of[state.items[hand]] = False
        hand = hand + 1 if hand + 1 < size else 0
    state.size[1] = hand + 1 if hand + 1 < size else 0
    return _put(state, page, hand)


@compiled
def _clock_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _clock_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class CLOCK(Algorithm):
    """A hand goes round over the pages, spares those that were asked for since it last came by, and evicts the first
    other one.
    """

    name: ClassVar[str] = "clock"

    def compiled(self) -> Compiled:
        return Compiled(_clock, _clock_step, _clock_run)


class _Heap(NamedTuple):
    """Cached pages in a heap.

    Attributes:
        heap: int32 ``[k]``.
        place_of: int32 ``[pages]``, -1 for pages that are not cached.
        key_of: int64 ``[pages]``: the largest goes first.
        count_of: int64 ``[pages]``: requests since the page was loaded.
        size: int64 ``[1]``: pages held.
    """

    heap: NDArray[np.int32]
    place_of: NDArray[np.int32]
    key_of: NDArray[np.int64]
    count_of: NDArray[np.int64]
    size: NDArray[np.int64]


def _heap(pages: int, k: int) -> _Heap:
    place = np.full(pages, -1, dtype=np.int32)
    key, count = np.zeros((2, pages), dtype=np.int64)
    return _Heap(np.full(k, -1, dtype=np.int32), place, key, count, np.zeros(1, dtype=np.int64))


@compiled
def _lfu_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    size = state.size[0]
    if state.place_of[page] >= 0:
        state.count_of[page] += 1
        rekey(state.heap, state.place_of, state.key_of, page, -(state.count_of[page] << 32) - time, size)
        return HIT
    state.count_of[page] = 1
    key = -(np.int64(1) << 32) - time
    if size < len(state.heap):
        push(state.heap, state.place_of, state.key_of, page, key, size)
        state.size[0] += 1
        return FREE
    return replace_top(state.heap, state.place_of, state.key_of, page, key, size)


@compiled
def _lfu_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _lfu_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class LFU(Algorithm):
    """Evicts the page with the fewest requests since it was loaded; among equals the least recently used."""

    name: ClassVar[str] = "lfu"

    def compiled(self) -> Compiled:
        return Compiled(_heap, _lfu_step, _lfu_run)


@compiled
def _fwf_step(state, rng, time, page, told):  # type: ignore[no-untyped-def]
    if state.place_of[page] >= 0:
        return HIT
    size, did = state.size[0], FREE
    if size == len(state.items):
        for at in range(size):
            state.place_of[state.items[at]] = -1
        size, did = 0, FLUSHED
    state.items[size] = page
    state.place_of[page] = size
    state.size[0] = size + 1
    return did


@compiled
def _fwf_run(state, rng, pages, told, evicted):  # type: ignore[no-untyped-def]
    for t in range(len(pages)):
        evicted[t] = _fwf_step(state, rng, t, pages[t], told[t])


@dataclass(frozen=True)
class FWF(Algorithm):
    """Flush when full: empties the whole cache when there is no room."""

    name: ClassVar[str] = "fwf"

    def compiled(self) -> Compiled:
        return Compiled(_set, _fwf_step, _fwf_run)
