"""LinTS draws regression weights from their posterior and plays the action that is best under them.

Agrawal, Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", ICML 2013, algorithm 1:
``theta ~ Normal(estimate, scale^2 A^-1)``, play ``argmax x_k^T theta``. With a regression per action (the default) the
scores ``x^T theta_k`` are independent normals and are drawn as such, which is the same thing and gives the probability
of the choice; with ``shared`` one theta is drawn for all, the scores depend on each other, and it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.arms import ArmMethod
from heedful.bandits.blocks import square
from heedful.bandits.checks import between, true_or_false
from heedful.bandits.kernels import REORDER, not_finite, refused
from heedful.bandits.posteriors import Family
from heedful.bandits.ridge import Ridge, add_rows, dot, no_rows, predicted, products, quadratic, take
from heedful.bandits.streams import normal


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def _choose(inverse, estimate, words, contexts, feasible, scale, step, actions, parameters):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad == 0:
        bad = not_finite(contexts)
    if bad:
        return bad
    models, inverses, estimates = inverse.shape[1], inverse.reshape(-1, inverse.shape[2]), estimate.reshape(-1)
    x, pairs = np.zeros(estimate.shape[2]), np.empty(inverse.shape[2])
    mean, spread = parameters[0], parameters[1]
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        top = -np.inf
        take(contexts, i, 0, x)
        products(x, pairs)
        for k in range(len(row)):
            mean[i, k] = predicted(estimates, s * models + k, x)
            spread[i, k] = scale * np.sqrt(quadratic(inverses, s * models + k, pairs))
            if row[k]:
                draw = mean[i, k] + spread[i, k] * normal(words, s)
                if draw > top:
                    top, actions[i] = draw, k
    return 0


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def _choose_shared(inverse, estimate, words, contexts, feasible, scale, step, actions, chances):  # type: ignore[no-untyped-def]
    bad = refused(feasible)
    if bad == 0:
        bad = not_finite(contexts)
    if bad:
        return bad
    d = contexts.shape[2]
    z = np.empty(d)
    root = np.linalg.cholesky(square(inverse[0, 0], d))
    for i in range(len(actions)):
        s, row = i * step, feasible[i if len(feasible) > 1 else 0]
        if i > 0 and step > 0:
            root = np.linalg.cholesky(square(inverse[s, 0], d))
        for j in range(d):
            z[j] = normal(words, s)
        theta = estimate[s, 0, :d].copy()
        for a in range(d):
            for b in range(a + 1):
                theta[a] += scale * root[a, b] * z[b]
        top = -np.inf
        for k in range(len(row)):
            if row[k]:
                score = dot(contexts[i, k], theta)
                if score > top:
                    top, actions[i] = score, k
        chances[i] = np.nan
    return 0


@dataclass(frozen=True)
class LinTS(ArmMethod):
    """Thompson sampling with linear payoffs.

    Attributes:
        scale: of the posterior's standard deviation, above 0 (the paper's v; its value for the proof is far wider).
        ridge: of the regressions, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    name: ClassVar[str] = "lints"
    family: ClassVar[Family] = "normal"
    linear: ClassVar[bool] = True
    scale: float = 1.0
    ridge: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        between("scale", self.scale, 0.0, open_low=True)
        between("ridge", self.ridge, 0.0, open_low=True)
        true_or_false("shared", self.shared)

    @property
    def randomised(self) -> bool:
        return True

    @property
    def per_action(self) -> bool:
        return self.shared

    def begin(self, words: NDArray[np.uint64], actions: int, features: int) -> Ridge:
        return no_rows(words, 1 if self.shared else actions, features, self.ridge)

    def choose(self, state: Any, contexts: Any, feasible: Any, step: int, actions: Any, chances: Any) -> Any:
        (inverse, estimate, words), scale = state, float(self.scale)
        if self.shared:
            return _choose_shared(inverse, estimate, words, contexts, feasible, scale, step, actions, chances), None
        parameters = np.empty((2, len(actions), feasible.shape[1]))
        code = _choose(inverse, estimate, words, contexts, feasible, scale, step, actions, parameters)
        return code, parameters

    def learn(self, state: Any, contexts: Any, actions: Any, chances: Any, rewards: Any) -> None:
        add_rows(state.inverse, state.estimate, contexts, actions, rewards)
