"""Compiled pieces that several methods share: refusing bad rows, plays, and means of what each action brought."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

REORDER = {"reassoc", "contract", "nsz"}
"""Sums may be taken in the order that suits vector instructions: fixed on one machine, and NaN stays NaN."""


@numba.njit(cache=True, nogil=True)
def refused(feasible):  # type: ignore[no-untyped-def]
    """``-(i + 1)`` for the first row i without a feasible action, else 0."""
    for i in range(len(feasible)):
        if not feasible[i].any():
            return -(i + 1)
    return 0


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def not_finite(contexts):  # type: ignore[no-untyped-def]
    """``i + 1`` for the first row i that holds NaN or infinity, else 0."""
    total = 0.0  # NaN as soon as one entry is NaN or infinite: 0 x infinity is NaN
    for value in contexts.reshape(-1):
        total += 0.0 * value
    if total == 0.0:
        return 0
    for i in range(len(contexts)):
        if not np.isfinite(contexts[i]).all():
            return i + 1
    return 0


class Means(NamedTuple):
    """What each action brought.

    Attributes:
        plays: int64 ``[lanes, K]``: how often it was decided.
        told: int64 ``[lanes, K]``: how often its reward came; fewer while feedback is on its way.
        means: float64 ``[lanes, K]``: mean of those rewards; 0 before the first.
        words: uint64 ``[lanes, 4]``: random streams.
    """

    plays: NDArray[np.int64]
    told: NDArray[np.int64]
    means: NDArray[np.float64]
    words: NDArray[np.uint64]


def no_means(words: NDArray[np.uint64], actions: int) -> Means:
    """Nothing played yet."""
    shape = (len(words), actions)
    return Means(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64), np.zeros(shape), words)


@numba.njit(cache=True, nogil=True)
def untold(plays, told, feasible):  # type: ignore[no-untyped-def]
    """Of the feasible actions of which no reward has come, the one played least, then the lowest; -1 if there is none.

    By plays rather than by index, so that late feedback does not keep a learner at its first action.
    """
    found = -1
    for k in range(len(plays)):
        if feasible[k] and told[k] == 0 and (found < 0 or plays[k] < plays[found]):
            found = k
    return found


@numba.njit(cache=True, nogil=True)
def add_plays(plays, actions):  # type: ignore[no-untyped-def]
    """Counts one decision per lane."""
    for s in range(len(actions)):
        plays[s, actions[s]] += 1


@numba.njit(cache=True, nogil=True)
def add_rewards(told, means, actions, rewards):  # type: ignore[no-untyped-def]
    """Takes one reward per lane into its action's mean."""
    for s in range(len(actions)):
        k = actions[s]
        told[s, k] += 1
        means[s, k] += (rewards[s] - means[s, k]) / told[s, k]
