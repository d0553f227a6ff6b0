"""Matrices in blocks against the matrices themselves, and the ridge regression that is kept in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError

from heedful.bandits import blocks
from heedful.bandits.ridge import add_row, add_rows, no_rows, products
from heedful.bandits.streams import streams

Square = Callable[[np.ndarray], np.ndarray]
seeds, sizes = st.integers(0, 2**32), st.integers(1, 13)


def kept(matrix: np.ndarray) -> np.ndarray:
    """The 4 x 4 blocks of the lower triangle, column by column, those on the diagonal halved."""
    n = -(-len(matrix) // 4)
    wide = np.pad(matrix, (0, 4 * n - len(matrix)))
    found = [
        wide[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].T / (2 if i == j else 1) for i in range(n) for j in range(i + 1)
    ]
    return np.concatenate(found).ravel()


def spread(x: np.ndarray) -> np.ndarray:
    return np.pad(x, (0, -len(x) % 4))


@given(seed=seeds, d=sizes)
def test_blocks_stand_for_their_matrix(seed: int, d: int, square: Square) -> None:
    rng = np.random.default_rng(seed)
    rows, x = rng.normal(size=(d + 2, d)), rng.normal(size=d)
    matrix = rows.T @ rows
    inside, pairs = kept(matrix), np.full(len(kept(matrix)), np.nan)
    products(spread(x), pairs)
    assert inside @ pairs == pytest.approx(x @ matrix @ x, rel=1e-10)
    assert np.array_equal(blocks.square(inside, d), matrix)
    assert np.array_equal(square(inside)[:d, :d], matrix) and not square(inside)[d:].any()
    assert np.array_equal(blocks.diagonal(d, 0.3), kept(0.3 * np.eye(d)))


@njit
def first_fours(x: np.ndarray, y: np.ndarray) -> float:
    return blocks.dot4(x, 0, y, 0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("odd", [np.ones(8)[::2], np.ones(4, np.float32), np.ones(4, np.int64), np.ones((2, 4))])
def test_fours_are_read_from_nothing_but_contiguous_float64(odd: np.ndarray) -> None:
    assert first_fours(np.arange(4.0), np.ones(5)) == 6.0
    with pytest.raises(TypingError, match="must be a contiguous float64 array of one axis"):
        first_fours(odd, np.ones(4))


@given(seed=seeds, d=sizes)
def test_a_row_is_taken_in_as_solving_anew_would(seed: int, d: int, square: Square) -> None:
    rng = np.random.default_rng(seed)
    rows, x = rng.normal(size=(d + 2, d)), rng.normal(size=d)
    gram, total, reward = np.eye(d) + rows.T @ rows, rng.normal(size=d), rng.normal()
    inverse, estimate = kept(np.linalg.inv(gram)), spread(np.linalg.solve(gram, total))
    add_row(inverse, estimate, spread(x), reward, np.full(len(estimate), np.nan))
    gram += np.outer(x, x)
    assert square(inverse)[:d, :d] == pytest.approx(np.linalg.inv(gram), abs=1e-12)
    assert estimate[:d] == pytest.approx(np.linalg.solve(gram, total + reward * x), abs=1e-11)
    assert not estimate[d:].any() and not square(inverse)[d:].any()


def test_the_inverse_stays_within_1e8_of_a_fresh_one_after_10_000_updates(square: Square) -> None:
    rng, d = np.random.default_rng(0), 10
    rows, rewards = rng.normal(size=(10_000, d)), rng.normal(size=10_000)
    state = no_rows(streams([0]), 1, d, 1.0)
    for x, reward in zip(rows, rewards):
        add_rows(state.inverse, state.estimate, x[None, None], np.zeros(1, dtype=np.int64), np.array([reward]))
    gram = np.eye(d) + rows.T @ rows
    assert np.abs(square(state.inverse[0, 0])[:d, :d] @ gram - np.eye(d)).max() < 1e-8
    assert np.abs(state.estimate[0, 0, :d] - np.linalg.solve(gram, rows.T @ rewards)).max() < 1e-8
