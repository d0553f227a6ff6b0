"""Payments: which intervention to try so that a payment is authorised, and what it costs.

Two flavours. :class:`Payments` is a made world with standardised features, linear or not. :class:`FeePayments` takes
merchants, acquirers and fee rules from the data set ``dabstep-fees``: an action is an acquirer of the merchant and an
intervention; the acquirer decides the fee, the intervention whether the payment is authorised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from heedful.bandits.checks import between, whole

Floats = NDArray[np.float64]


class Requests(NamedTuple):
    """A batch of requests, with what only the world knows.

    Attributes:
        contexts: float64 ``[n, d]``.
        feasible: bool ``[n, K]``, at least one in each row.
        means: float64 ``[n, K]``: expected rewards.
        outcomes: float64 ``[n, K]``: what each action would bring, in [0, 1]; one is told.
    """

    contexts: Floats
    feasible: NDArray[np.bool_]
    means: Floats
    outcomes: Floats

    def regret(self, actions: NDArray[np.int64]) -> Floats:
        """float64 ``[n]``: what the best feasible action would have brought more, in expectation."""
        best = np.where(self.feasible, self.means, -np.inf).max(axis=1)
        return best - self.means[np.arange(len(actions)), actions]


class World(Protocol):
    """Where requests come from."""

    @property
    def actions(self) -> int:
        """K."""

    @property
    def features(self) -> int:
        """d."""

    def requests(self, n: int, rng: np.random.Generator) -> Requests:
        """The next n requests."""


@dataclass(frozen=True)
class Payments:
    """``P(authorised | x, a) = sigmoid(w_a x + b_a + x^T V_a x / 2)`` with standard normal x.

    ``w_a ~ N(0, I/4)``, ``b_a ~ N(1, 1/4)``, entries of ``V_a ~ N(0, 1/16)`` times ``nonlinearity``.

    Attributes:
        seed: of the world.
        nonlinearity: at least 0; 0 is a world that a logistic regression can represent.
        actions: interventions, K, at least 1.
        features: d, at least 1.
        feasible: probability with which an intervention is there, in (0, 1]; at least one always is.
        base_rate: authorised share under uniformly random interventions, in (0, 1), for which all ``b_a`` are shifted;
            None: as drawn.
    """

    seed: int = 0
    nonlinearity: float = 0.0
    actions: int = 8
    features: int = 8
    feasible: float = 0.6
    base_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("actions", "features"):
            whole(name, getattr(self, name))
        whole("seed", self.seed, least=0)
        between("nonlinearity", self.nonlinearity, 0.0)
        between("feasible", self.feasible, 0.0, 1.0, open_low=True)
        if self.base_rate is not None:
            between("base_rate", self.base_rate, 0.0, 1.0, open_low=True, open_high=True)

    @cached_property
    def _drawn(self) -> tuple[Floats, Floats, Floats]:
        """Weights [K, d], intercepts [K], curvatures [K, d, d]."""
        rng, k, d = np.random.default_rng([self.seed, 1]), self.actions, self.features
        weights, intercepts = rng.normal(0, 0.5, (k, d)), rng.normal(1, 0.5, k)
        curvatures = rng.normal(0, 0.25, (k, d, d)) * self.nonlinearity
        if self.base_rate is not None:
            x = rng.standard_normal((4000, d))
            logits = _logits(x, weights, intercepts, curvatures)
            low, high = -30.0 - logits.max(), 30.0 - logits.min()
            shift = optimize.brentq(lambda by: special.expit(logits + by).mean() - self.base_rate, low, high)
            intercepts = intercepts + shift
        return weights, intercepts, curvatures

    def means(self, contexts: Floats) -> Floats:
        """float64 ``[n, K]``: probabilities of authorisation, from float64 ``[n, d]``."""
        return special.expit(_logits(contexts, *self._drawn))

    def requests(self, n: int, rng: np.random.Generator) -> Requests:
        """The next n requests: interventions of one payment share their luck."""
        x = rng.standard_normal((n, self.features))
        mask = rng.random((n, self.actions)) < self.feasible
        mask[np.arange(n), rng.integers(0, self.actions, n)] = True
        means = self.means(x)
        return Requests(x, mask, means, (rng.random((n, 1)) < means).astype(np.float64))


def _logits(x: Floats, weights: Floats, intercepts: Floats, curvatures: Floats) -> Floats:
    bent = np.stack([((x @ matrix) * x).sum(axis=1) for matrix in curvatures], axis=1)
    return x @ weights.T + intercepts + 0.5 * bent


@dataclass(frozen=True)
class Digits:
    """Handwritten digits (scikit-learn's ``load_digits``): name the digit, be told whether it was right.

    A supervised data set turned into a bandit: 1797 images of 8 x 8 pixels in [0, 1], drawn with replacement, ten
    actions, all feasible.
    """

    @property
    def actions(self) -> int:
        """K."""
        return 10

    @property
    def features(self) -> int:
        """d."""
        return 64

    @cached_property
    def _images(self) -> tuple[Floats, NDArray[np.int64]]:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels / 16.0, labels

    def requests(self, n: int, rng: np.random.Generator) -> Requests:
        """The next n requests."""
        images, labels = self._images
        drawn = rng.integers(0, len(images), n)
        right = (labels[drawn, None] == np.arange(10)).astype(np.float64)
        return Requests(images[drawn], np.ones((n, 10), dtype=np.bool_), right, right)
