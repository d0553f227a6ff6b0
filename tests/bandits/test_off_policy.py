"""Off-policy estimators against their definitions, and what a log cannot carry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.bandits import Logged, Support
from heedful.bandits.exploring import draw
from heedful.bandits.generations import calibration_error, oscillation, turning
from heedful.bandits.lending import Pool
from heedful.bandits.off_policy import Estimate, plays
from heedful.bandits.populations import Scored, ScoreTable


def world(seed: int, n: int = 400, k: int = 4) -> dict[str, Any]:
    """True means, a logging and another policy, and a log."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, k))
    logging, other = rng.dirichlet(np.ones(k), n) * 0.8 + 0.05, rng.dirichlet(np.ones(k), n)
    actions = draw(logging, rng)
    rewards = (rng.random(n) < truth[np.arange(n), actions]).astype(float)
    log = Logged(actions, rewards, logging[np.arange(n), actions], np.ones((n, k), dtype=bool))
    return {"truth": truth, "logging": logging, "other": other, "log": log}


@given(seed=st.integers(0, 10**6))
def test_estimators_equal_their_definitions(seed: int) -> None:
    made = world(seed, 30)
    log, pi, q = made["log"], made["other"], made["truth"]
    w = [pi[i, a] / p for i, (a, p) in enumerate(zip(log.actions, log.propensities))]
    r = log.rewards
    got = {name: e.value for name, e in log.estimates(pi, q).items()}
    assert got["ips"] == pytest.approx(np.mean([w[i] * r[i] for i in range(30)]))
    assert got["snips"] == pytest.approx(sum(w[i] * r[i] for i in range(30)) / sum(w))
    direct = [sum(pi[i] * q[i]) for i in range(30)]
    assert got["direct"] == pytest.approx(np.mean(direct))
    dr = [direct[i] + w[i] * (r[i] - q[i, log.actions[i]]) for i in range(30)]
    assert got["dr"] == pytest.approx(np.mean(dr))
    support = log.support(pi)
    assert support.ess == pytest.approx(sum(w) ** 2 / sum(x * x for x in w))
    assert support.max_weight == pytest.approx(max(w)) and support.mean_weight == pytest.approx(np.mean(w))


def test_ips_of_the_logging_policy_is_the_mean_logged_reward() -> None:
    made = world(1)
    log = made["log"]
    found = log.estimates(made["logging"])
    assert found["ips"].value == log.rewards.mean() and found["snips"].value == log.rewards.mean()
    assert set(found) == {"ips", "snips"}
    assert log.support(made["logging"]).ess == pytest.approx(len(log.actions))


def test_doubly_robust_with_the_truth_has_no_more_variance_than_ips() -> None:
    values = {"ips": [], "dr": []}
    for seed in range(200):
        rng = np.random.default_rng([seed, 1])
        made = world(0)
        logging, truth = made["logging"], made["truth"]
        actions = draw(logging, rng)
        rows = np.arange(len(actions))
        rewards = (rng.random(len(actions)) < truth[rows, actions]).astype(float)
        log = Logged(actions, rewards, logging[rows, actions], np.ones(4, dtype=bool))
        for name, found in log.estimates(made["other"], truth).items():
            if name in values:
                values[name].append(found.value)
    exact = (made["other"] * made["truth"]).sum(axis=1).mean()
    assert np.var(values["dr"]) < 0.8 * np.var(values["ips"])
    for found in values.values():
        assert abs(np.mean(found) - exact) < 4 * np.std(found) / math.sqrt(200)


