"""Instances of last-switch-dependent bandits, and their states by the definition; for the tests of that method."""

from __future__ import annotations

from typing import Any

import numpy as np

from heedful.bandits import Payoffs
from heedful.bandits.lsd import generate


def made(family: Any, arms: int, window: int, seed: int) -> Payoffs:
    """An instance; ``free``: independent uniforms, in no order."""
    if family == "free":
        return Payoffs.of_table(np.random.default_rng(seed).random((arms, 2 * window)), "any")
    return generate(family, arms, window, np.random.default_rng(seed), recovery=min(3, window))


def step(tau: list[int], arm: int) -> list[int]:
    """The four transitions, as they are defined."""
    moved = []
    for i, state in enumerate(tau):
        if i == arm:
            moved.append(-1 if state > 0 else state - 1)
        else:
            moved.append(state + 1 if state > 0 else 1)
    return moved


def payoff(payoffs: Payoffs, arm: int, tau: int) -> float:
    reach = min(abs(tau), payoffs.window) - 1
    return float(payoffs.rested[arm, reach] if tau > 0 else payoffs.running[arm, reach])
