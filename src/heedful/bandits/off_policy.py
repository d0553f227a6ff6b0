"""What another policy would have brought, from a log whose probabilities are known.

With the logged action's weight ``w = pi(a | x) / p(a | x)``, over n logged rows:

==============  ======================================================================================
``ips``         ``mean(w r)``: unbiased where the log covers what the policy does
``snips``       ``sum(w r) / sum(w)``: of less variance, and unmoved by a constant added to rewards
``direct``      ``mean(sum_a pi(a) q(a))``: no weights; as good as the model q is
``dr``          ``mean(sum_a pi(a) q(a) + w (r - q(a)))``: unbiased if either the weights or q are right
==============  ======================================================================================

Dudík, Langford, Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011; Swaminathan, Joachims, "The
Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015. What a log cannot say is said by
:class:`Support`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from heedful.bandits.checks import between, numbers_of

Floats = NDArray[np.float64]
LEAST_PROPENSITY = 1e-30
"""Of a logged row; weights are squared and summed."""
LEAST_ESS, MOST_UNCOVERED = 100.0, 0.01
"""Below, or above, a log does not carry a policy."""


def _finite(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Numbers as float64 of that shape. Raises ValueError, naming them, for another shape and what is not finite."""
    array = numbers_of(name, values)
    if array.shape != shape:
        raise ValueError(f"{name}: must have shape {list(shape)}, has {list(array.shape)}")
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(f"{name}: must be finite, is {array[bad][0]:g} in row {int(np.argwhere(bad)[0, 0])}")
    return array


def _distributions(name: str, array: Floats) -> Floats:
    """The same, float64 ``[n, K]``. Raises ValueError, naming it, for rows that are no probabilities."""
    if not ((array >= 0).all() and np.allclose(array.sum(axis=1), 1.0, rtol=0, atol=1e-6)):
        raise ValueError(f"{name}: rows must be probabilities that sum to 1")
    return array


