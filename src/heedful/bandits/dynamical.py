"""Actions whose effect reaches the reward through a hidden linear system, as spending reaches sales through awareness.

Mussi, Metelli, Restelli, "Dynamical Linear Bandits", ICML 2023, section 2. The reward comes first, then the state
moves:

    y_t = <omega, x_t> + <theta, u_t> + eta_t,    x_{t+1} = A x_t + B u_t + eps_t,    x_1 = 0.

What noise adds to the rewards does not depend on the actions. So it is drawn once per seed, and every learner meets the
same; the mean state moves without noise, and over a stretch of one action it jumps in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between, numbers_of, whole
from heedful.bandits.streams import streams
from heedful.bandits.vectors import VectorMethod, action_set

Floats = NDArray[np.float64]


class World(NamedTuple):
    """A system and a set of K actions, as compiled loops read it.

    Attributes:
        powers: float64 ``[longest + 1, n, n]``: A^j.
        pushes: float64 ``[longest + 1, K, n]``: what j rounds of an action add to the state.
        output: float64 ``[n]``: omega.
        direct: float64 ``[K]``: <theta, u>.
        noise: float64 ``[T]``: what noise adds to each round's reward.
        work: float64 ``[n]``: room to work in.
    """

    powers: Floats
    pushes: Floats
    output: Floats
    direct: Floats
    noise: Floats
    work: Floats


@numba.njit(cache=True, nogil=True)
def jump(world, state, action, rounds):  # type: ignore[no-untyped-def]
    """Moves the mean state over rounds of one action."""
    n, longest, moved = len(state), len(world.powers) - 1, world.work
    while rounds > 0:
        j = min(rounds, longest)
        for i in range(n):
            moved[i] = world.pushes[j, action, i]
            for p in range(n):
                moved[i] += world.powers[j, i, p] * state[p]
        state[:] = moved
        rounds -= j


@numba.njit(cache=True, nogil=True)
def mean_reward(world, state, action):  # type: ignore[no-untyped-def]
    """E[y] of an action in a mean state."""
    total = world.direct[action]
    for i in range(len(state)):
        total += world.output[i] * state[i]
    return total


@numba.njit(cache=True, nogil=True)
def _carried(a, output, shocks, direct):  # type: ignore[no-untyped-def]
    """What noise adds to rewards: through the state, and directly."""
    n = len(a)
    x, moved = np.zeros(n), np.empty(n)
    for t in range(len(direct)):
        for i in range(n):
            direct[t] += output[i] * x[i]
        for i in range(n):
            moved[i] = shocks[t, i]
            for p in range(n):
                moved[i] += a[i, p] * x[p]
        x[:] = moved


@numba.njit(cache=True, nogil=True)
def _expected(world, actions):  # type: ignore[no-untyped-def]
    x, total = np.zeros(len(world.output)), 0.0
    for t in range(len(actions)):
        total += mean_reward(world, x, actions[t])
        jump(world, x, actions[t], 1)
    return total


@numba.njit(cache=True, nogil=True)
def _answer(world, noise, states, actions, t, chosen, rewards):  # type: ignore[no-untyped-def]
    """One round in every lane."""
    for s in range(len(actions)):
        k = actions[s]
        chosen[s, t] = k
        rewards[s] = mean_reward(world, states[s], k) + noise[s, t]
        jump(world, states[s], k, 1)


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """A stable linear system.

    Attributes:
        a: float64 ``[n, n]``: how the hidden state moves; spectral radius below 1.
        b: float64 ``[n, d]``: what actions do to it.
        omega: float64 ``[n]``: what of it is in the reward.
        theta: float64 ``[d]``: what of the action is in the reward at once.
        sigma: standard deviation of each output's and each state's noise, at least 0.
        outputs: how many outputs, each with noise of its own, the reward is the sum of.

    Raises ValueError, naming the field, for other shapes, numbers that are not finite, an unstable ``a``.
    """

    a: Floats
    b: Floats
    omega: Floats
    theta: Floats
    sigma: float = 0.01
    outputs: int = 1

    def __post_init__(self) -> None:
        for name in ("a", "b", "omega", "theta"):
            array = numbers_of(name, getattr(self, name))
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: must be finite")
            object.__setattr__(self, name, array)
        n, d = self.omega.size, self.theta.size
        for name, shape in (("a", (n, n)), ("b", (n, d)), ("omega", (n,)), ("theta", (d,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: must have shape {list(shape)}, has {list(getattr(self, name).shape)}")
        between("sigma", self.sigma, 0.0)
        whole("outputs", self.outputs)
        if self.spectral_radius >= 1.0:
            raise ValueError(f"a: must have a spectral radius below 1, has {self.spectral_radius:g}")

    @classmethod
    def of_outputs(cls, a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike, sigma: float) -> LinearSystem:
        """A system with several outputs ``C x + D u``, each with its own noise, whose sum is the reward."""
        c, d = numbers_of("c", c), numbers_of("d", d)
        return cls(np.asarray(a), np.asarray(b), c.sum(axis=0), d.sum(axis=0), sigma, len(c))

    @property
    def spectral_radius(self) -> float:
        """rho(A): the largest modulus of an eigenvalue."""
        return float(np.abs(np.linalg.eigvals(self.a)).max())

    @property
    def transient(self) -> float:
        """Phi(A): the largest ``||A^k|| / rho(A)^k`` of the first 1000 powers; 1 for A = 0, infinite for another A of
        spectral radius 0."""
        return self.transient_at(self.spectral_radius)

    def transient_at(self, rho: float) -> float:
        """The largest ``||A^k|| / rho^k`` of the first 1000 powers, for a rho of at least the spectral radius."""
        if rho == 0.0:
            return 1.0 if not self.a.any() else float("inf")
        power, largest = np.eye(len(self.a)), 1.0
        for _ in range(1000):
            power = power @ self.a / rho
            largest = max(largest, float(np.linalg.norm(power, 2)))
        return largest

    @property
    def markov(self) -> Floats:
        """h = theta + B^T (I - A)^-T omega: what one unit of a constant action is worth per round in the long run."""
        return self.theta + self.b.T @ np.linalg.solve((np.eye(len(self.a)) - self.a).T, self.omega)

    def steady(self, actions: ArrayLike) -> Floats:
        """J(u) = <h, u> of each action, float64 ``[K]``."""
        return action_set(actions, len(self.theta)) @ self.markov

    def noise(self, rounds: int, seed: int) -> Floats:
        """What noise adds to the rewards of that many rounds, whatever the actions: float64 ``[rounds]``."""
        rng = np.random.default_rng(seed)
        direct = rng.standard_normal(whole("rounds", rounds)) * np.sqrt(self.outputs)
        _carried(self.a, self.omega, rng.standard_normal((rounds, len(self.a))), direct)
        return direct * self.sigma

    def world(self, actions: ArrayLike, noise: Floats, longest: int = 1) -> World:
        """What compiled loops need; ``longest``: of the jumps that are laid down in tables."""
        vectors = action_set(actions, len(self.theta))
        pushed, n = vectors @ self.b.T, len(self.a)
        powers, pushes = [np.eye(n)], [np.zeros_like(pushed)]
        for _ in range(longest):
            pushes.append(pushes[-1] @ self.a.T + pushed)
            powers.append(powers[-1] @ self.a)
        return World(np.stack(powers), np.stack(pushes), self.omega, vectors @ self.theta, noise, np.zeros(n))


def play(
    system: LinearSystem, actions: ArrayLike, method: ArmMethod | VectorMethod, noise: Floats, seeds: Sequence[int],
    low: float = 0.0, high: float = 1.0,
) -> NDArray[np.int16]:  # fmt: skip
    """What a method plays, int16 ``[len(seeds), T]``: the same as deciding and updating round by round.

    Args:
        system: answers.
        actions: float64 ``[K, d]``.
        method: any that chooses one of K actions or one of K vectors; methods that read a context are not.
        noise: float64 ``[len(seeds), T]``, as :meth:`LinearSystem.noise` gives.
        seeds: of the method's own draws.
        low, high: methods that want rewards in [0, 1] are told ``(y - low) / (high - low)``, cut to it.

    Raises ValueError for a method that reads contexts, actions of another length than the system's or more than 32,767
    of them, noise of another shape, and a range that is empty.
    """
    vectors = action_set(actions, len(system.theta))
    if len(vectors) > np.iinfo(np.int16).max:
        raise ValueError(f"actions: are {len(vectors)}, at most {np.iinfo(np.int16).max}")
    noise = numbers_of("noise", noise)
    if noise.ndim != 2 or len(noise) != len(seeds) or not len(noise):
        raise ValueError(f"noise: must have shape [{len(seeds)}, T], a row per seed, has {list(noise.shape)}")
    if not np.isfinite(noise).all():
        raise ValueError("noise: must be finite")
    if not between("low", low, -np.inf) < between("high", high, -np.inf):
        raise ValueError(f"low={low!r}, high={high!r}: low must be below high")
    chosen = np.empty(noise.shape, dtype=np.int16)
    if isinstance(method, VectorMethod):
        for row, added in zip(chosen, noise):
            world = system.world(vectors, added, method.longest(len(added)))
            method.run(method.begin(vectors), world, row)
        return chosen
    if method.linear:
        raise ValueError(f"method={method.name}: reads contexts, and here are none; for vectors there is oful")
    world, states = system.world(vectors, noise[0]), np.zeros((len(noise), len(system.a)))
    learner = method.begin(streams(seeds), len(vectors), 0)
    picked, chances, rewards = np.empty(len(noise), dtype=np.int64), np.ones(len(noise)), np.empty(len(noise))
    contexts, feasible = np.zeros((len(noise), 0, 0)), np.ones((1, len(vectors)), dtype=np.bool_)
    for t in range(noise.shape[1]):
        method.choose(learner, contexts, feasible, 1, picked, chances)
        _answer(world, noise, states, picked, t, chosen, rewards)
        if method.unit_rewards:
            rewards = np.clip((rewards - low) / (high - low), 0.0, 1.0)
        method.learn(learner, contexts, picked, chances, rewards)
    return chosen


def regret(system: LinearSystem, actions: ArrayLike, chosen: NDArray[np.int16]) -> Floats:
    """Steady regret: the running sum of ``J(u*) - J(u_t)``, float64 as ``chosen``, whose last axis is rounds."""
    values = system.steady(actions)
    return np.cumsum(values.max() - values[chosen], axis=-1)


def plain_regret(system: LinearSystem, actions: ArrayLike, chosen: NDArray[np.int16]) -> float:
    """``T J(u*) - sum E[y_t]`` of one run, int16 ``[T]``: with what the state owes to earlier actions."""
    world = system.world(actions, np.zeros(0))
    return float(len(chosen) * system.steady(actions).max() - _expected(world, chosen))


def budgeted_actions(channels: int, budget: float, most: float = 1.0) -> Floats:
    """Every way to fill the channels in some order, each up to ``most``, until the budget is spent: float64 ``[K, d]``.

    >>> budgeted_actions(3, 1.5)[0].tolist(), len(budgeted_actions(3, 1.5))
    ([0.0, 0.5, 1.0], 6)
    """
    whole("channels", channels)
    between("budget", budget, 0.0, open_low=True)
    between("most", most, 0.0, open_low=True)
    amounts = np.clip(budget - most * np.arange(channels), 0.0, most)
    return np.array(sorted(set(permutations(amounts.tolist()))))


def polytope_vertices(coefficients: ArrayLike, limits: ArrayLike) -> Floats:
    """The vertices of ``{u: coefficients u <= limits}``, float64 ``[K, d]``, sorted.

    They are all that an optimistic learner needs of a polytope: its index is convex in u, and largest at a vertex.

    Args:
        coefficients: float64 ``[rows, d]``.
        limits: float64 ``[rows]``.

    Raises ValueError for other shapes, numbers that are not finite, and a polytope that is empty, flat or unbounded.
    """
    from scipy.optimize import linprog
    from scipy.spatial import HalfspaceIntersection, QhullError

    rows, bounds = numbers_of("coefficients", coefficients), numbers_of("limits", limits)
    if rows.ndim != 2 or not rows.size or bounds.shape != (len(rows),):
        raise ValueError(
            f"coefficients: must be [rows, d], limits [rows]; have {list(rows.shape)}, {list(bounds.shape)}"
        )
    if not (np.isfinite(rows).all() and np.isfinite(bounds).all()):
        raise ValueError("coefficients, limits: must be finite")
    # The centre of the largest ball inside.
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found = linprog(np.append(np.zeros(rows.shape[1]), -1.0), np.hstack([rows, norms]), bounds, bounds=(None, None))
    if found.status != 0 or found.x[-1] <= 0.0:
        raise ValueError("coefficients, limits: must describe a bounded polytope with points inside")
    try:
        corners = HalfspaceIntersection(np.hstack([rows, -bounds[:, None]]), found.x[:-1]).intersections
    except QhullError:
        corners = np.full((1, rows.shape[1]), np.inf)
    if not np.isfinite(corners).all():
        raise ValueError("coefficients, limits: must describe a bounded polytope with points inside")
    return np.unique(corners.round(12), axis=0)
