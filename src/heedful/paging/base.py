"""The room's one protocol: what a paging algorithm is, what it is told, and what comes out.

A cache holds k pages. A request for a page that is not there is a fault, which loads it; if the cache is full, a page
is evicted. Some algorithms are told something about every request:

===========  =========================================================================================
told         meaning
===========  =========================================================================================
``none``     nothing
``discard``  one bit: 1 if the page should go before it is asked for again, 0 if it should stay
``phase``    one bit: 0 if the page will be asked for in the next k-phase, else 1
``next``     the time (index of the request) at which the page is predicted to be asked for again
===========  =========================================================================================

Every algorithm is a compiled step over a state of plain arrays. :meth:`Algorithm.run` takes a whole trace through it
in one compiled call; :meth:`Algorithm.cache` makes an object that takes one request at a time, for use inside a cache
of one's own. Both make the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.paging.structures import FLUSHED, HIT

Told = Literal["none", "discard", "phase", "next"]


@dataclass(frozen=True, eq=False)
class Trace:
    """A sequence of requests.

    Attributes:
        pages: int32 ``[n]``: the page of each request, numbered from 0 in order of first appearance.
        distinct: number of different pages.
        name: what it is called.

    >>> Trace.of([70, 5, 70]).pages.tolist()
    [0, 1, 0]
    """

    pages: NDArray[np.int32]
    distinct: int
    name: str = ""

    @classmethod
    def of(cls, ids: Any, name: str = "") -> Trace:
        """A trace of any page ids (a sequence or an array of integers)."""
        array = np.asarray(ids)
        if array.ndim != 1:
            raise ValueError(f"ids: must be one-dimensional, has shape {array.shape}")
        if array.size and array.dtype.kind not in "iu":
            raise ValueError(f"ids: must be integers of at most 64 bits, are {array.dtype}")
        if len(array) >= 2**31:
            raise ValueError(f"ids: {len(array)} requests; at most 2147483647 fit")
        _, first, inverse = np.unique(array, return_index=True, return_inverse=True)
        number = np.empty(len(first), dtype=np.int32)
        number[first.argsort()] = np.arange(len(first), dtype=np.int32)
        return cls(number[inverse] if len(first) else np.zeros(0, dtype=np.int32), len(first), name)

    def __len__(self) -> int:
        return len(self.pages)

    def part(self, start: int, stop: int) -> Trace:
        """The requests ``[start, stop)`` as a trace of their own."""
        return Trace.of(self.pages[start:stop], self.name)

    @cached_property
    def next_request(self) -> NDArray[np.int64]:
        """int64 ``[n]``: when each request's page is asked for again; n if never."""
        n = len(self)
        order = np.argsort(self.pages, kind="stable")
        found = np.full(n, n, dtype=np.int64)
        same = self.pages[order[1:]] == self.pages[order[:-1]]
        found[order[:-1][same]] = order[1:][same]
        return found


@dataclass(frozen=True, eq=False)
class Run:
    """What an algorithm did with a trace.

    Attributes:
        evicted: int32 ``[n]``: the page that each request evicted, or :data:`~heedful.paging.structures.HIT` (-2),
            ``FREE`` (-1: a fault with room left) or ``FLUSHED`` (-3: a fault for which the cache was emptied).
    """

    evicted: NDArray[np.int32]

    @property
    def faults(self) -> int:
        """Requests for a page that was not there."""
        return int(np.count_nonzero(self.evicted != HIT))

    @property
    def fault(self) -> NDArray[np.bool_]:
        """bool ``[n]``: which requests were faults."""
        return self.evicted != HIT


class Compiled(NamedTuple):
    """An algorithm's compiled parts.

    Attributes:
        start: ``(pages, k) -> state``, a named tuple of arrays; those named ``*_of`` have a place per page on their
            last axis, ``before_of`` and ``after_of`` one more, for the ends of the order.
        step: ``(state, rng, time, page, told) -> what it did``.
        run: ``(state, rng, pages, told, evicted)``: the same for a whole trace.
    """

    start: Callable[[int, int], Any]
    step: Callable[..., int]
    run: Callable[..., None]


@dataclass(frozen=True)
class Algorithm:
    """A paging algorithm: an immutable description, usable for any number of traces and caches at once."""

    name: ClassVar[str]
    """Its name on the command line; classes without one are not listed."""
    told: ClassVar[Told] = "none"
    """What it is told about every request."""
    randomised: ClassVar[bool] = False
    """Whether it depends on the seed."""

    def compiled(self) -> Compiled:
        """The compiled parts."""
        raise NotImplementedError

    def run(self, trace: Trace, k: int, told: Any = None, seed: int = 0) -> Run:
        """Takes a whole trace through a cache of k pages that is empty at first.

        Args:
            trace: the requests.
            k: pages that the cache holds, at least 1.
            told: one entry per request, see the table above; nothing for an algorithm that is told nothing.
            seed: of its random choices.

        Raises ValueError for k below 1, and for ``told`` that is missing, of another length, or not made of bits.
        """
        check_k(k)
        hints = check_told(self, told, len(trace))
        parts = self.compiled()
        evicted = np.empty(len(trace), dtype=np.int32)
        parts.run(parts.start(trace.distinct, k), np.random.default_rng(seed), trace.pages, hints, evicted)
        return Run(evicted)

    def cache(self, k: int, seed: int = 0) -> Any:
        """A :class:`Cache` of k pages that makes the same decisions one request at a time."""
        return Cache(self, k, seed)


