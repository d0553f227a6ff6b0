"""How layers share a pool of entries: by preference, under a cap, in whole numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.kv.layer_budgets import reference_budgets, shares, whole

preferences = st.lists(st.one_of(st.integers(0, 9), st.floats(1e-6, 1e3)), min_size=1, max_size=12).filter(any)


def budgets_of(preference: Sequence[float], pool: int, cap: int) -> list[int]:
    """Final budgets of one prompt."""
    exact = shares(torch.tensor([preference], dtype=torch.float64), torch.tensor([pool]), torch.tensor([cap]))
    found: list[int] = whole(exact, torch.tensor([min(pool, cap * len(preference))]))[0].tolist()
    return found


def poured(preference: Sequence[float], pool: int, cap: int) -> list[Fraction]:
    """Water-filling as the paper's rule says it, in exact arithmetic: cap, share the rest again, until it fits."""
    weight, full = [Fraction(p) for p in preference], set[int]()
    pool = min(pool, cap * len(weight))
    while True:
        rest = [i for i in range(len(weight)) if i not in full]
        left, total = pool - cap * len(full), sum(weight[i] for i in rest)
        share = {i: Fraction(left) * (weight[i] / total if total else Fraction(1, len(rest))) for i in rest}
        over = {i for i in rest if share[i] > cap}
        if not over:
            return [share.get(i, Fraction(cap)) for i in range(len(weight))]
        full |= over


@settings(max_examples=120)
@given(preferences, st.integers(0, 500), st.integers(0, 60))
def test_water_filling_adds_up_stays_under_the_cap_and_gives_larger_preferences_no_less(
    preference: list[float], pool: int, cap: int
) -> None:
    budgets = budgets_of(preference, pool, cap)
    assert sum(budgets) == min(pool, cap * len(preference))
    assert all(0 <= b <= cap for b in budgets)
    exact = poured(preference, pool, cap)
    assert all(abs(b - x) < 1 + 1e-6 for b, x in zip(budgets, exact))
    for (p, b), (q, c) in itertools.permutations(zip(preference, budgets), 2):
        assert b >= c or p <= q * (1 + 1e-9)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), st.integers(0, 14), st.integers(0, 6))
def test_water_filling_equals_brute_force(preference: list[int], pool: int, cap: int) -> None:
    """Of all whole budgets that add up: closest to the exact shares; of equally close, the lower layers get more."""
    exact, total = poured(preference, pool, cap), min(pool, cap * len(preference))
    legal = [b for b in itertools.product(range(cap + 1), repeat=len(preference)) if sum(b) == total]
    best = min(legal, key=lambda b: (sum((x - y) ** 2 for x, y in zip(exact, b)), [-y for y in b]))
    assert tuple(budgets_of(preference, pool, cap)) == best


@settings(max_examples=100)
@given(preferences, st.integers(0, 300), st.integers(1, 60), st.integers(-20, 20))
def test_scaling_all_preferences_changes_nothing(preference: list[float], pool: int, cap: int, power: int) -> None:
    assert budgets_of([p * 2.0**power for p in preference], pool, cap) == budgets_of(preference, pool, cap)


def test_scaling_by_any_constant_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        preference = torch.rand(8, generator=generator, dtype=torch.float64).exp()
        assert budgets_of((preference * 0.3721).tolist(), 333, 90) == budgets_of(preference.tolist(), 333, 90)


@settings(max_examples=100)
@given(preferences, st.integers(0, 300), st.integers(1, 60))
def test_a_larger_pool_gives_no_layer_a_smaller_share(preference: list[float], pool: int, cap: int) -> None:
    """Of the exact shares; whole numbers by largest remainder may lose one (the Alabama paradox)."""
    both = [
        shares(torch.tensor([preference], dtype=torch.float64), torch.tensor([t]), torch.tensor([cap]))
        for t in (pool, pool + 1)
    ]
    assert (both[1] >= both[0] - 1e-9).all()
    few, more = budgets_of(preference, pool, cap), budgets_of(preference, pool + 1, cap)
    assert all(b >= a - 1 for a, b in zip(few, more))


