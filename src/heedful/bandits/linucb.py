"""LinUCB plays the action whose linear estimate, plus a width in the direction of the context, is largest.

Li, Chu, Langford, Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation", WWW 2010,
algorithm 1: ``x^T theta_k + alpha sqrt(x^T A_k^-1 x)``, with a ridge regression per action (disjoint). With ``shared``
there is one regression for all, and a context has a row per action (Chu, Li, Reyzin, Schapire, AISTATS 2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.checks import between, true_or_false
from heedful.bandits.kernels import REORDER, not_finite, refused
from heedful.bandits.ridge import Ridge, add_rows, no_rows, predicted, products, quadratic, take


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def _choose(inverse, estimate, contexts, feasible, alpha, step, actions):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad == 0:
        bad = not_finite(contexts)
    if bad:
        return bad
    models, inverses, estimates = inverse.shape[1], inverse.reshape(-1, inverse.shape[2]), estimate.reshape(-1)
    x, pairs = np.zeros(estimate.shape[2]), np.empty(inverse.shape[2])
    for i in range(len(actions)):
        row, first = feasible[i if len(feasible) > 1 else 0], i * step * models
        top = -np.inf
        for k in range(len(row)):
            if k == 0 or (row[k] and contexts.shape[1] > 1):
                take(contexts, i, k, x)
                products(x, pairs)
            if row[k]:
                model = first + k if models > 1 else first
                width = np.sqrt(quadratic(inverses, model, pairs))
                index = predicted(estimates, model, x) + alpha * width
                if index > top:
                    top, actions[i] = index, k
    return 0


@dataclass(frozen=True)
class LinUCB(ArmMethod):
    """Linear estimate plus confidence width.

    Attributes:
        alpha: factor of the width, at least 0.
        ridge: of the regressions, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    name: ClassVar[str] = "linucb"
    linear: ClassVar[bool] = True
    alpha: float = 1.0
    ridge: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        between("alpha", self.alpha, 0.0)
        between("ridge", self.ridge, 0.0, open_low=True)
        true_or_false("shared", self.shared)

    @property
    def per_action(self) -> bool:
        return self.shared

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Ridge:
        return no_rows(words, 1 if self.shared else actions, features, self.ridge)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        return _choose(state.inverse, state.estimate, contexts, feasible, float(self.alpha), step, actions), None

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_rows(state.inverse, state.estimate, contexts, actions, rewards)
