"""Thompson sampling draws a mean for each action from what is believed of it, and plays the one whose draw is largest.

Thompson, Biometrika 25, 1933; Agrawal, Goyal, "Analysis of Thompson Sampling for the Multi-armed Bandit Problem", COLT
2012. Bernoulli: the belief of action k is Beta(1 + S_k, 1 + F_k) after S_k successes and F_k failures; a reward r in
(0, 1) counts as r of a success and 1 - r of a failure (the paper tosses a coin instead). Gaussian (Agrawal, Goyal,
"Further Optimal Regret Bounds for Thompson Sampling", AISTATS 2013):
``Normal(sum of rewards / (n_k + 1), scale^2 / (n_k + 1))``.
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
from heedful.bandits.posteriors import Family
from heedful.bandits.streams import beta, normal


class _Beliefs(NamedTuple):
    """Per action, float64 ``[lanes, K]``: successes and failures (Bernoulli), rewards' sum and number (Gaussian)."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    words: NDArray[np.uint64]


def _nothing(words: NDArray[np.uint64], actions: int) -> _Beliefs:
    return _Beliefs(np.zeros((len(words), actions)), np.zeros((len(words), actions)), words)


@numba.njit(cache=True, nogil=True)
def _choose(first, second, words, feasible, scale, step, actions, parameters):  # type: ignore[no-untyped-def]
    """``scale`` below 0 means Bernoulli. Fills in what each draw was from."""
    bad = refused(feasible)
    if bad:
        return bad
    one, two = parameters[0], parameters[1]
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        top = -np.inf
        for k in range(len(row)):
            if scale < 0:
                one[i, k], two[i, k] = 1.0 + first[s, k], 1.0 + second[s, k]
            else:
                one[i, k] = first[s, k] / (second[s, k] + 1.0)
                two[i, k] = scale / np.sqrt(second[s, k] + 1.0)
            if row[k]:
                if scale < 0:
                    draw = beta(words, s, one[i, k], two[i, k])
                else:
                    draw = one[i, k] + two[i, k] * normal(words, s)
                if draw > top:
                    top, actions[i] = draw, k
    return 0


@numba.njit(cache=True, nogil=True)
def _learn(first, second, actions, rewards, gaussian):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        first[s, actions[s]] += rewards[s]
        second[s, actions[s]] += 1.0 if gaussian else 1.0 - rewards[s]


@dataclass(frozen=True)
class BernoulliThompson(ArmMethod):
    """Beliefs about a probability; for rewards in [0, 1]."""

    name: ClassVar[str] = "thompson"
    family: ClassVar[Family] = "beta"
    unit_rewards: ClassVar[bool] = True

    @property
    def randomised(self) -> bool:
        return True

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Beliefs:
        return _nothing(words, actions)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        parameters = np.empty((2, len(actions), state.first.shape[1]))
        code = _choose(state.first, state.second, state.words, feasible, -1.0, step, actions, parameters)
        return code, parameters

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        _learn(state.first, state.second, actions, rewards, False)


@dataclass(frozen=True)
class GaussianThompson(ArmMethod):
    """Beliefs about a mean; for any rewards.

    Attributes:
        scale: standard deviation of the belief about an action never played, above 0; 1 is the paper's.
    """

    name: ClassVar[str] = "gaussian-thompson"
    family: ClassVar[Family] = "normal"
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("scale", self.scale, 0.0, open_low=True)

    @property
    def randomised(self) -> bool:
        return True

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Beliefs:
        return _nothing(words, actions)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        parameters = np.empty((2, len(actions), state.first.shape[1]))
        code = _choose(state.first, state.second, state.words, feasible, float(self.scale), step, actions, parameters)
        return code, parameters

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        _learn(state.first, state.second, actions, rewards, True)