@given(st.integers(1, 12), st.integers(0, 300), st.integers(0, 40), st.floats(1e-3, 1e3))
def test_equal_preferences_differ_by_at_most_one(layers: int, pool: int, cap: int, p: float) -> None:
    budgets = budgets_of([p] * layers, pool, cap)
    assert max(budgets) - min(budgets) <= 1 and budgets == sorted(budgets, reverse=True)


def test_one_layer_gets_the_pool() -> None:
    assert budgets_of([3.7], 50, 80) == [50]
    assert budgets_of([3.7], 50, 30) == [30]


def test_a_batch_is_shared_out_item_by_item() -> None:
    generator = torch.Generator().manual_seed(3)
    preference = torch.rand(6, 5, generator=generator, dtype=torch.float64) ** 3
    preference[2] = 0
    pool, cap = torch.tensor([40, 7, 33, 99, 12, 60]), torch.tensor([9, 20, 14, 11, 30, 13])
    together = whole(shares(preference, pool, cap), torch.minimum(pool, 5 * cap))
    for i in range(6):
        assert together[i].tolist() == budgets_of(preference[i].tolist(), int(pool[i]), int(cap[i]))


def test_what_is_zero_or_not_finite_shares_equally_what_others_cannot_take() -> None:
    assert budgets_of([0, 0, 0], 10, 8) == [4, 3, 3]
    assert budgets_of([math.nan, math.inf, 0], 10, 8) == [4, 3, 3]
    assert budgets_of([0, 5, 0], 12, 8) == [2, 8, 2]
    assert budgets_of([1, math.nan, 1], 12, 8) == [6, 0, 6]


@settings(max_examples=120)
@given(preferences, st.integers(0, 500), st.integers(0, 60))
def test_budgets_only_shrink_from_layer_to_layer_and_end_below_every_ceiling(
    preference: list[float], pool: int, cap: int
) -> None:
    """What the cascade's exactness rests on, and its memory: no stage holds more than the pool and one per layer."""
    previous = [cap] * len(preference)
    for m in range(1, len(preference) + 1):
        exact = shares(torch.tensor([preference[:m]], dtype=torch.float64), torch.tensor([pool]), torch.tensor([cap]))
        ceilings = exact[0].ceil().long().tolist()
        assert all(now <= before for now, before in zip(ceilings, previous))
        assert sum(ceilings) <= pool + m
        previous[:m] = ceilings
    assert all(b <= c for b, c in zip(budgets_of(preference, pool, cap), previous))


def test_reference_rounding_is_not_monotone_and_may_fall_short() -> None:
    """Why its cascade may lose what its final budgets would keep."""
    generator = torch.Generator().manual_seed(0)
    grown = short = 0
    for cap in [40, 100] * 50:
        preference = torch.rand(1, 8, generator=generator, dtype=torch.float64) ** 3
        pool, caps = torch.tensor([240]), torch.tensor([cap])
        stages = [reference_budgets(preference[:, :m], pool, caps)[0] for m in range(1, 9)]
        grown += any((b[: len(a)] > a).any() for a, b in itertools.pairwise(stages))
        short += int(stages[-1].sum() < 240)
        assert all((b >= 0).all() and (b <= cap).all() and b.sum() <= 240 for b in stages)
    assert grown > 5
    assert short > 10


def test_reference_rounding_by_hand() -> None:
    """Truncated 1, 2, 7 for a pool of 11; capped at 5; 2 over, one each; one missing goes to the first below."""
    found = reference_budgets(torch.tensor([[1.0, 2.0, 6.0]]).double(), torch.tensor([11]), torch.tensor([5]))
    assert found.tolist() == [[3, 3, 5]]
