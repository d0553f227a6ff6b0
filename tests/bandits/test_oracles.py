"""Regression oracles: what they learn, and what they predict where there was nothing to learn from."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from heedful.bandits import (
    BoostingOracle,
    LogisticOracle,
    MLPOracle,
    Payments,
    RidgeOracle,
)

ORACLES = [RidgeOracle(), LogisticOracle(), BoostingOracle(rounds=20), MLPOracle()]


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_oracles_learn_a_difference_and_predict_the_mean_for_unseen_actions(oracle: Any) -> None:
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(3000, 2)), rng.integers(0, 2, 3000)
    truth = np.where((a == 0) == (x[:, 0] > 0), 0.8, 0.2)
    y = (rng.random(3000) < truth).astype(float)
    model = oracle.fit(x, a, y, 3)
    asked = np.array([[1.5, 0.0], [-1.5, 0.0]])
    predicted = model.predict(asked)
    assert predicted.shape == (2, 3) and (predicted[:, 2] == y.mean()).all()
    assert predicted[0, 0] > 0.65 > 0.35 > predicted[0, 1] and predicted[1, 1] > 0.65 > 0.35 > predicted[1, 0]
    fractions = oracle.fit(x, a, 0.5 * truth, 2).predict(asked)
    assert fractions[0, 0] == pytest.approx(0.4, abs=0.1) and fractions[0, 1] == pytest.approx(0.1, abs=0.1)


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
def test_one_class_falls_back_to_the_base_rate_and_warns(oracle: Any) -> None:
    with pytest.warns(UserWarning, match="all 30 rewards are 1"):
        model = oracle.fit(np.zeros((30, 1)), np.zeros(30, dtype=int), np.ones(30), 4)
    assert (model.predict([[0.0], [5.0]]) == 1.0).all()


def test_ridge_equals_a_plain_one_and_its_width_is_that_of_linucb() -> None:
    rng = np.random.default_rng(1)
    x, a, y = rng.normal(size=(60, 2)), rng.integers(0, 2, 60), rng.random(60)
    asked = rng.normal(size=(5, 2))
    got, wide = (RidgeOracle(0.7, width).fit(x, a, y, 2).predict(asked) for width in (0.0, 2.0))
    for k in range(2):
        rows, one = np.column_stack([np.ones((a == k).sum()), x[a == k]]), np.column_stack([np.ones(5), asked])
        gram = 0.7 * np.eye(3) + rows.T @ rows
        plain = y.mean() + one @ np.linalg.solve(gram, rows.T @ (y[a == k] - y.mean()))
        assert got[:, k] == pytest.approx(plain, abs=1e-10)
        error = np.sqrt(np.einsum("nd,de,ne->n", one, np.linalg.inv(gram), one))
        assert wide[:, k] == pytest.approx(plain + 2 * error, abs=1e-10)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_equals_one_on_explicit_rows(layers: int, binary: bool) -> None:
    rng, k, width = np.random.default_rng(2), 3, 8
    x, a, y = rng.normal([0, 5], [1, 20], (400, 2)), rng.integers(0, k - 1, 400), rng.random(400)
    y = y.round() if binary else y
    x = np.column_stack([x, np.full(400, 0.1)])  # does not vary, and counts for nothing
    centre, spread = x.mean(axis=0), np.array([*x[:, :2].std(axis=0), np.inf])

    def row(context: np.ndarray, action: int) -> np.ndarray:
        return np.kron(np.eye(k)[action], [1.0, *((context - centre) / spread)])

    kind = MLPClassifier if binary else MLPRegressor
    plain = kind(hidden_layer_sizes=[width] * layers, solver="lbfgs", alpha=2.0, max_iter=10, random_state=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain.fit(np.array([row(*pair) for pair in zip(x, a)]), y)
    model = MLPOracle(width, layers, strength=0.5, steps=10, seed=3).fit(x, a, y, k)
    asked = rng.normal([0, 5, 0], [1, 20, 1], (6000, 3))  # more than one block
    predicted = model.predict(asked)
    for i in (0, 1, 5000, 5999):
        for action in range(k - 1):
            units = row(asked[i], action)
            for weights, intercepts in zip(plain.coefs_[:-1], plain.intercepts_[:-1]):
                units = np.maximum(units @ weights + intercepts, 0.0)
            found = float(units @ plain.coefs_[-1][:, 0] + plain.intercepts_[-1][0])
            expected = 1 / (1 + math.exp(-found)) if binary else found
            assert predicted[i, action] == pytest.approx(expected, abs=1e-6)
        assert predicted[i, k - 1] == y.mean()


def test_a_network_depends_on_its_seed_alone_and_not_on_units() -> None:
    made = Payments(seed=2, nonlinearity=1.0)
    asked = made.requests(1000, np.random.default_rng(0))
    a = np.random.default_rng(1).integers(0, 8, 1000)
    y = asked.outcomes[np.arange(1000), a]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again, other = (MLPOracle(seed=seed).fit(asked.contexts, a, y, 8) for seed in (0, 0, 1))
    found = first.predict(asked.contexts)
    assert np.array_equal(found, again.predict(asked.contexts))
    assert np.abs(found - other.predict(asked.contexts)).max() > 1e-3
    scaled = MLPOracle(steps=10).fit(1024.0 * asked.contexts, a, y, 8).predict(1024.0 * asked.contexts)
    assert np.abs(scaled - MLPOracle(steps=10).fit(asked.contexts, a, y, 8).predict(asked.contexts)).max() < 1e-6


@pytest.mark.parametrize("seed", [200, 201])
def test_a_network_learns_a_bent_world_better_than_logistic_regression(seed: int) -> None:
    made, errors = Payments(seed=seed, nonlinearity=1.0), {}
    rng = np.random.default_rng([seed, 1])
    logged, asked = made.requests(6000, rng), made.requests(2000, rng)
    a = rng.integers(0, 8, 6000)
    for oracle in (LogisticOracle(), MLPOracle()):
        model = oracle.fit(logged.contexts, a, logged.outcomes[np.arange(6000), a], 8)
        errors[oracle.name] = ((model.predict(asked.contexts) - asked.means) ** 2).mean()
    assert errors["mlp"] < 0.6 * errors["logistic"]


def test_data_that_cannot_be_fitted_are_refused() -> None:
    x, a, y = np.zeros((3, 2)), np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0])
    for args, message in (
        ((np.where(np.eye(3, 2) > 0, np.nan, 0.0), a, y, 2), "contexts: must be finite, .* are not in row 0"),
        ((np.where(np.arange(6).reshape(3, 2) == 5, -1e200, 0.0), a, y, 2), r"at most 1e\+100, are not in row 2"),
        ((x[:0], a[:0], y[:0], 2), "at least one row"),
        ((x, a, y, 1), r"actions: must be 3 whole numbers in \[0, 0\]"),
        ((x, a, y + 0.5, 2), r"rewards: must be 3 numbers in \[0, 1\]"),
        ((x, a, np.array([0.0, np.nan, 1.0]), 2), "rewards"),
        ((x[0], a, y, 2), "contexts: must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            RidgeOracle().fit(*args)
    with pytest.raises(ValueError, match="at most 255"):
        BoostingOracle().fit(x, a, y, 300)
    with pytest.raises(ValueError, match=r"contexts: must have shape \[n, 2\]"):
        RidgeOracle().fit(x, a, y, 2).predict(np.zeros((1, 3)))
    for oracle in ORACLES:
        rng = np.random.default_rng(0)
        x, a, y = rng.normal(size=(60, 2)), rng.integers(0, 2, 60), rng.random(60)
        model = oracle.fit(x, a, y, 2)
        with pytest.raises(ValueError, match="contexts: must be finite, and at most"):
            model.predict([[0.0, 1e200]])
        assert np.isfinite(model.predict([[1e100, -1e100]])).all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert np.isfinite(oracle.fit(1e99 * x, a, y, 2).predict([[1e100, -1e100]])).all()
