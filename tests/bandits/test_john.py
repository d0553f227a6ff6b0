"""John's distribution, against its theorem and a plain search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits.john import TOLERANCE, johns


def design_of(rows: np.ndarray) -> np.ndarray:
    """John's distribution over rows that no two of are equal, float64 ``[n]``."""
    design = johns(rows[None].astype(np.int8))[0]
    assert design.sum() == pytest.approx(1.0, abs=1e-12) and (design >= 0).all()
    return design


def excess(rows: np.ndarray, design: np.ndarray) -> tuple[float, np.ndarray]:
    """By how much the equivalence theorem is missed, ``max_v v^T M^+ v / rank - 1``, and M."""
    moment = rows.T @ (design[:, None] * rows)
    worth = np.einsum("vi,ij,vj->v", rows, np.linalg.pinv(moment), rows)
    return float(worth.max() / np.linalg.matrix_rank(rows) - 1), moment


@settings(max_examples=80)
@given(seed=st.integers(0, 10_000), people=st.integers(1, 9), rules=st.integers(1, 60), mixed=st.booleans())
def test_johns_distribution_satisfies_the_equivalence_theorem(seed: int, people: int, rules: int, mixed: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2, (rules, people))
    if mixed:  # people who are always treated alike, and somebody whom nobody accepts: rows that do not span
        rows[:, people // 2 :] = rows[:, : people - people // 2]
        rows[:, -1] = 0
    rows[0] = rows[rng.integers(rules)]
    design = johns(rows[None].astype(np.int8))[0]
    first = [h for h in range(rules) if not (rows[:h] == rows[h]).all(axis=1).any()]
    assert design.sum() == pytest.approx(1.0, abs=1e-12) and (design >= 0).all()
    assert set(np.flatnonzero(design)) <= set(first)  # of equal rows the first rule has all the weight
    if rows.any():
        off, moment = excess(rows, design)
        assert off <= TOLERANCE + 1e-9 and not design[~rows.any(axis=1)].any()
        assert (np.diag(moment)[rows.any(axis=0)] > 0).all()  # whoever any rule accepts may be accepted
        if rows.all(axis=1).any():
            assert np.diag(moment).min() >= 1 / np.linalg.matrix_rank(rows) / (1 + TOLERANCE) - 1e-9


def plain_design(rows: np.ndarray, tolerance: float) -> np.ndarray:
    """Titterington's multiplicative updates, the plain reference."""
    rank, design = np.linalg.matrix_rank(rows), np.full(len(rows), 1 / len(rows))
    while True:
        inverse = np.linalg.pinv(rows.T @ (design[:, None] * rows))
        worth = np.einsum("vi,ij,vj->v", rows, inverse, rows) / rank
        if worth.max() <= 1 + tolerance:
            return design
        design *= worth


@pytest.mark.parametrize("seed", range(6))
def test_johns_distribution_reaches_the_determinant_of_the_plain_one(seed: int) -> None:
    rows = np.unique(np.random.default_rng(seed).integers(0, 2, (12, 4)), axis=0)
    rank = np.linalg.matrix_rank(rows)
    logs = []
    for design in (design_of(rows), plain_design(rows, TOLERANCE)):
        _, moment = excess(rows, design)
        logs.append(np.log(np.linalg.eigvalsh(moment)[-rank:]).sum())
    assert abs(logs[0] - logs[1]) <= rank * TOLERANCE  # each is that close to the largest


def test_johns_distribution_of_all_decisions_is_symmetric_in_people() -> None:
    for k in range(1, 6):
        rows = np.array(list(itertools.product((0, 1), repeat=k)))
        off, moment = excess(rows, design_of(rows))
        assert off <= TOLERANCE + 1e-9
        # M = a I + b 1 1^T by symmetry; of k people an odd number (k + 1) / 2 accepted, or k / 2 and k / 2 + 1 mixed
        share = (k + 1) / (2 * k) if k % 2 else (k + 2) / (2 * (k + 1))
        assert np.diag(moment) == pytest.approx(share, abs=0.01)
        beside = moment[~np.eye(k, dtype=bool)]
        assert beside == pytest.approx((k + 1) / (4 * k) if k % 2 else (k + 2) / (4 * (k + 1)), abs=0.01)


def test_johns_distribution_of_few_decisions() -> None:
    assert design_of(np.ones((1, 3))).tolist() == [1.0]
    assert design_of(np.array([[1, 1, 1], [0, 0, 0]])).tolist() == [1.0, 0.0]  # rejecting all shows nothing
    assert design_of(np.array([[0, 0, 0]])).tolist() == [1.0]
    assert johns(np.array([[[1, 1], [1, 1], [0, 0], [1, 1]]], dtype=np.int8)).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert design_of(np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1]])) == pytest.approx(1 / 3, abs=0.02)
    # independent rows: equal weights, whatever they are
    assert design_of(np.array([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]])) == pytest.approx(1 / 3, abs=1e-12)


def test_johns_distribution_keeps_its_tolerance_for_many_people_and_in_every_lane() -> None:
    rng = np.random.default_rng(20)
    sets = rng.uniform(size=(3, 300, 1)) < rng.uniform(size=(3, 300, 24))
    designs = johns(sets.astype(np.int8))
    for rows, design in zip(sets, designs):
        assert excess(rows.astype(float), design)[0] <= TOLERANCE + 1e-9
        assert np.array_equal(design, johns(rows[None].astype(np.int8))[0])
