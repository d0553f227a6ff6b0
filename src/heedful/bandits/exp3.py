"""EXP3 plays each action with a probability that grows exponentially with its estimated total reward.

Auer, Cesa-Bianchi, Freund, Schapire, "The Nonstochastic Multiarmed Bandit Problem", SIAM Journal on Computing 32(1),
2002, section 3: ``p_k = (1 - gamma) w_k / sum w + gamma / K``, and of the action played
``w_k *= exp(gamma r / (p_k K))``. With infeasible actions, the sum and the uniform share are over the feasible ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between
from heedful.bandits.kernels import refused
from heedful.bandits.streams import uniform


class _Weights(NamedTuple):
    """``logs``: float64 ``[lanes, K]``, logarithms of weights; ``words``: random streams."""

    logs: NDArray[np.float64]
    words: NDArray[np.uint64]


@numba.njit(cache=True, nogil=True)
def draw(logs, words, s, feasible, gamma, chance):  # type: ignore[no-untyped-def]
    """Draws a feasible action of lane s; ``chance``, float64 ``[K]``, is filled with the probabilities."""
    top, total, count = -np.inf, 0.0, feasible.sum()
    for k in range(len(feasible)):
        if feasible[k]:
            top = max(top, logs[s, k])
    for k in range(len(feasible)):
        chance[k] = np.exp(logs[s, k] - top) if feasible[k] else 0.0
        total += chance[k]
    left, last = uniform(words, s), -1
    for k in range(len(feasible)):
        if feasible[k]:
            chance[k] = (1.0 - gamma) * chance[k] / total + gamma / count
            if left >= 0.0:
                last = k
            left -= chance[k]
    return last


@numba.njit(cache=True, nogil=True)
def _choose(logs, words, feasible, gamma, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    chance = np.empty(feasible.shape[1])
    for i in range(len(actions)):
        actions[i] = draw(logs, words, i * step, feasible[i if len(feasible) > 1 else 0], gamma, chance)
        chances[i] = chance[actions[i]]
    return 0


@numba.njit(cache=True, nogil=True)
def add_estimates(logs, actions, chances, rewards, rate):  # type: ignore[no-untyped-def]
    """Adds ``rate * r / (p K)`` to the logarithm of the weight of the action played, in every lane."""
    for s in range(len(actions)):
        logs[s, actions[s]] += rate * rewards[s] / (chances[s] * logs.shape[1])


@dataclass(frozen=True)
class EXP3(ArmMethod):
    """Exponential weights for adversarial rewards in [0, 1].

    Attributes:
        gamma: share of uniform exploration, and the learning rate, in (0, 1]. For T rounds the paper takes
            ``min(1, sqrt(K ln K / ((e - 1) T)))``.
    """

    name: ClassVar[str] = "exp3"
    unit_rewards: ClassVar[bool] = True
    gamma: float = 0.1

    def __post_init__(self) -> None:
        between("gamma", self.gamma, 0.0, 1.0, open_low=True)

    @property
    def randomised(self) -> bool:
        return True

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Weights:
        return _Weights(np.zeros((len(words), actions)), words)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        return _choose(state.logs, state.words, feasible, float(self.gamma), step, actions, chances), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_estimates(state.logs, actions, chances, rewards, float(self.gamma))
