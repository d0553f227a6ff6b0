"""Schedules of last-switch-dependent arms: every arm follows a cycle of its own, and each round one that is due plays.

Foussoul, Goyal, Papadigenopoulos, Zeevi, ICML 2023 (in our reconstruction). Each arm draws, once and independently,
one of its cycles with the probability that the relaxation gives it, and an offset; this *virtual* schedule ignores all
other arms. Of the arms that are due, the one with the largest payoff really plays. Plays are independent across arms
with total probability at most 1, and an expected maximum over an independent set is at least 1 - 1/e of the sum; where
payoffs are monotone a real state is never worse than the virtual one. So ``E[average] >= (1 - 1/e) LP*``.

Half-monotone arms play whole runs: an arm whose virtual run starts while no run is in progress plays all of it. With
rates halved, it starts with a probability of at least 1/2, and ``E[average] >= LP* / 4``, less ``(W + 1) / (10 W)`` of
the part that always plays, whose runs end after 10 W rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import whole
from heedful.bandits.lsd import Payoffs, mark_played, place, unplayed
from heedful.bandits.lsd_relaxation import Relaxation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rule = Literal["virtual", "real", "whole-runs"]
VIRTUAL, REAL, WHOLE = 0, 1, 2
_RULES = {"virtual": VIRTUAL, "real": REAL, "whole-runs": WHOLE}
IDLE = -1


@dataclass(frozen=True, eq=False)
class Schedule:
    """Cycles that repeat.

    Attributes:
        rests, plays, offsets: int64 ``[k]``: arm i is due in round t if ``(t + offsets[i]) mod (x + y) >= x``; y = 0
            for arms without a cycle.
        rule: of the arms that are due, the one plays that pays most in its virtual or its real state, or whole runs.
        fill: whether in rounds in which none is due the best of the arms without a cycle plays.
    """

    rests: Ints
    plays: Ints
    offsets: Ints
    rule: Rule = "real"
    fill: bool = False

    @property
    def arrays(self) -> tuple[Ints, int, bool]:
        """int64 ``[3, k]``, rule and fill, as compiled loops read them."""
        return np.stack([self.rests, self.plays, self.offsets]), _RULES[self.rule], self.fill

    def check(self, payoffs: Payoffs) -> None:
        """Raises ValueError unless it is a schedule of as many arms as there are payoffs for."""
        if len(self.rests) != payoffs.arms:
            raise ValueError(f"schedule: is one of {len(self.rests)} arms, payoffs are those of {payoffs.arms}")


@numba.njit(cache=True, nogil=True)
def run_payoff(row, x, y):  # type: ignore[no-untyped-def]
    """R(x, y), for runs longer than the window too."""
    window = len(row) // 2
    total = row[window - 1 + x]
    for j in range(1, y):
        total += row[window - min(j, window)]
    return total


@numba.njit(cache=True, nogil=True)
def due(cycles, rule, fill, table, last, run, busy, now):  # type: ignore[no-untyped-def]
    """The arm that plays in round ``now``, -1 for none. ``busy``, int64 ``[2]``: with whole runs, the arm in progress
    and its plays left."""
    window, found, top = table.shape[1] // 2, -1, -1.0
    if rule == 2 and busy[1] > 0:
        busy[1] -= 1
        return busy[0]
    for i in range(len(table)):
        x, y = cycles[0, i], cycles[1, i]
        if y == 0:
            continue
        position = (now + cycles[2, i]) % (x + y)
        if rule == 2:
            if position == x:
                worth = run_payoff(table[i], x, y)
                if worth > top:
                    found, top = i, worth
        elif position >= x:
            if rule == 0:
                j = position - x
                at = 0 if x == 0 else (window - 1 + x if j == 0 else window - j)
            else:
                at = place(last[i], run[i], now, window)
            if table[i, at] > top:
                found, top = i, table[i, at]
    if rule == 2 and found >= 0:
        busy[0], busy[1] = found, cycles[1, found] - 1
    if found < 0 and fill:
        for i in range(len(table)):
            if cycles[1, i] == 0:
                worth = table[i, place(last[i], run[i], now, window)]
                if worth > top:
                    found, top = i, worth
    return found


@numba.njit(cache=True, nogil=True)
def _averages(cycles, rule, fill, table, last, run, burn, rounds, out):  # type: ignore[no-untyped-def]
    window = table.shape[1] // 2
    last0, run0, busy = last.copy(), run.copy(), np.zeros(2, dtype=np.int64)
    for s in range(len(out)):
        last[:], run[:], busy[:] = last0, run0, 0
        total = 0.0
        for now in range(burn + rounds):
            arm = due(cycles[s], rule, fill, table, last, run, busy, now)
            if arm >= 0:
                if now >= burn:
                    total += table[arm, place(last[arm], run[arm], now, window)]
                mark_played(last, run, arm, now)
        out[s] = total / rounds


@numba.njit(cache=True, nogil=True)
def _arms_played(cycles, rule, fill, table, last, run, out):  # type: ignore[no-untyped-def]
    busy = np.zeros(2, dtype=np.int64)
    for now in range(len(out)):
        arm = due(cycles, rule, fill, table, last, run, busy, now)
        out[now] = arm
        if arm >= 0:
            mark_played(last, run, arm, now)


def averages(schedules: list[Schedule], payoffs: Payoffs, rounds: int, burn: int = 0, rested: int = 0) -> Floats:
    """What schedules of one rule earn per round: float64 ``[len(schedules)]``.

    Args:
        schedules: alike in rule and fill.
        payoffs: what is earned, and what payoffs are compared by.
        rounds: counted, after ``burn`` that are not.
        rested: the state in which all arms start; 0: W.

    Raises ValueError for schedules of another number of arms, and for no rounds.
    """
    whole("rounds", rounds)
    for schedule in schedules:
        schedule.check(payoffs)
    last, run = unplayed(payoffs.arms, rested)
    _, rule, fill = schedules[0].arrays
    cycles, out = np.stack([schedule.arrays[0] for schedule in schedules]), np.empty(len(schedules))
    _averages(cycles, rule, fill, payoffs.table, last, run, burn, rounds, out)
    return out


def arms_played(schedule: Schedule, payoffs: Payoffs, rounds: int, rested: int = 0) -> Ints:
    """The arm played in each round, -1 for none: int64 ``[rounds]``. Raises ValueError as :func:`averages`."""
    whole("rounds", rounds)
    schedule.check(payoffs)
    last, run = unplayed(payoffs.arms, rested)
    cycles, rule, fill = schedule.arrays
    out = np.empty(rounds, dtype=np.int64)
    _arms_played(cycles, rule, fill, payoffs.table, last, run, out)
    return out


def rounded(
    relaxation: Relaxation, payoffs: Payoffs, draws: int, rng: np.random.Generator, rule: Rule = "real",
    fill: bool = False, scale: float | None = None,
) -> list[Schedule]:  # fmt: skip
    """Schedules drawn from a relaxation, independently.

    Args:
        relaxation: of ``payoffs``.
        draws: how many.
        rng: of cycles and offsets.
        rule, fill: of the schedules.
        scale: of the rates, in (0, 1]; None: 1/2 for whole runs, for the guarantee, and 1 otherwise.
    """
    k, window = payoffs.arms, payoffs.window
    factor = (0.5 if rule == "whole-runs" else 1.0) if scale is None else scale
    lengths = relaxation.rests + relaxation.plays
    chance = np.zeros((k, len(lengths)))
    chance[relaxation.arms, np.arange(len(lengths))] = factor * relaxation.rates * lengths
    ends, uniforms, positions = np.cumsum(chance, axis=1), rng.random((draws, k)), rng.random((draws, k))
    drawn = (uniforms[:, :, None] >= ends[None]).sum(axis=2)  # the cycle, or beyond the last: none
    has = drawn < len(lengths)
    cycle = np.where(has, drawn, 0)
    rests = np.where(has, relaxation.rests[cycle], 0) if len(lengths) else np.zeros((draws, k), dtype=np.int64)
    plays = np.where(has, relaxation.plays[cycle], 0) if len(lengths) else np.zeros((draws, k), dtype=np.int64)
    offsets = (positions * (rests + plays)).astype(np.int64)
    if rule == "whole-runs":
        # Always play is a run of 10 W after one round of rest, and the first one starts at once.
        always = has & (rests == 0)
        rests, plays, offsets = (
            np.where(always, new, old) for new, old in ((1, rests), (10 * window, plays), (1, offsets))
        )
    return [Schedule(x, y, o, rule, fill) for x, y, o in zip(rests, plays, offsets)]
