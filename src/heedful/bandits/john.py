"""John's exploration: the distribution over decisions that looks into every direction as well as any can.

John, "Extremum Problems with Inequalities as Subsidiary Conditions", 1948, decomposes the identity by points in which
the ellipsoid of least volume around a set touches it; as exploration: Bubeck, Cesa-Bianchi, Kakade, "Towards Minimax
Policies for Online Linear Optimization with Bandit Feedback", COLT 2012. For the ellipsoid centred on the origin this
is the D-optimal design of Kiefer, Wolfowitz, "The Equivalence of Two Extremum Problems", 1960: over the span of the
decisions v, of dimension r, and with M = sum_v p_v v v^T,

    p maximises log det M    <=>    v^T M^-1 v <= r for every v, with equality where p_v > 0.

Found by Frank-Wolfe with away steps and exact line search (Wolfe 1970, Atwood 1973), from the uniform distribution.
"""

from __future__ import annotations

import numba
import numpy as np

TOLERANCE = 1e-3
"""Distributions are found to ``max_v v^T M^-1 v <= r (1 + TOLERANCE)``."""
_TINY = 1e-9
"""Entries of reduced rows that count as 0; rows are 0/1, so that others are ratios of whole numbers."""


@numba.njit(cache=True, nogil=True)
def johns(bits):  # type: ignore[no-untyped-def]
    """float64 ``[lanes, H]``: John's distribution over the rules of every lane.

    What the rules say about the people is a set of 0/1 rows, on which the design is made; of equal rows the first rule
    has all the weight. The chance to accept person i is M_ii, and that to accept two people M_ij: they are as unique as
    M is, whichever design is found. Where a rule accepts all, M_ii is at least ``1 / (r (1 + TOLERANCE))``.

    Args:
        bits: int8 ``[lanes, H, k]``, 0 or 1: what each rule says.
    """
    out = np.zeros(bits.shape[:2])
    for s in range(len(bits)):
        first = _distinct(bits[s])
        chosen = _design(bits[s], first)
        for v in range(len(first)):
            out[s, first[v]] = chosen[v]
    return out


@numba.njit(cache=True, nogil=True)
def _distinct(says):  # type: ignore[no-untyped-def]
    """int64: the first rule of each distinct row but that of zeros, which looks nowhere; 0 if there is no other."""
    rules, people = says.shape
    size = 4
    while size < 2 * rules:
        size *= 2
    table, first, found = np.full(size, -1), np.zeros(rules, dtype=np.int64), 0
    for h in range(rules):
        code = np.uint64(0)
        for i in range(people):
            code = code * np.uint64(1_099_511_628_211) + np.uint64(says[h, i])
        if code == 0 and not says[h].any():
            continue
        place = np.int64((code ^ (code >> np.uint64(29))) & np.uint64(size - 1))
        while table[place] >= 0 and not _equal(says, table[place], h):
            place = (place + 1) % size
        if table[place] < 0:
            table[place] = first[found] = h
            found += 1
    return first[: max(1, found)]


@numba.njit(cache=True, nogil=True)
def _equal(says, one, other):  # type: ignore[no-untyped-def]
    differing = 0
    for i in range(says.shape[1]):
        differing += says[one, i] != says[other, i]
    return differing == 0


@numba.njit(cache=True, nogil=True)
def _coordinates(says, first):  # type: ignore[no-untyped-def]
    """float64 ``[n, r]``: the rows in a basis of their span, r of the rows themselves; Gauss-Jordan, on columns."""
    n, k = len(first), says.shape[1]
    rows, rank = np.empty((n, k)), 0
    for v in range(n):
        for i in range(k):
            rows[v, i] = says[first[v], i]
    while rank < k:
        row, column, largest = 0, 0, _TINY
        for v in range(n):
            for j in range(rank, k):
                if abs(rows[v, j]) > largest:
                    row, column, largest = v, j, abs(rows[v, j])
        if largest == _TINY:
            break
        for v in range(n):
            rows[v, rank], rows[v, column] = rows[v, column], rows[v, rank]
        pivot = rows[row, rank]
        for v in range(n):
            rows[v, rank] /= pivot
        for j in range(k):
            factor = rows[row, j]
            if j != rank and factor != 0.0:
                for v in range(n):
                    rows[v, j] -= factor * rows[v, rank]
        rank += 1
    return rows[:, :rank].copy()


@numba.njit(cache=True, nogil=True)
def _design(says, first):  # type: ignore[no-untyped-def]
    """float64 ``[n]``: the D-optimal design on the rows of these rules."""
    rows = _coordinates(says, first)
    n, r = rows.shape
    p = np.full(n, 1.0 / n)
    if n == 1:
        return p
    inverse, worth = np.linalg.inv(rows.T @ (rows / n)), np.zeros(n)  # M^-1 and v^T M^-1 v
    for v in range(n):
        for i in range(r):
            for j in range(r):
                worth[v] += rows[v, i] * inverse[i, j] * rows[v, j]
    aimed = np.empty(r)
    while True:
        high, low = 0, -1
        for v in range(n):
            if worth[v] > worth[high]:
                high = v
            if p[v] > 0.0 and (low < 0 or worth[v] < worth[low]):
                low = v
        if worth[high] <= r * (1.0 + TOLERANCE):
            return p
        # p goes to (1 - step) p + step e_u, where log det is largest along this line and no weight below 0
        if worth[high] - r >= r - worth[low]:
            u, step = high, (worth[high] / r - 1.0) / (worth[high] - 1.0)
        else:
            u, step = low, -p[low] / (1.0 - p[low])
            if worth[low] > 1.0:
                step = max(step, (worth[low] / r - 1.0) / (worth[low] - 1.0))
        emptied = step == -p[u] / (1.0 - p[u])
        shrink, share = 1.0 / (1.0 - step), step / (1.0 - step + step * worth[u])
        for i in range(r):
            aimed[i] = 0.0
            for j in range(r):
                aimed[i] += inverse[i, j] * rows[u, j]
        for i in range(r):
            for j in range(r):
                inverse[i, j] = shrink * (inverse[i, j] - share * aimed[i] * aimed[j])
        for v in range(n):
            along = 0.0
            for j in range(r):
                along += rows[v, j] * aimed[j]
            worth[v] = shrink * (worth[v] - share * along * along)
            p[v] *= 1.0 - step
        p[u] = 0.0 if emptied else p[u] + step
