"""Regression oracles: models of ``f(x, a) = E[reward | x, a]``, fitted in one go to what was logged.

Fits are unweighted: methods on a regression oracle need no importance weights, which is their point. An action that
the data do not hold is predicted to bring the mean reward of those that they do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.checks import LARGEST, between, numbers_of, whole

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted oracle.

    Attributes:
        actions: K.
        features: d.
        rows: on how many it was fitted.
        base: their mean reward.
        seen: bool ``[K]``: which actions they hold.
        raw: float64 ``[n, d] -> [n, K]``, for actions that were seen.
    """

    actions: int
    features: int
    rows: int
    base: float
    seen: NDArray[np.bool_]
    raw: Callable[[Floats], Floats]

    def predict(self, contexts: ArrayLike) -> Floats:
        """float64 ``[n, K]``: predicted rewards, from float64 ``[n, d]``.

        Raises ValueError for contexts of another shape, not finite, or with numbers beyond 1e100.
        """
        array = check_contexts(contexts, self.features)
        return np.where(self.seen, self.raw(array), self.base)


@dataclass(frozen=True)
class Oracle:
    """A kind of model, with its parameters."""

    name: ClassVar[str]

    def fit(self, contexts: ArrayLike, actions: ArrayLike, rewards: ArrayLike, number: int) -> Model:
        """Fits a model to logged rows.

        Args:
            contexts: float64 ``[n, d]``, without an intercept; n of at least 1.
            actions: int64 ``[n]``: what was done, in 0..number-1.
            rewards: float64 ``[n]``: what it brought, in [0, 1].
            number: K.

        Raises ValueError for other shapes, contexts that are not finite or hold numbers beyond 1e100, unknown actions
        and rewards out of range.
        Warns if all rewards are the same: the model then predicts that one.
        """
        number = whole("number", number)
        x = check_contexts(contexts, None)
        a, y = np.asarray(actions), numbers_of("rewards", rewards)
        if not len(x):
            raise ValueError("contexts: there must be at least one row to fit to")
        if a.shape != (len(x),) or a.dtype.kind not in "iu" or a.min() < 0 or a.max() >= number:
            raise ValueError(f"actions: must be {len(x)} whole numbers in [0, {number - 1}]")
        if y.shape != (len(x),) or not ((y >= 0) & (y <= 1)).all():
            raise ValueError(f"rewards: must be {len(x)} numbers in [0, 1]")
        base, seen = float(y.mean()), np.bincount(a, minlength=number) > 0
        if y.min() == y.max():
            warnings.warn(f"all {len(y)} rewards are {y[0]:g}: the model predicts nothing else", stacklevel=2)
            return Model(number, x.shape[1], len(x), base, seen, lambda asked: np.full((len(asked), number), base))
        raw = self._fit(x, a.astype(np.int64), y, number, base)
        return Model(number, x.shape[1], len(x), base, seen, raw)

    def _fit(self, x: Floats, a: NDArray[np.int64], y: Floats, number: int, base: float) -> Callable[[Floats], Floats]:
        raise NotImplementedError


@dataclass(frozen=True)
class RidgeOracle(Oracle):
    """A ridge regression per action, of what its rewards have above or below the mean of all, intercept included.

    Attributes:
        ridge: above 0.
        width: of each prediction's standard error so many are added, at least 0. With
            :class:`~heedful.bandits.oracle_policies.Greedy` that is LinUCB in batches.
    """

    name: ClassVar[str] = "ridge"
    ridge: float = 1.0
    width: float = 0.0

    def __post_init__(self) -> None:
        between("ridge", self.ridge, 0.0, open_low=True)
        between("width", self.width, 0.0)

    def _fit(self, x: Floats, a: NDArray[np.int64], y: Floats, number: int, base: float) -> Callable[[Floats], Floats]:
        d = x.shape[1] + 1
        gram, moment = np.tile(self.ridge * np.eye(d), (number, 1, 1)), np.zeros((number, d))
        for k in np.unique(a):
            rows = _with_one(x[a == k])
            gram[k] += rows.T @ rows
            moment[k] = (y[a == k] - base) @ rows
        weights = np.linalg.solve(gram, moment[..., None])[..., 0]
        if not self.width:
            return lambda asked: base + _with_one(asked) @ weights.T
        roots = np.linalg.cholesky(np.linalg.inv(gram))

        def upper(asked: Floats) -> Floats:
            rows = _with_one(asked)
            errors = np.sqrt((np.einsum("nd,kde->kne", rows, roots) ** 2).sum(axis=2)).T
            return base + rows @ weights.T + self.width * errors

        return upper