class Cache:
    """Which pages a cache of k pages holds, one request at a time.

    Args:
        algorithm: what decides.
        k: pages that the cache holds, at least 1.
        seed: of random choices.

    >>> from heedful.paging import LRU
    >>> cache = LRU().cache(k=2)
    >>> [cache.request(page) for page in "abcab"]
    [None, None, 'a', 'b', 'c']
    """

    def __init__(self, algorithm: Algorithm, k: int, seed: int = 0) -> None:
        check_k(k)
        self.algorithm, self.k = algorithm, k
        self._parts = algorithm.compiled()
        self._rng = np.random.default_rng(seed)
        self._room = 64
        self._state = self._parts.start(self._room, k)
        self._number: dict[Hashable, int] = {}
        self._page: list[Hashable] = []
        self._held: dict[Hashable, None] = {}
        self.time = 0
        self.flushed: tuple[Hashable, ...] = ()
        """Pages that the last request dropped beside the one that it returned; only algorithms that empty the cache
        drop more than one."""

    def request(self, page: Hashable, told: int = 0) -> Hashable | None:
        """Asks for a page.

        Args:
            page: any hashable name.
            told: what the algorithm is told about this request: a bit, or a predicted time.

        Returns:
            the page that was evicted for it, or None.

        Raises ValueError for a bit other than 0 and 1.
        """
        if self.algorithm.told in ("discard", "phase") and told not in (0, 1):
            raise ValueError(f"bit={told!r}: must be 0 or 1")
        number = self._number.setdefault(page, len(self._page))
        if number == len(self._page):
            self._page.append(page)
            if number == self._room:
                self._grow()
        did = int(self._parts.step(self._state, self._rng, self.time, number, int(told)))
        self.time += 1
        self.flushed = ()
        out: Hashable | None = None
        if did == FLUSHED:
            out, *rest = self._held
            self.flushed = tuple(rest)
            self._held.clear()
        elif did >= 0:
            out = self._page[did]
            del self._held[out]
        self._held[page] = None
        return out

    def __contains__(self, page: Hashable) -> bool:
        return page in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def pages(self) -> tuple[Hashable, ...]:
        """What is held, in order of loading."""
        return tuple(self._held)

    def _grow(self) -> None:
        """Room for twice as many different pages."""
        self._state = grown(self._state, self._parts, self._room, self.k)
        self._room *= 2


def grown(state: Any, parts: Compiled, pages: int, k: int) -> Any:
    """A state that has room for ``pages`` different pages, with room for twice as many."""
    more = 2 * pages
    larger = parts.start(more, k)
    fields = {}
    for name, old in state._asdict().items():
        if not name.endswith("_of"):
            fields[name] = old
            continue
        new = getattr(larger, name)
        new[..., :pages] = old[..., :pages]
        if name in ("before_of", "after_of"):  # the place that stands for the ends is another one now
            new[more] = old[pages]
            new[new == pages] = more
        fields[name] = new
    return type(state)(**fields)


def check_k(k: int) -> None:
    """Raises ValueError unless k is a whole number, at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ValueError(f"k={k!r}: must be a whole number")
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")


def check_told(algorithm: Algorithm, told: Any, length: int) -> NDArray[np.int64]:
    """What an algorithm is told, as int64 ``[length]``; zeros if it is told nothing.

    Raises ValueError if it is missing, not needed, of another length, or not made of bits.
    """
    if algorithm.told == "none":
        if told is not None:
            raise ValueError(f"told: {algorithm.name} is told nothing about requests")
        return np.zeros(length, dtype=np.int64)
    what = "next" if algorithm.told == "next" else "bits"
    if told is None:
        raise ValueError(f"{what}: {algorithm.name} needs one {algorithm.told} prediction per request")
    array = np.asarray(told)
    if array.shape != (length,):
        raise ValueError(f"{what}: has shape {array.shape} for {length} requests")
    if array.size and array.dtype.kind not in "iub" and not (array == np.floor(array)).all():
        raise ValueError(f"{what}: must be whole numbers")
    array = array.astype(np.int64)
    if what == "bits" and array.size and not ((array == 0) | (array == 1)).all():
        at = int(np.flatnonzero((array != 0) & (array != 1))[0])
        raise ValueError(f"bits: must be 0 or 1, is {array[at]} at request {at}")
    return array