def test_intervals_cover_the_truth_nineteen_times_in_twenty() -> None:
    covered = {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(300):
        made = world(seed)
        exact = (made["other"] * made["truth"]).sum(axis=1).mean()
        for name, found in made["log"].estimates(made["other"], np.full_like(made["truth"], 0.5)).items():
            if name in covered:
                low, high = found.interval()
                covered[name] += low <= exact <= high
    assert all(0.91 <= count / 300 <= 0.99 for count in covered.values()), covered


def test_blocks_widen_the_interval_of_rows_that_go_together() -> None:
    made = world(2, n=100)
    log = made["log"]
    twice = Logged(*(np.repeat(a, 2, axis=0) for a in (log.actions, log.rewards, log.propensities, log.covered)))
    one = log.estimates(made["other"])["snips"].interval()
    two = twice.estimates(np.repeat(made["other"], 2, axis=0))["snips"]
    assert two.interval(np.repeat(np.arange(100), 2)) == pytest.approx(one)
    low, high = two.interval()
    assert high - low < 0.8 * (one[1] - one[0])
    with pytest.raises(ValueError, match="at least two"):
        two.interval(np.zeros(200))
    assert two.interval([f"day {i // 2}" for i in range(200)]) == pytest.approx(one)
    for blocks in (np.zeros(3), np.zeros((2, 100)), [[1], [2, 3], 2], [None, *range(199)], 7):
        with pytest.raises(ValueError, match="blocks: must be 200 labels"):
            two.interval(blocks)


def test_a_log_that_does_not_carry_a_policy_says_so() -> None:
    n = 1000
    never = np.array([True, True, False])
    log = Logged(np.zeros(n, dtype=int), np.ones(n), np.full(n, 0.5), never)
    policy = np.tile([0.5, 0.48, 0.02], (n, 1))
    support = log.support(policy)
    assert support.uncovered == pytest.approx(0.02) and support.ess == pytest.approx(n)
    assert support.problems == ("2 % of what it does is never logged, more than 1 %",)
    few = Logged(np.zeros(50, dtype=int), np.ones(50), np.full(50, 0.5), never)
    assert "effective sample size is 50, below 100" in few.support(policy[:50] * 0 + [1.0, 0.0, 0.0]).problems[0]
    nothing = log.support(np.tile([0.0, 1.0, 0.0], (n, 1)))
    assert nothing.ess == 0.0 and nothing.problems
    assert Support.of([1e200, 1e200, 0.0]).ess == pytest.approx(2.0)
    assert log.support(np.tile([0.0, 0.0, 1.0 + 1e-9], (n, 1))).uncovered == 1.0
    assert math.isnan(log.estimates(np.tile([0.0, 1.0, 0.0], (n, 1)))["snips"].value)


def test_clipping_bounds_weights_and_only_when_asked() -> None:
    log = Logged(np.array([0, 1]), np.ones(2), np.array([0.01, 0.5]), np.ones(2, dtype=bool))
    policy = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert log.weights(policy).tolist() == [100.0, 2.0] and log.weights(policy, clip=10.0).tolist() == [10.0, 2.0]
    assert log.estimates(policy, clip=10.0)["ips"].value == 6.0


def test_plays_by_hand() -> None:
    found = plays(np.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]), np.array([1, 1]))
    assert found.expected.tolist() == [0.6, 1.4, 0.0] and found.realised.tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"propensities": np.array([0.5, 0.0])}, r"propensities: must lie in \(0, 1\], .*, is 0 in row 1"),
        ({"propensities": np.array([0.5, 1e-160])}, "not below 1e-30, is 1e-160 in row 1"),
        ({"covered": [[True, True], [True]]}, "covered: must be a mask, whose rows are equally long"),
        ({"propensities": np.array([1.5, 0.5])}, "is 1.5 in row 0"),
        ({"propensities": np.array([np.nan, 0.5])}, "propensities: must be finite, is nan in row 0"),
        ({"rewards": np.array([1.0, np.inf])}, "rewards: must be finite, is inf in row 1"),
        ({"actions": np.array([0, 2])}, r"actions: must lie in \[0, 1\]"),
        ({"actions": np.array([], dtype=int)}, "at least one row"),
        ({"covered": np.ones((3, 2), dtype=bool)}, r"covered: must have shape \[2, K\], has \[3, 2\]"),
        ({"covered": [1, 1]}, r"covered: must be a mask of shape \[K\] or \[n, K\], is int64 \[2\]"),
        ({"covered": True}, "covered: must be a mask"),
        ({"covered": np.array([[True, True], [True, False]])}, "covered: action 1 was logged in row 1, where it says"),
        ({"covered": [False, True]}, "covered: action 0 was logged in row 0"),
        ({"actions": [0.0, 0.5]}, "actions: must be whole numbers, are float64"),
        ({"actions": [0.0, np.nan]}, "actions: must be whole numbers"),
        ({"actions": [False, True]}, "actions: must be whole numbers, are bool"),
        ({"actions": ["a", "b"]}, "actions: must be whole numbers"),
        ({"actions": np.array([[0], [1]])}, r"actions: must have shape \[n\], has \[2, 1\]"),
        ({"rewards": [1.0]}, r"rewards: must have shape \[2\], has \[1\]"),
        ({"rewards": ["a", 1.0]}, "rewards: must be an array of numbers"),
    ],
)
def test_logs_that_are_none_are_refused(change: dict[str, Any], message: str) -> None:
    good = {"actions": np.array([0, 1]), "rewards": np.ones(2), "propensities": np.full(2, 0.5)}
    with pytest.raises(ValueError, match=message):
        Logged(**{**good, "covered": np.ones(2, dtype=bool), **change})


