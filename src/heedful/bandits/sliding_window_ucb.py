"""Sliding-window UCB plays the action whose mean over the last tau rewards, plus a width, is largest.

Garivier, Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems", ALT 2011:
``mean + scale sqrt(xi log(min(t, tau)) / n)``, n the rewards of the action among the last tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between, whole
from heedful.bandits.kernels import add_plays, refused


class _Window(NamedTuple):
    """``counts``, ``sums [lanes, K]`` over the window; ``plays [lanes, K]``, decided and not yet told; ``actions``,
    ``rewards [lanes, tau]``, a ring; ``told [lanes]``."""

    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    plays: NDArray[np.int64]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    told: NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def choose(counts, sums, plays, told, feasible, scale, xi, window, step, actions):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        best, top, fewest = -1, -np.inf, 2**62
        log = np.log(max(1, min(told[s], window)))
        for k in range(len(row)):
            if row[k] and counts[s, k] == 0:
                if plays[s, k] < fewest:  # nothing known: of these the one waited for least
                    best, fewest, top = k, plays[s, k], np.inf
            elif row[k]:
                index = sums[s, k] / counts[s, k] + scale * np.sqrt(xi * log / counts[s, k])
                if index > top:
                    best, top = k, index
        actions[i] = best
        if best >= 0:
            plays[s, best] += 1
    return 0


@numba.njit(cache=True, nogil=True)
def learn(counts, sums, plays, ring, rewards_ring, told, actions, rewards):  # type: ignore[no-untyped-def]
    window = ring.shape[1]
    for s in range(len(actions)):
        at, k = told[s] % window, actions[s]
        if told[s] >= window:
            old = ring[s, at]
            counts[s, old] -= 1
            sums[s, old] -= rewards_ring[s, at]
            if counts[s, old] == 0:
                sums[s, old] = 0.0
        ring[s, at], rewards_ring[s, at] = k, rewards[s]
        counts[s, k] += 1
        sums[s, k] += rewards[s]
        plays[s, k] -= 1
        told[s] += 1


@dataclass(frozen=True)
class SlidingWindowUCB(ArmMethod):
    """UCB1 that forgets what is older than a window.

    Attributes:
        window: tau, rewards remembered, at least 1.
        xi: of the width, at least 0; the paper's analysis takes above 1/2.
        scale: of the width, at least 0; the range of rewards.
    """

    name: ClassVar[str] = "sliding-window-ucb"
    window: int = 1000
    xi: float = 0.6
    scale: float = 1.0

    def __post_init__(self) -> None:
        whole("window", self.window)
        between("xi", self.xi, 0.0)
        between("scale", self.scale, 0.0)

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Window:
        n, k = len(words), actions
        return _Window(
            np.zeros((n, k), dtype=np.int64), np.zeros((n, k)), np.zeros((n, k), dtype=np.int64),
            np.zeros((n, self.window), dtype=np.int64), np.zeros((n, self.window)), np.zeros(n, dtype=np.int64),
        )  # fmt: skip

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        xi, scale = float(self.xi), float(self.scale)
        return choose(
            state.counts, state.sums, state.plays, state.told, feasible, scale, xi, self.window, step, actions
        ), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        learn(state.counts, state.sums, state.plays, state.actions, state.rewards, state.told, actions, rewards)

    def learn_logged(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_plays(state.plays, actions)
        self.learn(state, contexts, actions, chances, rewards)
