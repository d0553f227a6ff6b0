"""Batched EXP3 draws an action, plays it for a whole batch of rounds, and learns from the batch's mean reward.

Dekel, Tewari, Arora, "Online Bandit Learning against an Adaptive Adversary: from Regret to Policy Regret", ICML 2012,
section 3, over EXP3 of Auer et al. (2002): what an action did before has time to fade. EXP3's update is linear in the
reward, so that each reward of a batch of B adds its share, ``gamma r / (B p_k K)``, when it comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.base import between, whole
from heedful.bandits.exp3 import draw
from heedful.bandits.kernels import refused


class _Batches(NamedTuple):
    """``logs``: float64 ``[lanes, K]``, logarithms of weights; ``held``: int64 ``[lanes, 2]``, the action and how often
    it is still to be played; ``chance``: float64 ``[lanes]``, with which it was drawn; ``words``: random streams."""

    logs: NDArray[np.float64]
    held: NDArray[np.int64]
    chance: NDArray[np.float64]
    words: NDArray[np.uint64]


@numba.njit(cache=True, nogil=True)
def choose(logs, held, chance, words, feasible, gamma, batch, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    work = np.empty(feasible.shape[1])
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        if held[s, 1] == 0 or not row[held[s, 0]]:
            held[s, 0] = draw(logs, words, s, row, gamma, work)
            held[s, 1], chance[s] = batch, work[held[s, 0]]
        held[s, 1] -= 1
        actions[i], chances[i] = held[s, 0], chance[s]
    return 0


@numba.njit(cache=True, nogil=True)
def learn(logs, actions, chances, rewards, share):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        logs[s, actions[s]] += share * rewards[s] / (chances[s] * logs.shape[1])


@dataclass(frozen=True)
class BatchedEXP3(ArmMethod):
    """Exponential weights over batches, for rewards in [0, 1].

    A batch ends early if its action becomes infeasible. The probability of every round of a batch is that of its draw.

    Attributes:
        batch: rounds for which an action is played, at least 1.
        gamma: share of uniform exploration, and the learning rate, in (0, 1].
    """

    name: ClassVar[str] = "batched-exp3"
    unit_rewards: ClassVar[bool] = True
    batch: int = 4
    gamma: float = 0.1

    def __post_init__(self) -> None:
        whole("batch", self.batch)
        between("gamma", self.gamma, 0.0, 1.0, open_low=True)

    @property
    def randomised(self) -> bool:
        return True

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Batches:
        lanes = len(words)
        return _Batches(np.zeros((lanes, actions)), np.zeros((lanes, 2), dtype=np.int64), np.ones(lanes), words)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        (logs, held, chance, words), gamma, batch = state, float(self.gamma), self.batch
        return choose(logs, held, chance, words, feasible, gamma, batch, step, actions, chances), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        learn(state.logs, actions, chances, rewards, float(self.gamma) / self.batch)
