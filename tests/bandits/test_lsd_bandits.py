"""Last-switch-dependent bandits: states, the relaxation, rounding and its guarantee, and planners."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsd_states import made, payoff, step

from heedful.bandits import LSDOptimistic, Payoffs
from heedful.bandits.experiments import _lsd_bandits
from heedful.bandits.lsd import generate
from heedful.bandits.lsd_planning import best_cycle, greedy, optimum, plan, round_robin
from heedful.bandits.lsd_relaxation import relax, relax_by_lp
from heedful.bandits.lsd_rounding import Schedule, arms_played, averages, rounded

SHARE = 1 - math.exp(-1)
instances = st.tuples(
    st.sampled_from(["rand", "step", "sticky", "flat", "free"]), st.integers(1, 6), st.integers(1, 6),
    st.integers(0, 10_000),
)  # fmt: skip


def simulated(payoffs: Payoffs, arms: np.ndarray) -> float:
    """What a sequence of arms earns per round, from rested arms on, by the definition."""
    tau, total = [payoffs.window] * payoffs.arms, 0.0
    for arm in arms:
        total += payoff(payoffs, arm, tau[arm]) if arm >= 0 else 0.0
        tau = step(tau, arm)
    return total / len(arms)


# payoffs and states


def test_schedules_earn_what_the_definition_of_states_says() -> None:
    for seed, family in enumerate(["rand", "step", "sticky", "trap", "flat"] * 3):
        payoffs = made(family, 4, 5, seed)
        rule = "real" if payoffs.shape == "monotone" else "whole-runs"
        schedules = rounded(relax(payoffs), payoffs, 3, np.random.default_rng(seed), rule)
        for schedule in (*schedules, greedy(4), best_cycle(payoffs), round_robin(payoffs)):
            arms = arms_played(schedule, payoffs, 200)
            assert simulated(payoffs, arms) == pytest.approx(averages([schedule], payoffs, 200)[0], abs=1e-12)


def test_a_run_ends_in_state_plus_one_and_begins_with_the_payoff_of_rest() -> None:
    payoffs = Payoffs([[0.5, 0.6, 0.7]], [[0.4, 0.3, 0.2]])
    # Rest two rounds, play four: p(2), p(-1), p(-2), p(-3).
    cycle = Schedule(np.array([2]), np.array([4]), np.array([0]), "virtual")
    assert averages([cycle], payoffs, 600, 60)[0] == pytest.approx((0.6 + 0.4 + 0.3 + 0.2) / 6)


def test_bad_payoffs_are_refused_naming_arm_and_state() -> None:
    good = np.array([[0.5, 0.6], [0.5, 0.6]])
    low = np.array([[0.4, 0.3], [0.4, 0.3]])
    with pytest.raises(ValueError, match="shape of rested"):
        Payoffs(good, low[:, :1])
    with pytest.raises(ValueError, match=r"arm 1 in state \+2 is nan"):
        Payoffs([[0.5, 0.6], [0.5, np.nan]], low)
    with pytest.raises(ValueError, match=r"arm 0 in state -2 is -0.3"):
        Payoffs(good, [[0.4, -0.3], [0.4, 0.3]])
    with pytest.raises(ValueError, match=r"arm 1 in state \+1 .* must not be lower"):
        Payoffs(good, [[0.4, 0.3], [0.7, 0.3]])
    Payoffs(good, [[0.4, 0.3], [0.7, 0.9]], "half-monotone")
    with pytest.raises(ValueError, match=r"arm 0 in state \+2 .* must not be lower"):
        Payoffs([[0.5, 0.4], [0.5, 0.6]], low, "half-monotone")
    Payoffs([[0.5, 0.4], [0.5, 0.6]], low, "any")
    with pytest.raises(ValueError, match=r"shape='odd': must be one of monotone, half-monotone, any"):
        Payoffs(good, low, "odd")  # type: ignore[arg-type]
    for bad_table in ([0.1, 0.2], [[0.1, 0.2, 0.3]], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match=r"table: must have shape \[k, 2 W\], has"):
            Payoffs.of_table(bad_table)
    with pytest.raises(ValueError, match=r"in \[0, 1\] to be learned"):
        LSDOptimistic().run(Payoffs(good * 3, low), [10], 0)
    for bad in (lambda: generate("odd", 2, 2, np.random.default_rng(0)),  # type: ignore[arg-type]
                lambda: generate("trap", 2, 2, np.random.default_rng(0), recovery=3),
                lambda: plan(made("rand", 2, 2, 0), np.random.default_rng(0), method="odd"),
                lambda: plan(made("rand", 2, 2, 0), np.random.default_rng(0), draws=0)):  # fmt: skip
        with pytest.raises(ValueError, match=r"family|recovery|method|draws=0: must be at least 1"):
            bad()


# the relaxation


@given(instances)
@settings(max_examples=60)
def test_envelopes_and_the_linear_programme_agree(instance: Any) -> None:
    payoffs = made(*instance)
    fast, plain = relax(payoffs), relax_by_lp(payoffs)
    assert fast.value == pytest.approx(plain.value, abs=1e-8)
    lengths, worth = fast.rests + fast.plays, fast.rates
    used = np.bincount(fast.arms, weights=worth * lengths, minlength=payoffs.arms)
    assert (used <= 1 + 1e-9).all() and (worth * fast.plays).sum() <= 1 + 1e-9
    mixing = np.bincount(fast.arms, minlength=payoffs.arms)
    assert len(fast.arms) <= payoffs.arms + 1 and mixing.max(initial=0) <= 2 and (mixing == 2).sum() <= 1
    assert fast.value <= payoffs.table.max() + 1e-12


def test_one_tiring_arm_by_hand() -> None:
    payoffs = Payoffs([[1, 1, 1]], [[0.5, 0.25, 0.125]])
    assert relax(payoffs).value == pytest.approx(0.5) and optimum(payoffs) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("family", ["rand", "step", "sticky", "free"])
@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (3, 2)])
def test_no_schedule_earns_more_than_the_bound(family: str, shape: tuple[int, int]) -> None:
    for seed in range(4):
        payoffs = made(family, *shape, seed)
        bound, best = relax(payoffs).value, optimum(payoffs)
        assert best <= bound + 1e-5
        for schedule in (greedy(shape[0]), best_cycle(payoffs), round_robin(payoffs)):
            assert averages([schedule], payoffs, 5000, 100)[0] <= best + 2e-3


def test_the_optimum_is_that_of_all_periodic_sequences() -> None:
    payoffs = made("rand", 2, 2, 5)
    best = max(
        simulated(payoffs, np.array(sequence * 40)) for n in (1, 2, 3, 4, 5, 6)
        for sequence in itertools.product((-1, 0, 1), repeat=n)
    )  # fmt: skip
    assert optimum(payoffs) == pytest.approx(best, abs=0.01)
    with pytest.raises(ValueError, match="too many"):
        optimum(made("rand", 9, 9, 0))


@given(instances, st.floats(0.1, 3.0))
@settings(max_examples=40)
def test_the_bound_grows_with_arms_and_payoffs_and_scales(instance: Any, factor: float) -> None:
    payoffs = made(*instance)
    value = relax(payoffs).value
    fewer = Payoffs(payoffs.rested[:-1], payoffs.running[:-1], payoffs.shape) if payoffs.arms > 1 else None
    assert fewer is None or relax(fewer).value <= value + 1e-12
    assert relax(Payoffs.of_table(payoffs.table * factor, payoffs.shape)).value == pytest.approx(value * factor)
    more = payoffs.table.copy()
    more[0, -1] += 0.1
    assert relax(Payoffs.of_table(more, payoffs.shape)).value >= value - 1e-12


def test_degenerate_instances() -> None:
    nothing = Payoffs(np.zeros((3, 2)), np.zeros((3, 2)))
    found = relax(nothing)
    assert found.value == 0.0 and len(found.arms) == 0
    assert plan(nothing, np.random.default_rng(0)).value == 0.0
    assert len(rounded(found, nothing, 4, np.random.default_rng(0))) == 4
    one = made("rand", 1, 1, 3)
    assert relax(one).value == pytest.approx(max(one.running[0, 0], one.rested[0, 0] / 2))
    twins = Payoffs(np.tile([[0.2, 0.9]], (3, 1)), np.tile([[0.1, 0.1]], (3, 1)))
    assert arms_played(greedy(3), twins, 6).tolist() == [0, 1, 2, 0, 1, 2]
    poor = Payoffs([[0.9, 0.9], [0.1, 0.1]], [[0.9, 0.9], [0.0, 0.0]])
    assert set(relax(poor).arms.tolist()) == {0} and relax(poor).value == pytest.approx(0.9)


def test_higher_dimension_matters_where_runs_pay() -> None:
    sticky = made("sticky", 4, 5, 1)
    assert relax(sticky, longest=1).value < 0.5 * relax(sticky).value


# rounding


def test_virtual_plays_come_at_the_rates_of_the_relaxation() -> None:
    payoffs, draws = made("rand", 4, 4, 2), 100_000
    found = relax(payoffs)
    rates = np.bincount(found.arms, weights=found.rates * found.plays, minlength=4)
    schedules = rounded(found, payoffs, draws, np.random.default_rng(1))
    for now in (0, 7):
        due = np.array(
            [(s.plays > 0) & ((now + s.offsets) % np.maximum(1, s.rests + s.plays) >= s.rests) for s in schedules]
        )
        assert (np.abs(due.mean(axis=0) - rates) <= 4 * np.sqrt(rates * (1 - rates) / draws) + 1e-12).all()


@pytest.mark.parametrize("rested", [0, 1])
def test_a_real_state_is_never_worse_than_the_virtual_one(rested: int) -> None:
    """From rested arms on; or, where all arms start in state +1, from each one's first real play on."""
    for seed in range(6):
        payoffs = made("rand", 5, 4, seed)
        for schedule in rounded(relax(payoffs), payoffs, 5, np.random.default_rng(seed)):
            real, virtual, counts = [rested or 4] * 5, [4] * 5, [rested == 0] * 5
            for now, arm in enumerate(arms_played(schedule, payoffs, 200, rested)):
                for i in range(5):
                    # Order of payoffs: runs below rest, longer runs lowest, longer rest highest; capped at W.
                    assert not counts[i] or max(-4, min(4, real[i])) >= max(-4, min(4, virtual[i]))
                real = step(real, arm)
                counts = [counts[i] or i == arm for i in range(5)]
                for i in range(5):
                    period = schedule.rests[i] + schedule.plays[i]
                    plays = schedule.plays[i] > 0 and (now + schedule.offsets[i]) % period >= schedule.rests[i]
                    virtual[i] = step([virtual[i]], 0 if plays else -1)[0]


