"""Block learners for last-switch-dependent arms: choose the next d plays together, by what each may pay at best.

Laforgue, Clerici, Cesa-Bianchi, Gilad-Bachrach, "A Last Switch Dependent Analysis of Satiation and Seasonality in
Bandits", AISTATS 2022, over the combinatorial semi-bandit CombUCB1 (Kveton et al., AISTATS 2015): a state seen n times
may pay ``mean + sqrt(1.5 log t / n)``. CombUCB1 plans from the states that arms are in. ISI-CombUCB1 ignores initial
states: an arm's first play in a block counts for nothing and teaches nothing. A calibration sequence plays every arm
once before each block, so that all blocks begin in the same states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import whole
from heedful.bandits.lsd import Payoffs, mark_played, place, unplayed
from heedful.bandits.lsd_learner import Bits, Floats, Ints, SwitchMethod
from heedful.bandits.streams import streams, uniform

_VARIANTS = ("comb", "isi", "calibrated")
MOST = 1_000_000
"""Sequences tried for one block: some tens of milliseconds."""


class _Blocks(NamedTuple):
    """``counts``, ``sums [lanes, k, 2 W]`` by state; ``last``, ``run [lanes, k]``; ``clock [lanes, 3]``: rounds, plays
    left of the block, blocks; ``block [lanes, length]``: the arms of the block; ``bounds [lanes, k, 2 W]``."""

    counts: Ints
    sums: Floats
    last: Ints
    run: Ints
    clock: Ints
    block: Ints
    bounds: Floats


@numba.njit(cache=True, nogil=True)
def _plan(counts, sums, last, run, clock, block, bounds, isi, fixed):  # type: ignore[no-untyped-def]
    """The arms of the next block: ``fixed`` plays in the order of arms, then those of all sequences whose sum of upper
    bounds is largest, the first of equals."""
    k, window, free = len(counts), counts.shape[1] // 2, len(block) - fixed
    clock[2] += 1
    clock[1] = len(block)
    width = 1.5 * np.log(clock[2])
    for i in range(k):
        for q in range(2 * window):
            n = counts[i, q]
            bounds[i, q] = 1e9 if n == 0 else sums[i, q] / n + np.sqrt(width / n)
    began = clock[0] + fixed
    for i in range(fixed):
        block[i] = i
        mark_played(last, run, i, clock[0] + i)
    sequence, totals, before = np.zeros(free, dtype=np.int64), np.zeros(free + 1), np.empty((free, 2), dtype=np.int64)
    top, changed = -1.0, 0
    while changed >= 0:  # the plays up to the one that has changed are those of the sequence before
        for t in range(changed, free):
            i = sequence[t]
            totals[t + 1] = totals[t]
            if not (isi and last[i] < began):
                totals[t + 1] += bounds[i, place(last[i], run[i], began + t, window)]
            before[t, 0], before[t, 1] = last[i], run[i]
            mark_played(last, run, i, began + t)
        if totals[free] > top:
            top = totals[free]
            block[fixed:] = sequence
        changed = free - 1
        while changed >= 0:
            i = sequence[changed]
            last[i], run[i] = before[changed]
            if i < k - 1:
                sequence[changed] += 1
                break
            sequence[changed] = 0
            changed -= 1


@numba.njit(cache=True, nogil=True)
def _learns(last, clock, length, arm, isi, fixed):  # type: ignore[no-untyped-def]
    """Whether the coming play teaches anything: not in a calibration, nor an arm's first in a block that ignores it."""
    spent = length - clock[1]
    return spent >= fixed and not (isi and last[arm] < clock[0] - spent)


@numba.njit(cache=True, nogil=True)
def _decide(counts, sums, last, run, clock, block, bounds, isi, fixed, arms, counted):  # type: ignore[no-untyped-def]
    for s in range(len(arms)):
        now = clock[s]
        if now[1] == 0:
            _plan(counts[s], sums[s], last[s].copy(), run[s].copy(), now, block[s], bounds[s], isi, fixed)
        arms[s] = block[s, len(block[s]) - now[1]]
        counted[s] = _learns(last[s], now, len(block[s]), arms[s], isi, fixed)
        now[1] -= 1


