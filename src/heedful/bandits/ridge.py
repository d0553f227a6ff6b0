"""Ridge regression one row at a time, which linear methods share: rank-one updates of the inverse, and its moments.

With ``A = ridge I + sum x x^T`` and ``b = sum r x``, the estimate is ``A^-1 b``, and by Sherman and Morrison
``A^-1 -= u u^T / (1 + x^T u)`` and ``estimate += u (r - x^T estimate) / (1 + x^T u)`` with ``u = A^-1 x``.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Ridge(NamedTuple):
    """M models per lane: one per action, or a single one for all actions.

    Attributes:
        inverse: float64 ``[lanes, M, d, d]``: A^-1.
        estimate: float64 ``[lanes, M, d]``.
        words: uint64 ``[lanes, 4]``: random streams.
    """

    inverse: NDArray[np.float64]
    estimate: NDArray[np.float64]
    words: NDArray[np.uint64]


def no_rows(words: NDArray[np.uint64], models: int, features: int, ridge: float) -> Ridge:
    """Nothing seen yet."""
    inverse = np.tile(np.eye(features) / ridge, (len(words), models, 1, 1))
    return Ridge(inverse, np.zeros((len(words), models, features)), words)


_REORDER = {"reassoc", "contract", "nsz"}
"""Sums may be taken in the order that suits vector instructions: fixed on one machine, and NaN stays NaN."""


@numba.njit(cache=True, nogil=True, fastmath=_REORDER)
def dot(x, y):  # type: ignore[no-untyped-def]
    """``x^T y``."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@numba.njit(cache=True, nogil=True, fastmath=_REORDER)
def quadratic(inverse, x):  # type: ignore[no-untyped-def]
    """``x^T inverse x``, at least 0, from the lower half of a symmetric matrix."""
    total = 0.0
    for i in range(len(x)):
        below = 0.0
        for j in range(i):
            below += inverse[i, j] * x[j]
        total += x[i] * (2.0 * below + inverse[i, i] * x[i])
    return max(0.0, total)


@numba.njit(cache=True, nogil=True)
def add_row(inverse, estimate, x, reward, u):  # type: ignore[no-untyped-def]
    """Takes one row into one model; ``u``, float64 ``[d]``, is room to work in."""
    for i in range(len(x)):
        u[i] = dot(inverse[i], x)
    share = 1.0 / (1.0 + dot(x, u))
    error = (reward - dot(x, estimate)) * share
    for i in range(len(x)):
        estimate[i] += u[i] * error
        factor = u[i] * share
        for j in range(len(x)):
            inverse[i, j] -= factor * u[j]


@numba.njit(cache=True, nogil=True)
def add_rows(inverse, estimate, contexts, actions, rewards):  # type: ignore[no-untyped-def]
    """Takes one row per lane into the model of its action. ``contexts``: float64 ``[lanes, 1 or K, d]``."""
    u = np.empty(estimate.shape[2])
    for s in range(len(actions)):
        model = actions[s] if inverse.shape[1] > 1 else 0
        x = contexts[s, actions[s] if contexts.shape[1] > 1 else 0]
        add_row(inverse[s, model], estimate[s, model], x, rewards[s], u)