def _actions(values: ArrayLike, number: int) -> NDArray[np.int64]:
    """Numbers of actions as int64 ``[n]``. Raises ValueError for another shape, none, and what is no action."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"actions: must have shape [n], has {list(array.shape)}")
    if not len(array):
        raise ValueError("actions: a log needs at least one row")
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and (array != np.floor(array)).any()):
        raise ValueError(f"actions: must be whole numbers, are {array.dtype}")
    if not ((array >= 0) & (array < number)).all():
        raise ValueError(f"actions: must lie in [0, {number - 1}]")
    return array.astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False)
class Estimate:
    """The value of a policy, a ratio of two means over rows.

    Attributes:
        name: which estimator.
        numerators: float64 ``[n]``.
        denominators: float64 ``[n]``; all 1 but for ``snips``.

    Raises ValueError for numbers that are not finite, or not as many of both.
    """

    name: str
    numerators: Floats
    denominators: Floats

    def __post_init__(self) -> None:
        shape = (np.size(self.denominators),)
        for name in ("numerators", "denominators"):
            object.__setattr__(self, name, _finite(name, getattr(self, name), shape))

    @property
    def value(self) -> float:
        """The estimate; NaN if all weights are 0."""
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total else math.nan

    def interval(self, blocks: ArrayLike | None = None) -> tuple[float, float]:
        """The 95 % interval, Student's, of the estimate linearised.

        Args:
            blocks: ``[n]``, numbers or texts: rows of one block (a day, a user) stand or fall together; None: each on
                its own.

        Raises ValueError for blocks of another length, what is no label, and fewer than two of them.
        """
        n = len(self.numerators)
        residuals = (self.numerators - self.value * self.denominators) / self.denominators.mean()
        if blocks is not None:
            try:
                labels = np.asarray(blocks)
                _, which = np.unique(labels, return_inverse=True)
            except (TypeError, ValueError):  # of unequal length, or of kinds that cannot be told apart by order
                raise ValueError(f"blocks: must be {n} labels, all of them numbers or all of them texts") from None
            if labels.shape != (n,):
                raise ValueError(f"blocks: must be {n} labels, has shape {list(labels.shape)}")
            residuals = np.bincount(which, weights=residuals)
        count = len(residuals)
        if count < 2:
            raise ValueError(f"blocks: an interval needs at least two, there are {count}")
        half = special.stdtrit(count - 1, 0.975) * math.sqrt(count / (count - 1) * float((residuals**2).sum())) / n
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Support:
    """How far a log carries a policy.

    Attributes:
        ess: effective sample size, ``(sum w)^2 / sum w^2``: as many rows of the policy's own would say as much.
        max_weight: the largest w.
        mean_weight: the mean of w; far from 1 means that the policy, or the stated probabilities, do not fit the log.
        uncovered: the share of the policy's mass on actions that the log never takes there, in [0, 1].
    """

    ess: float
    max_weight: float
    mean_weight: float
    uncovered: float

    @classmethod
    def of(cls, weights: ArrayLike, uncovered: float = 0.0) -> Support:
        """What weights say.

        Args:
            weights: float64 ``[n]``, finite, at least 0; n of at least 1.
            uncovered: in [0, 1].

        Raises ValueError for another shape and numbers out of range.
        """
        w = numbers_of("weights", weights)
        w = _finite("weights", w, (w.size,))
        if not len(w) or (w < 0).any():
            raise ValueError("weights: must be at least one number, and all at least 0")
        between("uncovered", uncovered, 0.0, 1.0)
        most = float(w.max())
        shares = w / most if most else w  # whose squares are finite
        ess = float(shares.sum()) ** 2 / float((shares**2).sum()) if most else 0.0
        return cls(ess, most, most * float(shares.mean()), uncovered)

    @property
    def problems(self) -> tuple[str, ...]:
        """In words why the log does not carry the policy; empty if it does."""
        found = []
        if self.ess < LEAST_ESS:
            found.append(f"the effective sample size is {self.ess:.3g}, below {LEAST_ESS:g}")
        if self.uncovered > MOST_UNCOVERED:
            found.append(f"{100 * self.uncovered:.3g} % of what it does is never logged, more than 1 %")
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Logged:
    """A log with known probabilities.

    Attributes:
        actions: int64 ``[n]``: what was done, in 0..K-1.
        rewards: float64 ``[n]``: what it brought.
        propensities: float64 ``[n]``: with which probability it was done, in (0, 1], at least 1e-30.
        covered: bool ``[n, K]`` or ``[K]``: which actions could have been logged.

    Raises ValueError for other shapes, no rows, actions that are unknown or that ``covered`` says could not have been
    logged, rewards that are not finite and propensities out of range.
    """

    actions: NDArray[np.int64]
    rewards: Floats
    propensities: Floats
    covered: NDArray[np.bool_]

    def __post_init__(self) -> None:
        try:
            covered = np.asarray(self.covered)
        except ValueError:
            raise ValueError("covered: must be a mask, whose rows are equally long") from None
        if covered.ndim not in (1, 2) or covered.dtype != np.bool_:
            raise ValueError(
                f"covered: must be a mask of shape [K] or [n, K], is {covered.dtype} {list(covered.shape)}"
            )
        k = covered.shape[-1]
        actions = _actions(self.actions, k)
        n = len(actions)
        if covered.ndim == 2 and len(covered) != n:
            raise ValueError(f"covered: must have shape [{n}, K], has {list(covered.shape)}")
        rewards, propensities = (_finite(name, getattr(self, name), (n,)) for name in ("rewards", "propensities"))
        bad = ~((propensities >= LEAST_PROPENSITY) & (propensities <= 1))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"propensities: must lie in (0, 1], and not below {LEAST_PROPENSITY:g}, is {propensities[row]:g} in "
                f"row {row}"
            )
        lost = ~np.broadcast_to(covered, (n, k))[np.arange(n), actions]
        if lost.any():
            row = int(lost.argmax())
            raise ValueError(f"covered: action {actions[row]} was logged in row {row}, where it says that it cannot be")
        for name, array in (
            ("actions", actions), ("rewards", rewards), ("propensities", propensities), ("covered", covered),
        ):  # fmt: skip
            object.__setattr__(self, name, array)

    def weights(self, policy: ArrayLike, clip: float | None = None) -> Floats:
        """float64 ``[n]``: the policy's probability of what was done over the log's, at most ``clip``.

        Args:
            policy: float64 ``[n, K]``: rows sum to 1.
            clip: above 0; None: nothing is clipped. A clipped estimate is biased; say so beside it.

        Raises ValueError for another shape, for rows that are no probabilities, and for a clip that is not above 0.
        """
        return self._weights(self._policy(policy), clip)

    def _policy(self, policy: ArrayLike) -> Floats:
        return _distributions("policy", _finite("policy", policy, (len(self.actions), self.covered.shape[-1])))

    def _weights(self, policy: Floats, clip: float | None) -> Floats:
        w: Floats = policy[np.arange(len(policy)), self.actions] / self.propensities
        return w if clip is None else np.minimum(w, between("clip", clip, 0.0, open_low=True))

    def support(self, policy: ArrayLike) -> Support:
        """How far the log carries a policy. Raises ValueError as :meth:`weights`."""
        policy = self._policy(policy)
        uncovered = float(np.where(self.covered, 0.0, policy).sum(axis=1).mean())
        return Support.of(self._weights(policy, None), min(1.0, uncovered))  # rows may sum to a little more than 1

    def estimates(
        self, policy: ArrayLike, predicted: ArrayLike | None = None, clip: float | None = None
    ) -> dict[str, Estimate]:
        """Estimates by name; ``direct`` and ``dr`` only with predictions.

        Args:
            policy: float64 ``[n, K]``: the probabilities of the policy that is evaluated.
            predicted: float64 ``[n, K]``: predicted rewards, from a model that was fitted to other rows.
            clip: weights are at most that; None: not clipped.

        Raises ValueError as :meth:`weights`, and for predictions of another shape or that are not finite.
        """
        policy = self._policy(policy)
        w, ones, rows = self._weights(policy, clip), np.ones(len(self.actions)), np.arange(len(self.actions))
        found = [Estimate("ips", w * self.rewards, ones), Estimate("snips", w * self.rewards, w)]
        if predicted is not None:
            predicted = _finite("predicted", predicted, policy.shape)
            direct = (policy * predicted).sum(axis=1)
            error = self.rewards - predicted[rows, self.actions]
            found += [Estimate("direct", direct, ones), Estimate("dr", direct + w * error, ones)]
        return {estimate.name: estimate for estimate in found}


@dataclass(frozen=True, eq=False)
class Plays:
    """What a log says about each action.

    Attributes:
        expected: float64 ``[K]``: the sum of its probabilities.
        realised: int64 ``[K]``: how often it was done.
    """

    expected: Floats
    realised: NDArray[np.int64]


def plays(probabilities: ArrayLike, actions: ArrayLike) -> Plays:
    """Expected and realised plays of every action, from float64 ``[n, K]`` and int64 ``[n]``.

    Raises ValueError for other shapes, unknown actions and rows that are no probabilities.
    """
    given = numbers_of("probabilities", probabilities)
    if given.ndim != 2:
        raise ValueError(f"probabilities: must have shape [n, K], has {list(given.shape)}")
    array, done = _finite("probabilities", given, given.shape), _actions(actions, given.shape[1])
    _distributions("probabilities", array)
    if len(done) != len(array):
        raise ValueError(f"actions: must have shape [{len(array)}], has [{len(done)}]")
    return Plays(array.sum(axis=0), np.bincount(done, minlength=array.shape[1]))
