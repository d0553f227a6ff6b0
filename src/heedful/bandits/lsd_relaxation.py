"""An upper bound on what any schedule of last-switch-dependent arms earns per round, from a small linear programme.

Foussoul, Goyal, Papadigenopoulos, Zeevi, ICML 2023 (in our reconstruction). A cycle of an arm rests x rounds and then
plays y: ``R(x, y) = p(x) + p(-1) + ... + p(-(y - 1))`` in x + y rounds. With z the number of cycles begun per round,

    maximise sum R z   subject to   sum (x + y) z <= 1 for each arm,   sum y z <= 1 over all arms,   z >= 0,

and one more column per arm, always play: one round, one play, p(-W). Counting a schedule's cycles shows that no
schedule earns more in the long run, monotone or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.lsd import Payoffs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A solution: the bound, and the cycles used.

    Attributes:
        value: LP*, per round.
        arms, rests, plays: int64 ``[c]``: arm, x and y of each cycle; x = 0, y = 1 is always play.
        rates: float64 ``[c]``: z, above 0.
    """

    value: float
    arms: Ints
    rests: Ints
    plays: Ints
    rates: Floats


@numba.njit(cache=True, nogil=True)
def cycle_payoffs(row, rests, plays, out):  # type: ignore[no-untyped-def]
    """R(x, y) of one arm's cycles; ``row`` of a table of payoffs; always play is x = 0, y = 1."""
    window = len(row) // 2
    sums = np.zeros(window + 1)
    for j in range(1, window):
        sums[j] = sums[j - 1] + row[window - j]
    for c in range(len(rests)):
        x = rests[c]
        out[c] = row[0] if x == 0 else row[window - 1 + x] + sums[plays[c] - 1]


@lru_cache(maxsize=8)
def _grid(window: int, longest: int) -> tuple[Ints, Ints, Floats, Ints]:
    """All cycles with at most ``longest`` plays and always play, by play rate, and where each new rate begins."""
    x, y = (part.ravel() for part in np.meshgrid(np.arange(1, window + 1), np.arange(1, longest + 1), indexing="ij"))
    x, y = np.append(x, 0), np.append(y, 1)
    order = np.lexsort((x + y, y / (x + y)))
    x, y = x[order], y[order]
    rates = y / (x + y)
    begins = np.flatnonzero(np.append(True, np.diff(rates) > 1e-12))
    return x, y, rates, np.append(begins, len(x))


@numba.njit(cache=True, nogil=True)
def _envelopes(table, rests, plays, rates, begins, arms, corners, play_rates, payoff_rates):  # type: ignore[no-untyped-def]
    """The corners of every arm's upper concave envelope of (play rate, payoff rate), from (0, 0) to where it stops
    rising. Returns how many there are; what does not fit is counted, not written."""
    payoffs, inverse = np.empty(len(rests)), 1.0 / (rests + plays)
    stack = np.empty(len(begins), dtype=np.int64)
    at, worth = np.zeros(len(begins) + 1), np.zeros(len(begins) + 1)  # of the stack, (0, 0) below it
    count = 0
    for i in range(len(table)):
        cycle_payoffs(table[i], rests, plays, payoffs)
        size, highest = 0, 1e-15
        for group in range(len(begins) - 1):
            best, r = -1, highest  # what pays no more than a cycle with fewer plays is never a corner
            for c in range(begins[group], begins[group + 1]):
                if payoffs[c] * inverse[c] > r:
                    best, r = c, payoffs[c] * inverse[c]
            if best < 0:
                continue
            a, highest = rates[best], r + 1e-15
            while size > 0:
                rise, width = worth[size] - worth[size - 1], at[size] - at[size - 1]
                if rise * (a - at[size - 1]) > (r - worth[size - 1]) * width + 1e-15:
                    break
                size -= 1
            stack[size] = best
            size += 1
            at[size], worth[size] = a, r
        for s in range(size):
            if count < len(arms):
                arms[count], corners[count] = i, stack[s]
                play_rates[count], payoff_rates[count] = at[s + 1], worth[s + 1]
            count += 1
    return count


def relax(payoffs: Payoffs, longest: int | None = None) -> Relaxation:
    """Solves the programme by its envelopes: every arm's best payoff rate as a concave function of its play rate, and
    play rates given out where they earn most.

    Args:
        payoffs: of k arms; O(k W^2) time.
        longest: cycles of at most so many plays, without always play (1: what a recharging bandit can do); None: all.
    """
    table, window = payoffs.table, payoffs.window
    rests, plays, rates, begins = _grid(window, window if longest is None else longest)
    if longest is not None:
        keep = rests > 0
        rests, plays, rates = rests[keep], plays[keep], rates[keep]
        begins = np.append(np.flatnonzero(np.append(True, np.diff(rates) > 1e-12)), len(rests))
    room = 8 * len(table)
    while True:
        arms, corners = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        at, worth = np.empty(room), np.empty(room)
        count = _envelopes(table, rests, plays, rates, begins, arms, corners, at, worth)
        if count <= room:
            break
        room = count
    arms, corners, at, worth = arms[:count], corners[:count], at[:count], worth[:count]
    first = np.append(True, np.diff(arms) > 0) if count else np.zeros(0, dtype=bool)
    width = at - np.where(first, 0.0, np.roll(at, 1))
    rise = worth - np.where(first, 0.0, np.roll(worth, 1))
    order = np.argsort(-rise / width, kind="stable")
    ends = np.cumsum(width[order])
    taken = np.clip((1.0 - (ends - width[order])) / width[order], 0.0, 1.0)
    value = float((taken * rise[order]).sum())
    share = np.zeros(count)
    share[order] = np.where(taken < 1e-12, 0.0, taken)
    # A corner gives way to the next one of its arm in the proportion in which that is taken.
    following = np.where(np.roll(first, -1), 0.0, np.roll(share, -1)) if count else share
    fraction = share - following
    used = fraction > 1e-12
    cycles = corners[used]
    lengths = rests[cycles] + plays[cycles]
    return Relaxation(value, arms[used], rests[cycles], plays[cycles], fraction[used] / lengths)


def relax_by_lp(payoffs: Payoffs) -> Relaxation:
    """The same programme, all its columns handed to HiGHS."""
    from scipy import sparse
    from scipy.optimize import linprog

    table, k = payoffs.table, payoffs.arms
    rests, plays, _, _ = _grid(payoffs.window, payoffs.window)
    worth = np.empty((k, len(rests)))
    for row, out in zip(table, worth):
        cycle_payoffs(row, rests, plays, out)
    lengths = sparse.kron(sparse.eye(k), (rests + plays)[None, :])
    rows = sparse.vstack([lengths, sparse.csr_matrix(np.tile(plays, k)[None, :])])
    found = linprog(-worth.ravel(), A_ub=rows, b_ub=np.ones(k + 1), bounds=(0, None), method="highs-ds")
    used = np.flatnonzero(found.x > 1e-12)
    cycles = used % len(rests)
    return Relaxation(-float(found.fun), used // len(rests), rests[cycles], plays[cycles], found.x[used])
