"""Compiled building blocks: a doubly linked order of pages, and a heap that knows where every page is.

Pages are dense numbers. Arrays whose names end in ``_of`` have one place per page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

HIT, FREE, FLUSHED = -2, -1, -3
"""What a request did, where it is not the page that was evicted: a hit; a fault with room left; a fault for which the
whole cache was emptied."""

LEAN: dict[str, Any] = {"forceinline": True, "_nrt": False}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` for functions that make no arrays: put into their callers, kept on disk between processes.

    Arrays' references are not counted, which would take most of a request's time. What is on disk is renewed when the
    function's own file changes, not when this one does: then delete ``__pycache__``.
    """
    made: Callable[..., Any] = numba.njit(cache=True, **LEAN)(function)
    return made


def compiled_with_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for functions that make arrays of their own, and for those that call them."""
    made: Callable[..., Any] = numba.njit(cache=True)(function)
    return made


# A linked order over pages: ``after_of`` and ``before_of`` have one place more than there are pages, for the ends.


@compiled
def unlink(before_of, after_of, page):  # type: ignore[no-untyped-def]
    """Takes a page out of the order."""
    before, after = before_of[page], after_of[page]
    after_of[before] = after
    before_of[after] = before
    after_of[page] = -1


@compiled
def link_last(before_of, after_of, page):  # type: ignore[no-untyped-def]
    """Puts a page at the end of the order; the last place of the arrays stands for both ends."""
    end = len(after_of) - 1
    last = before_of[end]
    after_of[last] = page
    before_of[page] = last
    after_of[page] = end
    before_of[end] = page


# A heap of pages, the one with the largest key first; equal keys: the lower page first.


@compiled
def _above(key_of, a, b):  # type: ignore[no-untyped-def]
    return key_of[a] > key_of[b] or (key_of[a] == key_of[b] and a < b)


@compiled
def sift_up(heap, place_of, key_of, at):  # type: ignore[no-untyped-def]
    """Moves the page at ``at`` up to where it belongs."""
    page = heap[at]
    while at > 0:
        parent = (at - 1) >> 1
        other = heap[parent]
        if not _above(key_of, page, other):
            break
        heap[at] = other
        place_of[other] = at
        at = parent
    heap[at] = page
    place_of[page] = at


@compiled
def sift_down(heap, place_of, key_of, at, size):  # type: ignore[no-untyped-def]
    """Moves the page at ``at`` down to where it belongs."""
    page = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _above(key_of, heap[child + 1], heap[child]):
            child += 1
        other = heap[child]
        if not _above(key_of, other, page):
            break
        heap[at] = other
        place_of[other] = at
        at = child
    heap[at] = page
    place_of[page] = at


@compiled
def rekey(heap, place_of, key_of, page, key, size):  # type: ignore[no-untyped-def]
    """Gives a page of the heap another key."""
    rises = key > key_of[page]
    key_of[page] = key
    if rises:
        sift_up(heap, place_of, key_of, place_of[page])
    else:
        sift_down(heap, place_of, key_of, place_of[page], size)


@compiled
def replace_top(heap, place_of, key_of, page, key, size):  # type: ignore[no-untyped-def]
    """Puts a page in the place of the one with the largest key, which is returned."""
    out = heap[0]
    place_of[out] = -1
    heap[0] = page
    key_of[page] = key
    sift_down(heap, place_of, key_of, 0, size)
    return out


@compiled
def push(heap, place_of, key_of, page, key, size):  # type: ignore[no-untyped-def]
    """Adds a page to a heap of ``size`` pages."""
    heap[size] = page
    key_of[page] = key
    sift_up(heap, place_of, key_of, size)


# Cached pages in one array: places [0, unmarked) hold the unmarked ones, [unmarked, size) the marked ones.


@compiled
def swap(items, place_of, a, b):  # type: ignore[no-untyped-def]
    """Exchanges two places of an array of pages."""
    x, y = items[a], items[b]
    items[a], items[b] = y, x
    place_of[y], place_of[x] = a, b


@compiled
def pick(rng, count):  # type: ignore[no-untyped-def]
    """A uniform number in [0, count)."""
    return min(count - 1, int(rng.random() * count))
