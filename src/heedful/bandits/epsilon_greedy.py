"""Epsilon-greedy plays the action with the largest mean reward, and with probability epsilon any feasible one.

Sutton, Barto, "Reinforcement Learning", section 2.2. With n feasible actions the greedy one has probability
``1 - epsilon + epsilon / n``, each other ``epsilon / n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between
from heedful.bandits.kernels import Means, add_plays, add_rewards, no_means, refused, untold
from heedful.bandits.streams import uniform


@numba.njit(cache=True, nogil=True)
def _choose(plays, told, means, words, feasible, epsilon, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        greedy, count = untold(plays[s], told[s], row), row.sum()
        if greedy < 0:
            for k in range(len(row)):
                if row[k] and (greedy < 0 or means[s, k] > means[s, greedy]):
                    greedy = k
        best, drawn = greedy, uniform(words, s)
        if drawn < epsilon:
            left = min(count - 1, int(drawn / epsilon * count))
            for k in range(len(row)):
                if row[k]:
                    if left == 0:
                        best = k
                        break
                    left -= 1
        plays[s, best] += 1
        actions[i] = best
        chances[i] = epsilon / count + (1.0 - epsilon if best == greedy else 0.0)
    return 0


@dataclass(frozen=True)
class EpsilonGreedy(ArmMethod):
    """Greedy, except now and then. An action of which no reward has come counts as the best.

    Attributes:
        epsilon: probability of a random action, in [0, 1]; with 0 it is a deterministic rule.
    """

    name: ClassVar[str] = "epsilon-greedy"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        between("epsilon", self.epsilon, 0.0, 1.0)

    @property
    def randomised(self) -> bool:
        return self.epsilon > 0

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Means:
        return no_means(words, actions)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        plays, told, means, words = state
        return _choose(plays, told, means, words, feasible, self.epsilon, step, actions, chances), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_rewards(state.told, state.means, actions, rewards)

    def learn_logged(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_plays(state.plays, actions)
        self.learn(state, contexts, actions, chances, rewards)
