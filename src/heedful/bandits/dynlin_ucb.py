"""DynLin-UCB holds an action until what it did before has faded, and learns from the last reward alone.

Mussi, Metelli, Restelli, "Dynamical Linear Bandits", ICML 2023, algorithm 1. In epoch m = 1, 2, ... it chooses

    argmax <h, u> + beta_t sqrt(u^T V^-1 u)

and holds it for ``1 + floor(log m / log(1 / rho))`` rounds; the last reward goes into the ridge regression (V, h). With
``c1 = Theta + Omega B Phi / (1 - rho)``, ``c2 = U Omega Phi (U B + U) / (1 - rho)`` and
``s^2 = sigma^2 (1 + Omega^2 Phi^2 / (1 - rho^2))``,

    beta_t = c1 sqrt(lam) + c2 / sqrt(lam) log(e (t + 1)) + sqrt(2 s^2 (log(1/delta) + d/2 log(1 + t U^2 / (d lam)))).

Regret is of order ``d sqrt(T) / (1 - rho)^(3/2)``. A rho above the truth slows it down; one below may leave it linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.blocks import diagonal, padded
from heedful.bandits.checks import between, whole
from heedful.bandits.dynamical import jump, mean_reward
from heedful.bandits.ridge import add_row, products
from heedful.bandits.vectors import VectorMethod, most_promising

if TYPE_CHECKING:
    from heedful.bandits.dynamical import LinearSystem, World

Floats = NDArray[np.float64]
ROUND, EPOCH, LEFT, HELD = 0, 1, 2, 3


class Optimist(NamedTuple):
    """What optimistic learners of one linear model each know.

    Attributes:
        vectors, pairs: float64 ``[lanes, K, D]`` and ``[lanes, K, D (D + 4) / 2]``: the actions, padded with zeros to
            whole :mod:`~heedful.bandits.blocks`, and their products.
        radius: float64 ``[lanes, 7]``: scale, c1 sqrt(lam), c2 / sqrt(lam), s^2, log(1/delta), d/2, U^2 / (d lam).
        stretch: float64 ``[lanes]``: 1 / log(1/rho); 0 for epochs of one round.
        inverse, estimate: float64 ``[lanes, D (D + 4) / 2]``, in blocks, and ``[lanes, D]``: V^-1 and h.
        counters: int64 ``[lanes, 4]``: rounds decided, epochs begun, rounds left of this one, the action held.
        work: float64 ``[lanes, D]``: room to work in.
    """

    vectors: Floats
    pairs: Floats
    radius: Floats
    stretch: Floats
    inverse: Floats
    estimate: Floats
    counters: NDArray[np.int64]
    work: Floats


@numba.njit(cache=True, nogil=True)
def beta(numbers, t):  # type: ignore[no-untyped-def]
    """The radius after t rounds, ``numbers`` as in :class:`Optimist`."""
    scale, first, drift, variance = numbers[0], numbers[1], numbers[2], numbers[3]
    noise = np.sqrt(2.0 * variance * (numbers[4] + numbers[5] * np.log(1.0 + t * numbers[6])))
    return scale * (first + drift * (1.0 + np.log(t + 1.0)) + noise)


@numba.njit(cache=True, nogil=True)
def epoch_length(epoch, stretch):  # type: ignore[no-untyped-def]
    """``1 + floor(log m / log(1/rho))``; the small number keeps whole quotients whole."""
    return 1 + int(np.floor(np.log(epoch) * stretch + 1e-9))


@numba.njit(cache=True, nogil=True)
def decide_one(state, s):  # type: ignore[no-untyped-def]
    """One round of lane s: the action, and whether it is the epoch's last."""
    counters = state.counters[s]
    if counters[LEFT] == 0:
        counters[EPOCH] += 1
        radius = beta(state.radius[s], counters[ROUND])
        vectors, pairs = state.vectors[s], state.pairs[s]
        counters[HELD] = most_promising(vectors, pairs, state.inverse[s], state.estimate[s], radius)
        counters[LEFT] = epoch_length(counters[EPOCH], state.stretch[s])
    counters[ROUND] += 1
    counters[LEFT] -= 1
    return counters[HELD], counters[LEFT] == 0


@numba.njit(cache=True, nogil=True)
def decide(state, actions, counted):  # type: ignore[no-untyped-def]
    """One round of every lane."""
    for s in range(len(actions)):
        actions[s], counted[s] = decide_one(state, s)


@numba.njit(cache=True, nogil=True)
def learn_one(state, s, action, reward):  # type: ignore[no-untyped-def]
    """The reward of an epoch's last round."""
    add_row(state.inverse[s], state.estimate[s], state.vectors[s, action], reward, state.work[s])


@numba.njit(cache=True, nogil=True)
def learn(state, actions, rewards, counted):  # type: ignore[no-untyped-def]
    """The rewards of every lane."""
    for s in range(len(actions)):
        if counted[s]:
            learn_one(state, s, actions[s], rewards[s])


@numba.njit(cache=True, nogil=True)
def run(state, world, chosen):  # type: ignore[no-untyped-def]
    """A whole run, an epoch at a time."""
    mean, t, counters = np.zeros(len(world.output)), 0, state.counters[0]
    while t < len(chosen):
        action, _ = decide_one(state, 0)
        held = min(counters[LEFT], len(chosen) - t - 1)
        counters[ROUND] += held
        counters[LEFT] -= held
        chosen[t : t + held + 1] = action
        t += held + 1
        jump(world, mean, action, held)
        if counters[LEFT] == 0:
            learn_one(state, 0, action, mean_reward(world, mean, action) + world.noise[t - 1])
        jump(world, mean, action, 1)


