"""Yardsticks that learn nothing: a random action, and each action in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.kernels import refused
from heedful.bandits.streams import uniform


@numba.njit(cache=True, nogil=True)
def _uniform(words, feasible, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        row = feasible[i if len(feasible) > 1 else 0]
        count = row.sum()
        left = int(uniform(words, i * step) * count)
        for k in range(len(row)):
            if row[k]:
                if left == 0:
                    actions[i] = k
                    break
                left -= 1
        chances[i] = 1.0 / count
    return 0


@numba.njit(cache=True, nogil=True)
def _round_robin(following, feasible, step, actions):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        row, s = feasible[i if len(feasible) > 1 else 0], i * step
        k = following[s]
        while not row[k]:
            k = (k + 1) % len(row)
        actions[i] = k
        following[s] = (k + 1) % len(row)
    return 0


class _Words(NamedTuple):
    words: NDArray[np.uint64]


class _Following(NamedTuple):
    following: NDArray[np.int64]


@dataclass(frozen=True)
class Uniform(ArmMethod):
    """Every feasible action with the same probability."""

    name: ClassVar[str] = "uniform"

    @property
    def randomised(self) -> bool:
        return True

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Words:
        return _Words(words)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        return _uniform(state.words, feasible, step, actions, chances), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class RoundRobin(ArmMethod):
    """The next feasible action after the last one, from 0 on."""

    name: ClassVar[str] = "round-robin"

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Following:
        return _Following(np.zeros(len(words), dtype=np.int64))

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        return _round_robin(state.following, feasible, step, actions), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        """Nothing."""
