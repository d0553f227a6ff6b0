"""Whole runs of methods without vectors against a linear system, compiled: ten times as fast as round by round."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from heedful.bandits import ar2, batched_exp3, ucb1
from heedful.bandits.ar2 import AR2
from heedful.bandits.batched_exp3 import BatchedEXP3
from heedful.bandits.dynamical import World, jump, mean_reward
from heedful.bandits.exp3 import add_estimates
from heedful.bandits.streams import streams
from heedful.bandits.ucb1 import UCB1

_choose_ucb1, _choose_exp3, _choose_ar2 = ucb1.choose, batched_exp3.choose, ar2.choose


@numba.njit(cache=True, nogil=True)
def _ucb1(state, world, chosen, scale, low, high):  # type: ignore[no-untyped-def]
    mean, action, reward = np.zeros(len(world.output)), np.zeros(1, dtype=np.int64), np.zeros(1)
    feasible = np.ones((1, len(world.direct)), dtype=np.bool_)
    for t in range(len(chosen)):
        _choose_ucb1(state.plays, state.told, state.means, feasible, scale, 1, action)
        k = action[0]
        chosen[t] = k
        reward[0] = min(1.0, max(0.0, (mean_reward(world, mean, k) + world.noise[t] - low) / (high - low)))
        state.told[0, k] += 1
        state.means[0, k] += (reward[0] - state.means[0, k]) / state.told[0, k]
        jump(world, mean, k, 1)


@numba.njit(cache=True, nogil=True)
def _exp3(state, world, chosen, gamma, batch, low, high):  # type: ignore[no-untyped-def]
    mean, action, reward = np.zeros(len(world.output)), np.zeros(1, dtype=np.int64), np.zeros(1)
    feasible, chance = np.ones((1, len(world.direct)), dtype=np.bool_), np.ones(1)
    for t in range(len(chosen)):
        _choose_exp3(state.logs, state.held, state.drawn, state.words, feasible, gamma, batch, 1, action, chance)
        k = action[0]
        chosen[t] = k
        reward[0] = min(1.0, max(0.0, (mean_reward(world, mean, k) + world.noise[t] - low) / (high - low)))
        add_estimates(state.logs, action, chance, reward, gamma / batch)
        jump(world, mean, k, 1)


@numba.njit(cache=True, nogil=True)
def _ar2(state, world, chosen, alpha, width, epoch):  # type: ignore[no-untyped-def]
    mean, action = np.zeros(len(world.output)), np.zeros(1, dtype=np.int64)
    feasible = np.ones((1, len(world.direct)), dtype=np.bool_)
    for t in range(len(chosen)):
        _choose_ar2(
            state.rewards, state.played, state.triggered, state.clock, feasible, alpha, width, epoch, 1, action
        )  # fmt: skip
        k = action[0]
        chosen[t] = k
        state.rewards[0, k] = mean_reward(world, mean, k) + world.noise[t]
        jump(world, mean, k, 1)


def run(method: UCB1 | BatchedEXP3 | AR2, world: World, seed: int, chosen: Any, low: float, high: float) -> None:
    """What :func:`heedful.bandits.dynamical.play` does, for one seed; UCB1 is told rewards in [0, 1] as EXP3 is."""
    state = method.begin(streams([seed]), len(world.direct), 0)
    if isinstance(method, UCB1):
        _ucb1(state, world, chosen, float(method.scale), low, high)
    elif isinstance(method, BatchedEXP3):
        _exp3(state, world, chosen, float(method.gamma), method.batch, low, high)
    else:
        _ar2(state, world, chosen, *method.constants(len(world.direct)))
