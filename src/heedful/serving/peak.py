"""The most memory that running requests will come to hold, given how much longer each runs.

Let request j hold h_j slots and run for r_j more steps, r_1 >= r_2 >= ... Occupancy only falls when a request ends, so
its maximum over the future is attained at an end; at time r_i those with r_j >= r_i are still there:

    M_i = sum_{j <= i} h_j + i r_i,    M* = max_i M_i

In a cache of blocks, a request holds whole ones: sum_{j <= i} ceil((h_j + r_i) / page) of them.

Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

TRUE, CAP, MEAN, SIMPLE, INTERPOLATED = range(5)
"""What an output length is taken to be: the true one; the cap; the mean of history, or 1.1 times what is there
already; a length drawn from history above what is there; the same, interpolated between lengths."""

_HALF = np.int64(1) << 32
_GROUP = 16


@njit(cache=True, nogil=True)
def pages(tokens: int, page: int) -> int:
    """Slots of the whole blocks that hold so many tokens."""
    return (tokens + page - 1) // page * page


def future_peak(held: Any, remaining: Any, page: int = 1) -> int:
    """M*, the most slots that the requests will hold together.

    Args:
        held: integers ``[n]``: slots that each holds now, at least 0.
        remaining: integers ``[n]``: steps that each still runs, at least 0.
        page: tokens per block.

    >>> future_peak([5, 4, 5, 3, 4], [4, 3, 3, 2, 2])
    31
    """
    h, r = np.asarray(held, np.int64), np.asarray(remaining, np.int64)
    if h.shape != r.shape or h.ndim != 1:
        raise ValueError(f"held and remaining: must be two lists of one length, have shapes {h.shape} and {r.shape}")
    if len(h) and (h.min() < 0 or r.min() < 0 or max(h.max(), r.max()) >= 2**31):
        raise ValueError("held and remaining: must lie in [0, 2**31)")
    if page < 1:
        raise ValueError(f"page={page}: must be at least 1")
    return int(peak(h, r, page))


@njit(cache=True, nogil=True)
def peak(held: NDArray[np.int64], remaining: NDArray[np.int64], page: int) -> int:
    """M* of all requests; compiled, and nothing is checked."""
    order = np.sort(remaining * _HALF + np.arange(len(held)))
    return _peak(order, held, len(held), page, _working_space(page))


@njit(cache=True, nogil=True)
def _working_space(page: int) -> NDArray[np.int64]:
    """For :func:`_peak`: how many requests have each residue, then how many have one in each group of them."""
    return np.zeros(page + page // _GROUP + 1, np.int64)


@njit(cache=True, nogil=True)
def _peak(order: NDArray[np.int64], held: NDArray[np.int64], count: int, page: int, counts: NDArray[np.int64]) -> int:
    """M* of the first ``count`` requests.

    ``order`` holds (remaining, request) of these and perhaps others in one number each, ascending; ``counts`` is
    working space.
    """
    highest, alive = 0, 0
    if page == 1:
        slots = 0
        for place in range(len(order) - 1, -1, -1):
            r = order[place] // _HALF
            request = order[place] - r * _HALF
            if request < count:
                alive += 1
                slots += held[request]
                highest = max(highest, slots + alive * r)
        return highest
    # h = page * whole + residue; after r = page * q + s steps it has whole + q + ceil((residue + s) / page) blocks.
    counts[:] = 0
    whole = 0
    for place in range(len(order) - 1, -1, -1):
        r = order[place] // _HALF
        request = order[place] - r * _HALF
        if request >= count:
            continue
        alive += 1
        h = held[request]
        residue = h % page
        whole += h // page
        counts[residue] += 1
        counts[page + residue // _GROUP] += 1
        q, s = r // page, r % page
        blocks = whole + alive * (q + 1)
        if s == 0:
            blocks -= counts[0]
        else:
            # Those with a residue above page - s need one block more.
            first = page - s + 1
            group = (first + _GROUP - 1) // _GROUP
            for residue in range(first, min(group * _GROUP, page)):
                blocks += counts[residue]
            for place_of_group in range(page + group, len(counts)):
                blocks += counts[place_of_group]
        highest = max(highest, blocks * page)
    return highest


@njit(cache=True, nogil=True)
def length(
    rule: int,
    d: int,
    cap: int,
    exact: bool,
    true: int,
    ordered: NDArray[np.int64],
    first: int,
    mean: float,
    uniform: float,
) -> int:
    """An output length by that rule: above d, the tokens that are there already, and at most the cap.

    ``ordered`` are earlier lengths, ascending, ``first`` is the place of the first that is above d, and ``uniform`` a
    random number in [0, 1).
    """
    if rule == TRUE:
        return true
    if rule == CAP or exact:
        return cap
    if rule == MEAN:
        found = int(np.ceil(max(mean, 1.1 * d)))
    else:
        n = len(ordered)
        if rule == SIMPLE:
            found = cap if first == n else ordered[first + int(uniform * (n - first))]
        else:
            # Points d, the lengths above d, and the cap if it is above them; linear between neighbours.
            above = n - first
            last = ordered[n - 1] if above else d
            points = 1 + above + (1 if cap > last else 0)
            u = uniform * (points - 1)
            low = int(u)
            z0 = d if low == 0 else ordered[first + low - 1]
            z1 = ordered[first + low] if low < above else cap
            found = int(np.rint(z0 + (u - low) * (z1 - z0)))
    return max(d + 1, min(found, cap))


@njit(cache=True, nogil=True)
def admitted_below(
    limit: float,
    rule: int,
    uniform: NDArray[np.float64],
    waiting: Any,
    running: Any,
    ordered: NDArray[np.int64],
    mean: float,
    page: int,
) -> int:
    """How many waiting requests can join, one after the other, with M* below the limit in every draw of lengths.

    ``uniform`` are random numbers in [0, 1), a row for each draw: of the running requests, then of the waiting ones.
    """
    n, most = len(running.prompt), len(waiting.prompt)
    held = np.empty(n + most, np.int64)
    known = np.empty(n + most, np.int64)
    for j in range(n):
        held[j] = running.prompt[j] + running.generated[j]
        known[j] = np.searchsorted(ordered, running.generated[j], side="right")
    for j in range(most):
        held[n + j] = waiting.prompt[j] + waiting.generated[j]
        known[n + j] = np.searchsorted(ordered, waiting.generated[j], side="right")
    counts = _working_space(page)
    order = np.empty(n + most, np.int64)
    fit = most
    for k in range(len(uniform)):
        # Each batch has a loop of its own: one loop over either would only compile if both are laid out alike.
        for j in range(n):
            d, true = running.generated[j], running.output[j]
            total = length(rule, d, running.cap[j], running.exact[j], true, ordered, known[j], mean, uniform[k, j])
            order[j] = (total - d) * _HALF + j
        for i in range(most):
            j = n + i
            d, true = waiting.generated[i], waiting.output[i]
            total = length(rule, d, waiting.cap[i], waiting.exact[i], true, ordered, known[j], mean, uniform[k, j])
            order[j] = (total - d) * _HALF + j
        order.sort()
        # Adding a request never lowers M*, so the most that fit are found by halving.
        low, high = 0, fit + 1
        middle = fit
        while high - low > 1:
            if _peak(order, held, n + middle, page, counts) < limit:
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        fit = low
        if fit == 0:
            return 0
    return fit