@dataclass(frozen=True)
class LogisticOracle(Oracle):
    """A logistic regression on actions, features and their products.

    A reward between 0 and 1 counts as a success with that weight and a failure with the rest.

    Attributes:
        strength: the inverse of the penalty on everything but the intercept, above 0 (scikit-learn's ``C``).
    """

    name: ClassVar[str] = "logistic"
    strength: float = 1.0

    def __post_init__(self) -> None:
        between("strength", self.strength, 0.0, open_low=True)

    def _fit(self, x: Floats, a: NDArray[np.int64], y: Floats, number: int, base: float) -> Callable[[Floats], Floats]:
        from scipy.special import expit
        from sklearn.linear_model import LogisticRegression

        n, d = len(x), x.shape[1] + 1
        rows, labels, weights = _products(x, a, number), y, None
        if not _binary(y):
            from scipy.sparse import vstack

            rows, labels, weights = vstack([rows, rows]), np.repeat([1.0, 0.0], n), np.concatenate([y, 1.0 - y])
        fitted = LogisticRegression(C=self.strength, max_iter=300, tol=1e-4).fit(rows, labels, weights)
        intercept, coefficients = float(fitted.intercept_[0]), fitted.coef_.reshape(number, d)
        return lambda asked: expit(intercept + _with_one(asked) @ coefficients.T)


@dataclass(frozen=True)
class BoostingOracle(Oracle):
    """Gradient boosting of trees on histograms, with the action as a categorical feature; at most 255 actions.

    Attributes:
        rounds: trees, at least 1.
        rate: learning rate, above 0.
        leaves: of a tree at most, at least 2.
    """

    name: ClassVar[str] = "boosting"
    rounds: int = 100
    rate: float = 0.1
    leaves: int = 31

    def __post_init__(self) -> None:
        whole("rounds", self.rounds)
        between("rate", self.rate, 0.0, open_low=True)
        whole("leaves", self.leaves, least=2)

    def _fit(self, x: Floats, a: NDArray[np.int64], y: Floats, number: int, base: float) -> Callable[[Floats], Floats]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        if number > 255:
            raise ValueError(f"number={number}: boosting takes at most 255 actions")
        binary = _binary(y)
        kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
        trees = kind(
            max_iter=self.rounds, learning_rate=self.rate, max_leaf_nodes=self.leaves, early_stopping=False,
            categorical_features=[0], random_state=0,
        )  # fmt: skip
        trees.fit(np.column_stack([a, x]), y)

        def raw(asked: Floats) -> Floats:
            # Asking in blocks of rows keeps the table of all pairs small.
            found = np.empty((len(asked), number))
            for begin in range(0, len(asked), 4096):
                part = asked[begin : begin + 4096]
                pairs = np.column_stack([np.tile(np.arange(number), len(part)), np.repeat(part, number, axis=0)])
                values = trees.predict_proba(pairs)[:, 1] if binary else trees.predict(pairs)
                found[begin : begin + 4096] = values.reshape(len(part), number)
            return found

        return raw


