"""D-LinUCB forgets: the rewards of its regression weigh gamma to the power of their age.

Russac, Vernade, Cappe, "Weighted Linear Bandits for Non-Stationary Environments", NeurIPS 2019, algorithm 1: with
``V = sum gamma^age u u^T + lam I`` and ``W = sum gamma^(2 age) u u^T + lam I``,
``argmax <theta, u> + beta_t sqrt(u^T V^-1 W V^-1 u)`` and
``beta_t = sqrt(lam) S + s sqrt(2 log(1/delta) + d log(1 + U^2 (1 - gamma^(2t)) / (lam d (1 - gamma^2))))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import between, whole
from heedful.bandits.dynamical import jump, mean_reward
from heedful.bandits.kernels import REORDER
from heedful.bandits.ridge import dot
from heedful.bandits.vectors import VectorMethod

if TYPE_CHECKING:
    from heedful.bandits.dynamical import World

Floats = NDArray[np.float64]


class _Discounted(NamedTuple):
    """What discounting learners each know.

    Attributes:
        vectors: ``[lanes, K, d]``.
        numbers: ``[lanes, 7]``: gamma, lam, scale, sqrt(lam) S, s^2, 2 log(1/delta) and U^2 / (lam d).
        sums: ``[lanes, 2, d, d]``: of u u^T, weighted by gamma and by its square.
        target: ``[lanes, d]``: of u y, weighted by gamma.
        rounds: ``[lanes]``: decided.
        inverse, work: ``[lanes, d, d]`` and ``[lanes, 2, d]``: room to work in.
    """

    vectors: Floats
    numbers: Floats
    sums: Floats
    target: Floats
    rounds: NDArray[np.int64]
    inverse: Floats
    work: Floats


@numba.njit(cache=True, nogil=True)
def _invert(matrix):  # type: ignore[no-untyped-def]
    """A symmetric positive definite matrix becomes its inverse: sweeps, a tenth of LAPACK's time at d = 3."""
    d = len(matrix)
    for p in range(d):
        pivot = 1.0 / matrix[p, p]
        for i in range(d):
            if i != p:
                factor = matrix[i, p] * pivot
                for j in range(d):
                    if j != p:
                        matrix[i, j] -= factor * matrix[p, j]
        for i in range(d):
            if i != p:
                matrix[i, p] *= -pivot
                matrix[p, i] *= pivot
        matrix[p, p] = pivot


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def _decide_one(state, s):  # type: ignore[no-untyped-def]
    numbers, t, vectors = state.numbers[s], state.rounds[s], state.vectors[s]
    gamma, ridge = numbers[0], numbers[1]
    seen = numbers[6] * (1.0 - gamma ** (2.0 * t)) / (1.0 - gamma * gamma)
    radius = numbers[2] * (numbers[3] + np.sqrt(numbers[4] * (numbers[5] + len(vectors[0]) * np.log(1.0 + seen))))
    squared, inverse = state.sums[s, 1], state.inverse[s]
    solved, estimate = state.work[s, 0], state.work[s, 1]
    n = len(inverse)
    for i in range(n):
        for j in range(n):
            inverse[i, j] = state.sums[s, 0, i, j] + (ridge if i == j else 0.0)
    _invert(inverse)
    for i in range(n):
        estimate[i] = dot(inverse[i], state.target[s])
    top, found = -np.inf, 0
    for k in range(len(vectors)):
        for i in range(n):
            solved[i] = dot(inverse[i], vectors[k])
        length = ridge * dot(solved, solved)
        for i in range(n):
            length += solved[i] * dot(squared[i], solved)
        index = dot(vectors[k], estimate) + radius * np.sqrt(0.0 if length < 0.0 else length)
        if index > top + 1e-12:
            top, found = index, k
    state.rounds[s] += 1
    return found


@numba.njit(cache=True, nogil=True)
def _decide(state, actions):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        actions[s] = _decide_one(state, s)


@numba.njit(cache=True, nogil=True)
def _learn_one(state, s, action, reward):  # type: ignore[no-untyped-def]
    gamma, u, target = state.numbers[s, 0], state.vectors[s, action], state.target[s]
    for i in range(len(u)):
        target[i] = gamma * target[i] + u[i] * reward
        for j in range(len(u)):
            state.sums[s, 0, i, j] = gamma * state.sums[s, 0, i, j] + u[i] * u[j]
            state.sums[s, 1, i, j] = gamma * gamma * state.sums[s, 1, i, j] + u[i] * u[j]


@numba.njit(cache=True, nogil=True)
def _learn(state, actions, rewards):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        _learn_one(state, s, actions[s], rewards[s])


@numba.njit(cache=True, nogil=True)
def _run(state, world, chosen):  # type: ignore[no-untyped-def]
    mean = np.zeros(len(world.output))
    for t in range(len(chosen)):
        action = _decide_one(state, 0)
        chosen[t] = action
        _learn_one(state, 0, action, mean_reward(world, mean, action) + world.noise[t])
        jump(world, mean, action, 1)


@dataclass(frozen=True)
class DLinUCB(VectorMethod):
    """Optimism with a regression that forgets, for linear rewards that drift.

    Attributes:
        gamma: weight of a reward one round old, in (0, 1).
        size: upper bound on the norm of the weights, at least 0.
        noise: standard deviation of the noise, at least 0.
        horizon: T; confidence is 1 - 1/T.
        ridge: lambda, above 0; None: log T.
        scale: of the radius, at least 0; 1 is the paper's.
    """

    name: ClassVar[str] = "d-linucb"
    gamma: float = 0.999
    size: float = 1.0
    noise: float = 0.1
    horizon: int = 10_000
    ridge: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("gamma", self.gamma, 0.0, 1.0, open_low=True, open_high=True)
        for name in ("size", "noise", "scale"):
            between(name, getattr(self, name), 0.0)
        whole("horizon", self.horizon, least=2)
        if self.ridge is not None:
            between("ridge", self.ridge, 0.0, open_low=True)

    def begin(self, vectors: Floats, lanes: int = 1) -> _Discounted:
        ridge, d = math.log(self.horizon) if self.ridge is None else float(self.ridge), vectors.shape[1]
        spread = float((vectors**2).sum(axis=1).max()) / (ridge * d)
        first, variance = self.size * math.sqrt(ridge), self.noise**2
        numbers = [self.gamma, ridge, self.scale, first, variance, 2.0 * math.log(self.horizon), spread]
        return _Discounted(
            np.tile(vectors, (lanes, 1, 1)), np.tile(numbers, (lanes, 1)), np.zeros((lanes, 2, d, d)),
            np.zeros((lanes, d)), np.zeros(lanes, dtype=np.int64), np.zeros((lanes, d, d)), np.zeros((lanes, 2, d)),
        )  # fmt: skip

    def decide(self, state: _Discounted, actions: Any, counted: Any) -> None:
        _decide(state, actions)

    def learn(self, state: _Discounted, actions: Any, rewards: Any, counted: Any) -> None:
        _learn(state, actions, rewards)

    def run(self, state: _Discounted, world: World, chosen: Any) -> None:
        _run(state, world, chosen)