def optimist(vectors: Floats, lanes: int, ridge: float, stretch: float, scale: float, first: float, drift: float,
             variance: float, horizon: int) -> Optimist:  # fmt: skip
    """Nothing seen yet; ``first`` and ``drift`` are c1 and c2."""
    d, root = vectors.shape[1], math.sqrt(ridge)
    spread = float((vectors**2).sum(axis=1).max()) / (d * ridge)
    numbers = [scale, first * root, drift / root, variance, math.log(horizon), d / 2, spread]
    inverse, wide = diagonal(d, 1.0 / ridge), np.zeros((len(vectors), padded(d)))
    wide[:, :d] = vectors
    pairs = np.empty((len(vectors), len(inverse)))
    for vector, out in zip(wide, pairs, strict=True):
        products(vector, out)
    return Optimist(
        np.tile(wide, (lanes, 1, 1)), np.tile(pairs, (lanes, 1, 1)), np.tile(numbers, (lanes, 1)),
        np.full(lanes, stretch), np.tile(inverse, (lanes, 1)), np.zeros((lanes, padded(d))),
        np.zeros((lanes, 4), dtype=np.int64), np.zeros((lanes, padded(d))),
    )  # fmt: skip


@dataclass(frozen=True)
class DynLinUCB(VectorMethod):
    """Optimism in epochs, for rewards that depend on a hidden linear system.

    Attributes:
        rho: upper bound on the spectral radius of the system, in [0, 1); below 1e-6 epochs have one round.
        phi: upper bound on ``||A^k|| / rho^k``, at least 1.
        theta: upper bound on the norm of the action's direct part in the reward, at least 0.
        omega: upper bound on the norm of the state's part in the reward, at least 0.
        push: upper bound on the norm of B, at least 0.
        noise: sigma, standard deviation of the noise, at least 0.
        horizon: T; confidence is 1 - 1/T.
        ridge: lambda, above 0; None: log T.
        scale: of the radius, at least 0; 1 is the paper's. An action never tried that shares no coordinate with those
            tried hopes for no more than about ``scale (c1 + c2) ||u||``: a scale at which that is less than others earn
            may never try it.
    """

    name: ClassVar[str] = "dynlin-ucb"
    rho: float = 0.5
    phi: float = 1.0
    theta: float = 1.0
    omega: float = 1.0
    push: float = 1.0
    noise: float = 0.1
    horizon: int = 10_000
    ridge: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("rho", self.rho, 0.0, 1.0, open_high=True)
        between("phi", self.phi, 1.0)
        for name in ("theta", "omega", "push", "noise", "scale"):
            between(name, getattr(self, name), 0.0)
        whole("horizon", self.horizon, least=2)
        if self.ridge is not None:
            between("ridge", self.ridge, 0.0, open_low=True)

    @classmethod
    def knowing(
        cls, system: LinearSystem, horizon: int, rho: float | None = None, ridge: float | None = None,
        scale: float = 1.0,
    ) -> DynLinUCB:  # fmt: skip
        """With a system's own numbers as bounds; ``rho`` in place of its spectral radius.

        Raises ValueError for a system that forgets all after a few rounds, but not at once, without a ``rho``: no phi
        is large enough for a spectral radius of 0.
        """
        transient = system.transient
        if math.isinf(transient):
            if not rho:
                raise ValueError("system: its a is nilpotent, and phi would be infinite; give rho, above 0")
            transient = system.transient_at(rho)
        return cls(
            system.spectral_radius if rho is None else rho, transient, float(np.linalg.norm(system.theta)),
            float(np.linalg.norm(system.omega)), float(np.linalg.norm(system.b, 2)), system.sigma, horizon, ridge,
            scale,
        )  # fmt: skip

    @property
    def size(self) -> float:
        """c1: upper bound on the norm of the cumulative Markov parameter h."""
        return self.theta + self.omega * self.push * self.phi / (1.0 - self.rho)

    @property
    def deviation(self) -> float:
        """s: the noise of a reward, what the state carries included."""
        return self.noise * math.sqrt(1.0 + (self.omega * self.phi) ** 2 / (1.0 - self.rho**2))

    @property
    def stretch(self) -> float:
        """1 / log(1/rho), in rounds."""
        return 0.0 if self.rho < 1e-6 else 1.0 / math.log(1.0 / self.rho)

    def longest(self, rounds: int) -> int:
        return epoch_length(rounds, self.stretch)

    def begin(self, vectors: Floats, lanes: int = 1) -> Optimist:
        ridge = math.log(self.horizon) if self.ridge is None else float(self.ridge)
        largest = float(np.linalg.norm(vectors, axis=1).max())
        drift = largest**2 * self.omega * self.phi * (self.push + 1.0) / (1.0 - self.rho)
        return optimist(
            vectors, lanes, ridge, self.stretch, self.scale, self.size, drift, self.deviation**2, self.horizon
        )

    def decide(self, state: Optimist, actions: Any, counted: Any) -> None:
        decide(state, actions, counted)

    def learn(self, state: Optimist, actions: Any, rewards: Any, counted: Any) -> None:
        learn(state, actions, rewards, counted)

    def run(self, state: Optimist, world: World, chosen: Any) -> None:
        run(state, world, chosen)