@dataclass(frozen=True)
class MLPOracle(Oracle):
    """A small network of rectified linear units, in whose first layer every action has weights of its own.

    Features are standardised by the mean and the deviation of the rows that it is fitted to; one that is the same in
    all of them counts for nothing. Rewards of 0 and 1 are fitted by log loss; others by squared error, and predictions
    may then leave [0, 1].

    Attributes:
        width: units of a hidden layer, at least 1.
        layers: hidden ones, at least 1.
        strength: the inverse of the penalty on all weights but the intercepts, above 0, as in logistic regression.
        steps: of L-BFGS at most, at least 1.
        seed: of the first weights, in [0, 2^32 - 1].
    """

    name: ClassVar[str] = "mlp"
    width: int = 32
    layers: int = 1
    strength: float = 0.05
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "steps"):
            whole(name, getattr(self, name))
        between("strength", self.strength, 0.0, open_low=True)
        between("seed", whole("seed", self.seed, least=0), 0, 2**32 - 1)

    def _fit(self, x: Floats, a: NDArray[np.int64], y: Floats, number: int, base: float) -> Callable[[Floats], Floats]:
        from scipy.special import expit
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        centre, spread = x.mean(axis=0), x.std(axis=0)
        # Means of equal numbers are rounded, so that their spread need not be 0.
        spread[(x == x[0]).all(axis=0) | (spread == 0)] = np.inf
        binary = _binary(y)
        network = (MLPClassifier if binary else MLPRegressor)(
            hidden_layer_sizes=[self.width] * self.layers, solver="lbfgs", alpha=1 / self.strength,
            max_iter=self.steps, random_state=self.seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # with this penalty the last steps change little
            network.fit(_products((x - centre) / spread, a, number), y)
        first = network.coefs_[0].reshape(number, -1, self.width).swapaxes(0, 1).reshape(-1, number * self.width)
        shift = first[0] + np.tile(network.intercepts_[0], number)
        later = list(zip(network.coefs_[1:], network.intercepts_[1:]))

        def raw(asked: Floats) -> Floats:
            # Blocks of rows keep the units of all actions in the cache.
            found, size = np.empty((len(asked), number)), max(1, 2**17 // (number * self.width))
            for begin in range(0, len(asked), size):
                part = (asked[begin : begin + size] - centre) / spread
                units = (part @ first[1:] + shift).reshape(-1, self.width)
                for weights, intercepts in later:
                    units = np.maximum(units, 0.0) @ weights + intercepts
                found[begin : begin + size] = units.reshape(len(part), number)
            return expit(found) if binary else found

        return raw


ORACLES: dict[str, type[Oracle]] = {cls.name: cls for cls in (RidgeOracle, LogisticOracle, BoostingOracle, MLPOracle)}
"""By name."""


def check_contexts(contexts: ArrayLike, features: int | None) -> Floats:
    """Contexts as float64 ``[n, d]``.

    Raises ValueError for another shape, and for a row that is not finite or holds numbers beyond 1e100.
    """
    array = numbers_of("contexts", contexts)
    if array.ndim != 2 or (features is not None and array.shape[1] != features):
        raise ValueError(f"contexts: must have shape [n, {'d' if features is None else features}], has "
                         f"{list(array.shape)}")  # fmt: skip
    bad = ~(np.abs(array) <= LARGEST).all(axis=1)
    if bad.any():
        raise ValueError(f"contexts: must be finite, and at most {LARGEST:g}, are not in row {int(bad.argmax())}")
    return array


def _with_one(x: Floats) -> Floats:
    return np.column_stack([np.ones(len(x)), x])


def _products(x: Floats, a: NDArray[np.int64], number: int) -> Any:
    """A sparse ``[n, K (1 + d)]``: a one and the features, in the columns of the row's action."""
    from scipy.sparse import csr_array

    n, d = len(x), x.shape[1] + 1
    columns = (a[:, None] * d + np.arange(d)).astype(np.int32)
    starts = np.arange(0, n * d + 1, d, dtype=np.int32)
    return csr_array((_with_one(x).ravel(), columns.ravel(), starts), shape=(n, number * d))


def _binary(y: Floats) -> bool:
    return bool(np.isin(y, (0.0, 1.0)).all())
