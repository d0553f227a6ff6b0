"""The probability that one of several independent draws is the largest: the propensity of Thompson sampling.

``P(k largest) = integral of f_k(x) product over j != k of F_j(x) dx``: Gauss-Legendre quadrature on panels whose edges
are every draw's own quantile-like points, so that each panel is smooth at the scale of each draw.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_ENDS = np.concatenate([0.5 ** np.arange(1, 48), 1.0 - 0.5 ** np.arange(2, 48)])
"""Panels that halve towards 0 and 1, where the density of a beta of broken shapes has no derivatives."""
_SPREADS = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0])

Family = Literal["normal", "beta"]


def chance_of_largest(
    family: Family, parameters: NDArray[np.float64], feasible: NDArray[np.bool_], actions: ArrayLike
) -> NDArray[np.float64]:
    """The probability that one draw is the largest, to about 1e-9.

    Args:
        family: of all draws: ``normal`` (means and standard deviations), ``beta`` (two shapes, each at least 1).
        parameters: float64 ``[2, n, K]``: of the draw of each action.
        feasible: bool ``[1 or n, K]``: which are drawn at all.
        actions: int64 ``[n]``, or a number if n is 1: the action that is asked about.

    Returns:
        float64 ``[n]``. Draws without spread that tie count for the lowest index.
    """
    actions = np.atleast_1d(actions)
    found = np.empty(len(actions))
    for row, action in enumerate(actions):
        arms = np.flatnonzero(feasible[row if len(feasible) > 1 else 0])
        own = int(np.searchsorted(arms, action))
        first, second = parameters[:, row, arms]
        found[row] = _largest(family, first, second, own)
    return found


def _largest(family: Family, first: NDArray[np.float64], second: NDArray[np.float64], own: int) -> float:
    others = np.arange(len(first)) != own
    if family == "normal" and second[own] == 0.0:
        distances = first[own] - first[others]
        certain = np.where((distances > 0) | ((distances == 0) & (np.flatnonzero(others) > own)), 1.0, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            chances = special.ndtr(distances / second[others])
        return float(np.where(second[others] > 0, chances, certain).prod())
    if family == "normal":
        mean, spread, low, high = first, second, -np.inf, np.inf
    else:
        total = first + second
        mean, low, high = first / total, 0.0, 1.0
        spread = np.sqrt(mean * (1 - mean) / (total + 1))
    reach = _SPREADS[-1] * spread[own]
    low, high = max(low, mean[own] - reach), min(high, mean[own] + reach)
    ends = np.array([low, high])
    if family == "beta":  # its tails are not a normal's
        low, high, ends = 0.0, 1.0, np.concatenate([[0.0, 1.0], _ENDS])
    edges = np.unique(np.clip((mean + np.concatenate([-_SPREADS, _SPREADS])[:, None] * spread).ravel(), low, high))
    edges = np.unique(np.concatenate([edges, ends]))
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + _NODES)).ravel()
    weights = (half * _WEIGHTS).ravel()
    if family == "normal":
        density = np.exp(-0.5 * ((x - mean[own]) / spread[own]) ** 2) / (spread[own] * np.sqrt(2 * np.pi))
        gaps = x[:, None] - first[others]
        with np.errstate(divide="ignore", invalid="ignore"):
            below = np.where(second[others] > 0, special.ndtr(gaps / second[others]), gaps > 0)
    else:
        a, b = first[own], second[own]
        density = np.exp(special.xlogy(a - 1, x) + special.xlog1py(b - 1, -x) - special.betaln(a, b))
        below = special.betainc(first[others], second[others], x[:, None])
    return float(min(1.0, (weights * density * below.prod(axis=1)).sum()))