@pytest.mark.parametrize("rule", ["virtual", "real"])
def test_rounding_keeps_its_guarantee_on_average(rule: Any) -> None:
    for seed, family in itertools.product(range(6), ["rand", "step", "trap", "flat"]):
        payoffs = made(family, 4, 4, seed)
        found = relax(payoffs)
        ratios = averages(rounded(found, payoffs, 400, np.random.default_rng(seed), rule), payoffs, 60, 8) / found.value
        assert ratios.mean() >= SHARE - 3 * ratios.std() / 20 - 1e-9


def test_whole_runs_keep_a_quarter_and_play_what_always_plays() -> None:
    for seed in range(8):
        payoffs = made("sticky", 4, 5, seed)
        found = relax(payoffs)
        ratios = averages(rounded(found, payoffs, 300, np.random.default_rng(seed), "whole-runs"), payoffs, 100, 10)
        assert (found.rests > 0).all()  # none always plays, and nothing is lost where its runs end
        assert ratios.mean() / found.value >= 0.25
    steady = Payoffs([[0.5, 0.5]], [[0.9, 0.9]], "half-monotone")
    assert relax(steady).value == pytest.approx(0.9)
    (schedule,) = rounded(relax(steady), steady, 1, np.random.default_rng(0), "whole-runs", scale=1.0)
    arms = arms_played(schedule, steady, 210)
    assert (arms[:20] == 0).all() and (arms == 0).mean() == pytest.approx(20 / 21)  # runs of 10 W, one round of rest


