"""Ridge regression one row at a time, which linear methods share: rank-one updates of the inverse, and its moments.

With ``A = ridge I + sum x x^T`` and ``b = sum r x``, the estimate is ``A^-1 b``, and by Sherman and Morrison
``A^-1 -= u u^T / (1 + x^T u)`` and ``estimate += u (r - x^T estimate) / (1 + x^T u)`` with ``u = A^-1 x``.

Of the inverse, which is symmetric, only the lower triangle is kept, row by row: ``x^T A^-1 x`` is then one sum over
``d (d + 1) / 2`` numbers that lie side by side, times the products of x with itself, which all models share.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Ridge(NamedTuple):
    """M models per lane: one per action, or a single one for all actions.

    Attributes:
        inverse: float64 ``[lanes, M, d (d + 1) / 2]``: the lower triangle of A^-1, row by row.
        estimate: float64 ``[lanes, M, d]``.
        words: uint64 ``[lanes, 4]``: random streams.
    """

    inverse: NDArray[np.float64]
    estimate: NDArray[np.float64]
    words: NDArray[np.uint64]


def diagonal(features: int, value: float) -> NDArray[np.float64]:
    """The lower triangle of ``value I``, float64 ``[d (d + 1) / 2]``."""
    triangle: NDArray[np.float64] = (value * np.eye(features))[np.tril_indices(features)]
    return triangle


def no_rows(words: NDArray[np.uint64], models: int, features: int, ridge: float) -> Ridge:
    """Nothing seen yet."""
    inverse = np.tile(diagonal(features, 1.0 / ridge), (len(words), models, 1))
    return Ridge(inverse, np.zeros((len(words), models, features)), words)


REORDER = {"reassoc", "contract", "nsz"}
"""Sums may be taken in the order that suits vector instructions: fixed on one machine, and NaN stays NaN. For the
functions that those below are inlined into."""

_inlined = numba.njit(cache=True, nogil=True, inline="always")
"""For sums so short that a call, and taking a slice of an array, cost as much."""


@_inlined
def dot(x, y):  # type: ignore[no-untyped-def]
    """``x^T y``."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@_inlined
def predicted(estimate, s, model, contexts, i, place):  # type: ignore[no-untyped-def]
    """``x^T estimate`` of ``contexts[i, place]`` and a model of lane s."""
    total = 0.0
    for j in range(contexts.shape[2]):
        total += contexts[i, place, j] * estimate[s, model, j]
    return total


@_inlined
def products(contexts, i, place, out):  # type: ignore[no-untyped-def]
    """What a triangle is multiplied with to give ``x^T A x``: ``2 x_a x_b`` for b < a, and ``x_a^2``, row by row."""
    at = 0
    for a in range(contexts.shape[2]):
        twice = 2.0 * contexts[i, place, a]
        for b in range(a):
            out[at + b] = twice * contexts[i, place, b]
        out[at + a] = contexts[i, place, a] * contexts[i, place, a]
        at += a + 1


@_inlined
def quadratic(inverse, s, model, pairs):  # type: ignore[no-untyped-def]
    """``x^T inverse x`` of the x whose products are ``pairs``, and a model of lane s; at least 0, or NaN where numbers
    were too large to be summed."""
    total = 0.0
    for p in range(len(pairs)):
        total += inverse[s, model, p] * pairs[p]
    return 0.0 if total < 0.0 else total


@numba.njit(cache=True, nogil=True, fastmath=REORDER)
def add_row(inverse, estimate, x, reward, u):  # type: ignore[no-untyped-def]
    """Takes one row into one model; ``u``, float64 ``[d]``, is room to work in."""
    at = 0
    for i in range(len(x)):
        left = 0.0
        for j in range(i):
            left += inverse[at + j] * x[j]
            u[j] += inverse[at + j] * x[i]
        u[i] = left + inverse[at + i] * x[i]
        at += i + 1
    share = 1.0 / (1.0 + dot(x, u))
    error = (reward - dot(x, estimate)) * share
    at = 0
    for i in range(len(x)):
        estimate[i] += u[i] * error
        factor = u[i] * share
        for j in range(i + 1):
            inverse[at + j] -= factor * u[j]
        at += i + 1


@numba.njit(cache=True, nogil=True)
def add_rows(inverse, estimate, contexts, actions, rewards):  # type: ignore[no-untyped-def]
    """Takes one row per lane into the model of its action. ``contexts``: float64 ``[lanes, 1 or K, d]``."""
    u = np.empty(estimate.shape[2])
    for s in range(len(actions)):
        model = actions[s] if inverse.shape[1] > 1 else 0
        x = contexts[s, actions[s] if contexts.shape[1] > 1 else 0]
        add_row(inverse[s, model], estimate[s, model], x, rewards[s], u)
