"""UCB1 plays the action whose mean reward, plus a width that shrinks with its plays, is largest.

Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine Learning 47, 2002, fig. 1:
``mean_k + sqrt(2 ln t / n_k)``, t the plays so far, n_k those of action k; each action is played once first. Regret
O(sum of log T / gap) for rewards in [0, 1].
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


@numba.njit(cache=True, nogil=True)
def choose(plays, told, means, feasible, scale, step, actions):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad:
        return bad
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        best = untold(plays[s], told[s], row)
        if best < 0:
            top, log = -np.inf, 2.0 * np.log(plays[s].sum())
            for k in range(len(row)):
                if row[k]:
                    index = means[s, k] + scale * np.sqrt(log / told[s, k])
                    if index > top:
                        best, top = k, index
        actions[i] = best
        if best >= 0:
            plays[s, best] += 1
    return 0


@dataclass(frozen=True)
class UCB1(ArmMethod):
    """Mean plus confidence width.

    Attributes:
        scale: of the width, at least 0; 1 is the paper's, for rewards in [0, 1]. Rewards of another range R: R.
    """

    name: ClassVar[str] = "ucb1"
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("scale", self.scale, 0.0)

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Means:
        return no_means(words, actions)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        return choose(state.plays, state.told, state.means, feasible, self.scale, step, actions), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_rewards(state.told, state.means, actions, rewards)

    def learn_logged(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_plays(state.plays, actions)
        self.learn(state, contexts, actions, chances, rewards)