@numba.njit(cache=True, nogil=True)
def _take(counts, sums, arms, places, rewards, counted):  # type: ignore[no-untyped-def]
    for s in range(len(arms)):
        if counted[s]:
            counts[s, arms[s], places[s]] += 1
            sums[s, arms[s], places[s]] += rewards[s]


@numba.njit(cache=True, nogil=True)
def _run(counts, sums, last, run, clock, block, bounds, truth, words, isi, fixed, until):  # type: ignore[no-untyped-def]
    window, total = truth.shape[1] // 2, 0.0
    while clock[0] < until:
        if clock[1] == 0:
            kept_last, kept_run = last.copy(), run.copy()
            _plan(counts, sums, last, run, clock, block, bounds, isi, fixed)
            last[:], run[:] = kept_last, kept_run
        arm = block[len(block) - clock[1]]
        learns = _learns(last, clock, len(block), arm, isi, fixed)
        at = place(last[arm], run[arm], clock[0], window)
        total += truth[arm, at]
        reward = 1.0 if uniform(words, 0) < truth[arm, at] else 0.0
        mark_played(last, run, arm, clock[0])
        if learns:
            counts[arm, at] += 1
            sums[arm, at] += reward
        clock[1] -= 1
        clock[0] += 1
    return total


@dataclass(frozen=True)
class BlockUCB(SwitchMethod):
    """CombUCB1 over blocks of plays, and its two answers to unknown initial states.

    Attributes:
        variant: ``comb``, ``isi`` or ``calibrated``.
        length: d, plays chosen together, at least 1; k^d sequences are tried, a million at most.

    ``start`` and ``many`` raise ValueError for more arms than that allows.
    """

    name: ClassVar[str] = "block-ucb"
    variant: str = "isi"
    length: int = 3

    def __post_init__(self) -> None:
        if self.variant not in _VARIANTS:
            raise ValueError(f"variant={self.variant!r}: must be one of {', '.join(_VARIANTS)}")
        whole("length", self.length)

    def _mode(self, arms: int) -> tuple[bool, int]:
        return self.variant == "isi", arms if self.variant == "calibrated" else 0

    def begin(self, arms: int, window: int, seeds: Sequence[int]) -> _Blocks:
        lanes = len(seeds)
        if arms > 1 and self.length * math.log(arms) > math.log(MOST) + 1e-9:
            raise ValueError(
                f"length={self.length}: blocks of {arms} arms have {arms}^{self.length} sequences, more than {MOST}; "
                f"take at most length={int(math.log(MOST) / math.log(arms) + 1e-9)}"
            )
        last, run = (np.tile(part, (lanes, 1)) for part in unplayed(arms))
        counts = np.zeros((lanes, arms, 2 * window), dtype=np.int64)
        block = np.zeros((lanes, self._mode(arms)[1] + self.length), dtype=np.int64)
        clock = np.zeros((lanes, 3), dtype=np.int64)
        return _Blocks(counts, np.zeros(counts.shape), last, run, clock, block, np.zeros(counts.shape))

    def decide(self, state: _Blocks, arms: Ints, counted: Bits) -> None:
        _decide(*state, *self._mode(state.counts.shape[1]), arms, counted)

    def take(self, state: _Blocks, arms: Ints, places: Ints, rewards: Floats, counted: Bits) -> None:
        _take(state.counts, state.sums, arms, places, rewards, counted)

    def run(self, payoffs: Payoffs, marks: Sequence[int], seed: int) -> Floats:
        state, truth = self.begin(payoffs.arms, payoffs.window, [seed]), payoffs.learnable().table
        words: NDArray[np.uint64] = streams([seed])
        isi, fixed = self._mode(payoffs.arms)
        (counts, sums, last, run, clock, block, bounds), total, out = (part[0] for part in state), 0.0, []
        for mark in marks:
            total += _run(counts, sums, last, run, clock, block, bounds, truth, words, isi, fixed, mark)
            out.append(total)
        return np.array(out)
