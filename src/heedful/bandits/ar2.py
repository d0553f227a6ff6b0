"""AR2 alternates between the better of its last two actions and the one that may have become better longest ago.

Chen, Golrezaei, Bouneffouf, "Dynamic Bandits with an Auto-Regressive Temporal Structure", arXiv 2210.16386: each
action's reward follows ``r(t + 1) = alpha r(t) + noise``, so that what was seen a rounds ago is worth ``alpha^a r``.
An action is triggered when that of the superior one exceeds its own by no more than
``24 c sigma sqrt((alpha^2 - alpha^(2(a + 1))) / (1 - alpha^2))``; odd rounds play the one triggered first. Every epoch
it forgets everything (restarting). ``c^2 = 4 log(1 / (alpha sigma)) + 4 log(epoch) + 2 log(4 K)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between, whole
from heedful.bandits.kernels import refused

NEVER = -1


class _Seen(NamedTuple):
    """``rewards``, float64 ``[lanes, K]``: the last ones; ``played``, ``triggered``, int64 ``[lanes, K]``: in which
    round of the epoch, -1 for never; ``clock``, int64 ``[lanes, 3]``: round of the epoch, last action, that before."""

    rewards: NDArray[np.float64]
    played: NDArray[np.int64]
    triggered: NDArray[np.int64]
    clock: NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _next(rewards, played, triggered, clock, feasible, alpha, width):  # type: ignore[no-untyped-def]
    """The action of one lane."""
    now = clock[0]
    for k in range(len(feasible)):
        if feasible[k] and played[k] == NEVER:
            return k
    superior, top = -1, -np.inf
    for k in range(len(feasible)):
        # The better of the last two; if neither may be played, the best.
        recent = k == clock[1] or k == clock[2]
        either = (clock[1] >= 0 and feasible[clock[1]]) or (clock[2] >= 0 and feasible[clock[2]])
        if feasible[k] and (recent or not either):
            worth = alpha ** (now - played[k]) * rewards[k]
            if worth > top:
                superior, top = k, worth
    first = -1
    for k in range(len(feasible)):
        age = now - played[k]
        if k != superior and triggered[k] == NEVER and played[k] != NEVER:
            fog = (alpha**2 - alpha ** (2 * (age + 1))) / (1.0 - alpha**2)
            if top - alpha**age * rewards[k] <= width * np.sqrt(max(0.0, fog)):
                triggered[k] = now
        waits = feasible[k] and k != superior and triggered[k] != NEVER
        if waits and (first < 0 or triggered[k] < triggered[first]):
            first = k
    if first >= 0 and now % 2 == 1:
        triggered[first] = NEVER
        return first
    return superior


@numba.njit(cache=True, nogil=True)
def _restart(played, triggered, clock, epoch):  # type: ignore[no-untyped-def]
    """Forgets everything about one lane if its epoch is over."""
    if clock[0] == epoch:
        clock[0] = 0
        played[:], triggered[:] = NEVER, NEVER


@numba.njit(cache=True, nogil=True)
def _play(k, played, clock):  # type: ignore[no-untyped-def]
    """Notes that one lane plays an action."""
    played[k] = clock[0]
    clock[0] += 1
    clock[2], clock[1] = clock[1], k


@numba.njit(cache=True, nogil=True)
def _play_logged(played, triggered, clock, epoch, actions):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        k = actions[s]
        _restart(played[s], triggered[s], clock[s], epoch)
        _play(k, played[s], clock[s])
        triggered[s, k] = NEVER  # what it was to be played for has been done


@numba.njit(cache=True, nogil=True)
def choose(rewards, played, triggered, clock, feasible, alpha, width, epoch, step, actions):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        _restart(played[s], triggered[s], clock[s], epoch)
        k = _next(rewards[s], played[s], triggered[s], clock[s], row, alpha, width)
        actions[i] = k
        if k >= 0:
            _play(k, played[s], clock[s])
    return 0


@numba.njit(cache=True, nogil=True)
def _learn(last, actions, rewards):  # type: ignore[no-untyped-def]
    for s in range(len(actions)):
        last[s, actions[s]] = rewards[s]


@cache
def _constants(alpha: float, noise: float, epoch: int | None, actions: int) -> tuple[float, float, int]:
    """As :meth:`AR2.constants`; worked out once, because it takes as long as half a round."""
    scale = alpha * noise
    rounds = math.ceil(actions / scale**3) if epoch is None else epoch
    c = math.sqrt(max(0.0, 4 * math.log(1 / scale) + 4 * math.log(rounds) + 2 * math.log(4 * actions)))
    return float(alpha), 24.0 * c * noise, min(rounds, 2**62)


@dataclass(frozen=True)
class AR2(ArmMethod):
    """Alternating and restarting, for rewards that follow an auto-regression each.

    A reward that comes late counts as that of the action's last play.

    Attributes:
        alpha: coefficient of the auto-regression, in (0, 1).
        noise: sigma, standard deviation of its noise, in (0, 1).
        epoch: rounds between restarts, at least 1; None: the paper's ``K / (alpha sigma)^3``.
    """

    name: ClassVar[str] = "ar2"
    alpha: float = 0.5
    noise: float = 0.001
    epoch: int | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "noise"):
            between(name, getattr(self, name), 0.0, 1.0, open_low=True, open_high=True)
        if self.epoch is not None:
            whole("epoch", self.epoch)

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> _Seen:
        never = np.full((len(words), actions), NEVER)
        clock = np.tile([0, NEVER, NEVER], (len(words), 1))
        return _Seen(np.zeros((len(words), actions)), never, never.copy(), clock)

    def constants(self, actions: int) -> tuple[float, float, int]:
        """alpha, ``24 c sigma``, and the rounds of an epoch, for K actions."""
        return _constants(self.alpha, self.noise, self.epoch, actions)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        rewards, played, triggered, clock = state
        alpha, width, epoch = self.constants(feasible.shape[1])
        return choose(rewards, played, triggered, clock, feasible, alpha, width, epoch, step, actions), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        _learn(state.rewards, actions, rewards)

    def learn_logged(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        epoch = self.constants(state.rewards.shape[1])[2]
        _play_logged(state.played, state.triggered, state.clock, epoch, actions)
        self.learn(state, contexts, actions, chances, rewards)
