"""Ridge regression one row at a time, which linear methods share: rank-one updates of the inverse, and its moments.

With ``A = ridge I + sum x x^T`` and ``b = sum r x``, the estimate is ``A^-1 b``, and by Sherman and Morrison
``A^-1 -= u u^T / (1 + x^T u)`` and ``estimate += u (r - x^T estimate) / (1 + x^T u)`` with ``u = A^-1 x``.

The inverse is symmetric and kept in :mod:`~heedful.bandits.blocks`: ``x^T A^-1 x`` is then one sum over numbers that
lie side by side, times the products of x with itself, which all models share. Vectors are padded with zeros to whole
blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.blocks import BLOCK, SIDE, add_outer, diagonal, dot4, multiply, padded


class Ridge(NamedTuple):
    """M models per lane: one per action, or a single one for all actions. Features are padded to D, a multiple of four.

    Attributes:
        inverse: float64 ``[lanes, M, D (D + 4) / 2]``: A^-1 in :mod:`~heedful.bandits.blocks`.
        estimate: float64 ``[lanes, M, D]``.
        words: uint64 ``[lanes, 4]``: random streams.
    """

    inverse: NDArray[np.float64]
    estimate: NDArray[np.float64]
    words: NDArray[np.uint64]


def no_rows(words: NDArray[np.uint64], models: int, features: int, ridge: float) -> Ridge:
    """Nothing seen yet."""
    inverse = np.tile(diagonal(features, 1.0 / ridge), (len(words), models, 1))
    return Ridge(inverse, np.zeros((len(words), models, padded(features))), words)


_inlined = numba.njit(cache=True, nogil=True, inline="always")
"""For sums so short that a call, and taking a slice of an array, cost as much; where it is inlined, the numbers may be
summed in another order (``kernels.REORDER``)."""


@_inlined
def dot(x, y):  # type: ignore[no-untyped-def]
    """``x^T y``."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@_inlined
def take(contexts, i, place, x):  # type: ignore[no-untyped-def]
    """Copies ``contexts[i, place]`` into the padded ``x``."""
    for j in range(contexts.shape[2]):
        x[j] = contexts[i, place, j]


@_inlined
def predicted(estimates, model, x):  # type: ignore[no-untyped-def]
    """``x^T estimate`` of a model; the ``estimates`` of all lie one after the other."""
    total, at = 0.0, model * len(x)
    for j in range(0, len(x), SIDE):
        total += dot4(estimates, at + j, x, j)
    return total


@numba.njit(cache=True, nogil=True)
def products(x, out):  # type: ignore[no-untyped-def]
    """Fills in what a matrix in blocks is multiplied with to give ``x^T A x``: ``2 x x^T``, in the same blocks."""
    at = 0
    out[:] = 0.0
    for row in range(0, len(x), SIDE):
        for column in range(0, row + 1, SIDE):
            add_outer(out, at, x, row, column, 2.0)
            at += BLOCK


@_inlined
def quadratic(inverses, model, pairs):  # type: ignore[no-untyped-def]
    """``x^T A^-1 x`` of the x whose products are ``pairs``, and of row ``model`` of ``inverses``; at least 0, or NaN
    where numbers were too large to be summed."""
    total = 0.0
    for p in range(len(pairs)):
        total += inverses[model, p] * pairs[p]
    return 0.0 if total < 0.0 else total


@numba.njit(cache=True, nogil=True)
def add_row(inverse, estimate, x, reward, u):  # type: ignore[no-untyped-def]
    """Takes one row into one model. ``x`` is padded; ``u``, float64 ``[D]``, is room to work in."""
    at, length, error = 0, 1.0, reward
    u[:] = 0.0
    for row in range(0, len(x), SIDE):
        for column in range(0, row + 1, SIDE):
            multiply(inverse, at, x, row, column, u)
            at += BLOCK
    for j in range(0, len(x), SIDE):
        length += dot4(x, j, u, j)
        error -= dot4(x, j, estimate, j)
    share = 1.0 / length
    for j in range(len(x)):
        estimate[j] += u[j] * (error * share)
    at = 0
    for row in range(0, len(x), SIDE):
        for column in range(0, row + 1, SIDE):
            add_outer(inverse, at, u, row, column, -share if column < row else -0.5 * share)
            at += BLOCK


@numba.njit(cache=True, nogil=True)
def add_rows(inverse, estimate, contexts, actions, rewards):  # type: ignore[no-untyped-def]
    """Takes one row per lane into the model of its action. ``contexts``: float64 ``[lanes, 1 or K, d]``."""
    x, u = np.zeros(estimate.shape[2]), np.empty(estimate.shape[2])
    for s in range(len(actions)):
        model = actions[s] if inverse.shape[1] > 1 else 0
        take(contexts, s, actions[s] if contexts.shape[1] > 1 else 0, x)
        add_row(inverse[s, model], estimate[s, model], x, rewards[s], u)