def test_policies_that_are_none_are_refused() -> None:
    log = Logged(np.array([0, 1]), np.ones(2), np.full(2, 0.5), np.ones(2, dtype=bool))
    for policy, message in (
        (np.ones((2, 3)) / 3, "policy: must have shape"),
        (np.array([[0.5, 0.6], [0.5, 0.5]]), "sum to 1"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), "sum to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            log.weights(policy)
    with pytest.raises(ValueError, match="policy: must be finite, is nan in row 1"):
        log.support([[0.5, 0.5], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="predicted: must be finite, is nan in row 0"):
        log.estimates([[0.5, 0.5], [0.5, 0.5]], [[np.nan, 0.5], [0.5, 0.5]])
    fine = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="clip=0"):
        log.weights(fine, clip=0)
    with pytest.raises(ValueError, match="predicted: must have shape"):
        log.estimates(fine, np.ones((2, 3)))


def test_lists_and_whole_floats_mean_what_arrays_mean() -> None:
    arrays = Logged(np.array([0, 1]), np.array([1.0, 0.5]), np.array([0.5, 0.25]), np.ones(2, dtype=bool))
    lists = Logged([0.0, 1.0], [1, 0.5], [0.5, 0.25], [True, True])  # type: ignore[arg-type]
    policy, predicted = [[0.4, 0.6], [1, 0]], [[0.5, 0.25], [0, 1]]
    assert lists.actions.dtype == np.int64 and lists.support(policy) == arrays.support(np.array(policy))
    got = lists.estimates(policy, predicted)
    for name, known in arrays.estimates(np.array(policy), np.array(predicted)).items():
        assert got[name].value == known.value and got[name].interval() == known.interval()
    assert Estimate("ips", [1, 2], [1, 1]).value == 1.5  # type: ignore[arg-type]
    assert plays([[0.5, 0.5], [0.1, 0.9]], [1, 1]).realised.tolist() == [0, 2]


def test_estimates_and_plays_that_are_none_are_refused() -> None:
    for call, message in (
        (lambda: Estimate("ips", np.ones(2), np.ones(3)), r"numerators: must have shape \[3\]"),
        (lambda: Estimate("ips", np.array([1.0, np.nan]), np.ones(2)), "numerators: must be finite"),
        (lambda: plays([0.5, 0.5], [0]), "probabilities: must have shape"),
        (lambda: plays([[0.5, 0.5]], [0, 1]), r"actions: must have shape \[1\], has \[2\]"),
        (lambda: plays([[0.5, 0.5]], [2]), r"actions: must lie in \[0, 1\]"),
        (lambda: plays([[-0.5, 1.5]] * 2, [0, 1]), "probabilities: rows must be probabilities that sum to 1"),
        (lambda: plays([[0.5, 0.6]], [0]), "probabilities: rows must be probabilities that sum to 1"),
        (lambda: Support.of([math.nan, 1.0]), "weights: must be finite, is nan in row 0"),
        (lambda: Support.of([1.0, -0.5]), "weights: must be .* at least 0"),
        (lambda: Support.of([]), "weights: must be at least one number"),
        (lambda: Support.of([[1.0]]), r"weights: must have shape \[1\], has \[1, 1\]"),
        (lambda: Support.of("heavy"), "weights: must be an array of numbers"),
        (lambda: Support.of([1.0], uncovered=1.5), "uncovered=1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_people_and_tables_of_scores_may_be_lists_and_are_checked() -> None:
    made = Scored([0.2, 0.9], [0, 1], [True, False])  # type: ignore[arg-type]
    assert made.groups.dtype == np.int64 and made.outcomes.tolist() == [1, 0]
    Pool(cohort=10, people=made)
    table = ScoreTable([0, 50, 100], [[0.2, 0.3, 0.5], [0.5, 0.5, 0]], [[0, 0.5, 1], [0, 0.4, 0.9]], 0.3)  # type: ignore[arg-type]
    assert table.shares.shape == (2, 3) and table.scores.dtype == np.float64
    for call, message in (
        (lambda: Scored(["a", "b"], [0, 1], [1, 0]), "scores: must be an array of numbers"),  # type: ignore[arg-type]
        (lambda: Scored([0.2, 0.9], [0, 1], [1]), "as many groups and outcomes"),  # type: ignore[arg-type]
        (lambda: replace(made, scores=[0.2, np.nan]), r"scores: must be in \[0, 1\]"),
        (lambda: replace(made, groups=["a", "b"]), "groups: must be an array of numbers"),
        (lambda: replace(made, groups=[0, 2]), "groups: must be 0 and 1"),
        (lambda: replace(made, outcomes=[[1], [0, 1]]), "outcomes: must be an array of numbers"),
        (lambda: replace(table, scores=[0, 50, 50]), "scores: must be a list of increasing"),
        (lambda: replace(table, scores=[0, 50, 101]), r"scores: must be in \[0, 100\]"),
        (lambda: replace(table, shares=[[0.2, 0.3, 0.5]]), r"shares: .*\[2, 3\], has \[1, 3\]"),
        (lambda: replace(table, shares=table.shares * 0.5), "shares: rows must sum to 1"),
        (lambda: replace(table, repaid=table.repaid * np.nan), r"repaid: must be numbers in \[0, 1\]"),
        (lambda: replace(table, share=2.0), "share=2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_no_prediction_or_regret_is_refused() -> None:
    for predicted, rewards in (([0.5, 0.5], [1.0]), ([[0.5]], [[1.0]]), ([], [])):
        with pytest.raises(ValueError, match="predicted: must be as many numbers as rewards"):
            calibration_error(predicted, rewards)
    for call, message in (
        (lambda: calibration_error([math.nan], [1.0]), "predicted: must be finite, are not in row 0"),
        (lambda: calibration_error([0.5, 0.5], [1.0, math.inf]), "rewards: must be finite, are not in row 1"),
        (lambda: calibration_error(["a"], [1.0]), "predicted: must be an array of numbers"),
        (lambda: calibration_error([0.5], [1.0], bins=0), "bins=0"),
        (lambda: oscillation([1.0, math.nan, 2.0]), "regrets: must be a list of finite numbers"),
        (lambda: oscillation([[1.0, 2.0]]), "regrets: must be a list of finite numbers"),
        (lambda: turning([1.0, 2.0, 1.0, math.nan]), "regrets: must be a list of finite numbers"),
        (lambda: turning("high"), "regrets: must be an array of numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