def test_the_experiment_asks_for_a_quarter_and_allows_for_the_ends_of_runs_only_where_an_arm_always_plays() -> None:
    sticky, steady = made("sticky", 4, 5, 0), Payoffs([[0.5, 0.5]], [[0.9, 0.9]], "half-monotone")
    assert _lsd_bandits.quarter(relax(sticky), 5) == 0.25
    assert _lsd_bandits.quarter(relax(steady), 2) == pytest.approx(0.25 - 3 / 20)


# planners


def test_the_practical_planner_is_never_below_its_members() -> None:
    for seed, family in itertools.product(range(4), ["rand", "step", "trap", "sticky", "flat", "free"]):
        payoffs = made(family, 4, 4, seed)
        found = plan(payoffs, np.random.default_rng(seed))
        for schedule in (greedy(4), best_cycle(payoffs)):
            assert found.value >= min(averages([schedule], payoffs, 800, 8)[0], found.bound) - 1e-12
        again = plan(payoffs, np.random.default_rng(seed))
        assert again.value == found.value and np.array_equal(again.schedule.offsets, found.schedule.offsets)


def test_what_a_plan_is_said_to_earn_is_what_it_earns_and_not_above_the_bound() -> None:
    for seed, (family, k, w) in itertools.product(
        range(6), [("rand", 1, 5), ("step", 1, 4), ("sticky", 1, 5), ("rand", 8, 8), ("sticky", 4, 4), ("free", 3, 3)]
    ):
        payoffs = made(family, k, w, seed)
        for method in ("practical", "lp-round"):
            found = plan(payoffs, np.random.default_rng(seed), method=method)
            assert found.value <= found.bound == relax(payoffs).value
            assert found.value == pytest.approx(averages([found.schedule], payoffs, 20_000, 2 * w)[0], rel=0.006)


def test_a_plan_for_payoffs_that_fall_again_after_long_rest_is_near_the_optimum() -> None:
    """Best after exactly two rounds of rest; greedy and a rest of the whole window both miss it."""
    ripe = Payoffs([[0.1, 0.9, 0.2, 0.1]] * 3, [[0.1] * 4] * 3, "any")
    found = plan(ripe, np.random.default_rng(0))
    assert found.value == pytest.approx(optimum(ripe), abs=1e-5) == pytest.approx(0.9, abs=1e-5)
    ratios = [
        plan(payoffs, np.random.default_rng(seed)).value / optimum(payoffs)
        for seed in range(10) for payoffs in [made("free", 3, 3, seed)]
    ]  # fmt: skip
    assert min(ratios) > 0.75 and np.mean(ratios) > 0.88


def test_greedy_has_no_floor() -> None:
    trap = generate("trap", 2, 10, np.random.default_rng(0), recovery=3)
    bound = relax(trap).value
    assert averages([greedy(2)], trap, 2000, 20)[0] < 0.25 * bound
    assert plan(trap, np.random.default_rng(0)).value > 0.95 * bound
