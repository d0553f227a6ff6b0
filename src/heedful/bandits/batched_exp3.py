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
from heedful.bandits.checks import between, whole
from heedful.bandits.exp3 import add_estimates, draw
from heedful.bandits.kernels import refused


class _Batches(NamedTuple):
    """``logs``: float64 ``[lanes, K]``, logarithms of weights; ``held``: int64 ``[lanes, 2]``, the action and how often
    it is still to be played; ``drawn``: float64 ``[lanes, K]``, the probabilities of what is held, given that the batch
    has come so far; ``words``: random streams."""

    logs: NDArray[np.float64]
    held: NDArray[np.int64]
    drawn: NDArray[np.float64]
    words: NDArray[np.uint64]


@numba.njit(cache=True, nogil=True)
def choose(logs, held, drawn, words, feasible, gamma, batch, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        over, gone = held[s, 1] == 0 or not row[held[s, 0]], 0.0
        for k in range(len(row)):
            over = over or (row[k] and drawn[s, k] == 0.0)
            gone += 0.0 if row[k] else drawn[s, k]
        if over:
            held[s, 0] = draw(logs, words, s, row, gamma, drawn[s])
            held[s, 1] = batch
        elif gone > 0.0:
            for k in range(len(row)):
                drawn[s, k] = min(1.0, drawn[s, k] / (1.0 - gone)) if row[k] else 0.0
        held[s, 1] -= 1
        actions[i], chances[i] = held[s, 0], drawn[s, held[s, 0]]
    return 0


@dataclass(frozen=True)
class BatchedEXP3(ArmMethod):
    """Exponential weights over batches, for rewards in [0, 1].

    A batch ends early if its action becomes infeasible, or one that was not there becomes feasible. The probability of
    a round is that of the batch's draw, given that the batch has come so far: an action that is no longer there would
    have ended it.

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
        nothing = np.zeros((lanes, actions))
        return _Batches(nothing, np.zeros((lanes, 2), dtype=np.int64), nothing.copy(), words)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        (logs, held, drawn, words), gamma, batch = state, float(self.gamma), self.batch
        return choose(logs, held, drawn, words, feasible, gamma, batch, step, actions, chances), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_estimates(state.logs, actions, chances, rewards, float(self.gamma) / self.batch)
