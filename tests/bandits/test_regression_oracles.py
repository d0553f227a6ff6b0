"""Inverse-gap weighting, oracles, generations: the formulas, and what must never reach a fit."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits import (
    BoostingOracle,
    ContextualEpsilon,
    Digits,
    EpsilonSplit,
    Falcon,
    Generations,
    Greedy,
    LogisticOracle,
    MLPOracle,
    Payments,
    Reward,
    RidgeOracle,
    Softmax,
    SquareCB,
)
from heedful.bandits.exploring import draw
from heedful.bandits.generations import calibration_error, oscillation, turning

RULES = [
    SquareCB(gamma=30.0), SquareCB(), Falcon(), Greedy(), ContextualEpsilon(epsilon=0.2), Softmax(), EpsilonSplit(0.3),
]  # fmt: skip


def world(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] and masks, [n, k]."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, k)) < 0.6
    masks[np.arange(n), rng.integers(0, k, n)] = True
    return rng.random((n, k)), masks


def inverse_gaps(scores: np.ndarray, mask: np.ndarray, gamma: float) -> np.ndarray:
    """One request, plainly."""
    feasible = [k for k in range(len(scores)) if mask[k]]
    best = max(feasible, key=lambda k: scores[k])
    p = np.zeros(len(scores))
    for k in feasible:
        if k != best:
            p[k] = 1 / (len(feasible) + gamma * (scores[best] - scores[k]))
    p[best] = 1 - p.sum()
    return p


# probabilities


def test_a_known_value() -> None:
    p = SquareCB(gamma=10.0).probabilities([[0.9, 0.5, 0.1]])
    assert p[0] == pytest.approx([0.766234, 0.142857, 0.090909], abs=1e-6)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 9), gamma=st.floats(0, 1e6))
def test_inverse_gaps_equal_the_plain_formula(seed: int, k: int, gamma: float) -> None:
    scores, masks = world(seed, 5, k)
    p = SquareCB(gamma=gamma).probabilities(scores, masks)
    for i in range(5):
        assert p[i] == pytest.approx(inverse_gaps(scores[i], masks[i], gamma), abs=1e-12)
        count, best = masks[i].sum(), np.where(masks[i], scores[i], -1).argmax()
        assert p[i, best] >= 1 / count - 1e-12
        assert (np.delete(p[i], best) <= 1 / count + 1e-12).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_probabilities_sum_to_one_and_are_zero_where_nothing_is_feasible(rule: Any) -> None:
    scores, masks = world(1, 200, 7)
    p = rule.probabilities(np.where(masks, scores, np.nan), masks, rows=1000)
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-12 and (p >= 0).all() and (p[~masks] == 0).all()
    shifted = rule.probabilities(scores + 3.0, masks, rows=1000)
    assert np.abs(p - shifted).max() < 1e-9
    assert rule.probabilities([[0.4]]).tolist() == [[1.0]]


def test_limits_of_gamma_and_equal_predictions() -> None:
    scores, masks = world(2, 50, 6)
    even = masks / masks.sum(axis=1, keepdims=True)
    for rule, given_scores in ((SquareCB(gamma=0.0), scores), (SquareCB(), np.full_like(scores, 0.3))):
        assert np.abs(rule.probabilities(given_scores, masks, rows=500) - even).max() < 1e-12
    greedy = Greedy().probabilities(scores, masks)
    assert np.abs(SquareCB(gamma=1e14).probabilities(scores, masks) - greedy).max() < 1e-9
    assert np.abs(ContextualEpsilon(epsilon=1.0).probabilities(scores, masks) - even).max() < 1e-12
    assert (greedy.max(axis=1) == 1).all()


def test_softmax_equals_its_formula() -> None:
    scores, masks = world(3, 20, 5)
    weights = np.exp(20.0 * scores) * masks
    assert Softmax().probabilities(scores, masks) == pytest.approx(weights / weights.sum(axis=1, keepdims=True))


def test_gamma_grows_with_the_rows_of_the_window() -> None:
    assert SquareCB().strength(900, 4) == 300.0 and SquareCB(gamma=7.0).strength(900, 4) == 7.0
    assert SquareCB(scale=2.0, exponent=1.0).strength(900, 4) == 1800.0
    paper = math.sqrt(8 * 512 / (5.0 + math.log(1024 / 0.1))) / 30
    assert Falcon(scale=1 / 30, log_size=5.0, delta=0.1).strength(512, 8) == pytest.approx(paper)
    assert Falcon().strength(0, 8) == 1.0


def test_draws_follow_the_probabilities_and_never_leave_them() -> None:
    rng = np.random.default_rng(0)
    p = np.tile([0.0, 0.2, 0.0, 0.5, 0.3, 0.0], (40_000, 1))
    counts = np.bincount(draw(p, rng), minlength=6) / 40_000
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts - p[0]).max() < 4 * math.sqrt(0.25 / 40_000)


@pytest.mark.parametrize(
    "scores, feasible, message",
    [
        ([0.1, 0.2], None, "scores: must have shape"),
        ([[0.1, np.nan]], None, "scores: must be finite"),
        ([[0.1, 0.2]], [[False, False]], "no action is feasible in row 0"),
        ([[0.1, 0.2]], [[1.0, 0.0]], "feasible: must be a mask"),
        ([[0.1, 0.2]], [[True]], "feasible: must be a mask"),
    ],
)
def test_scores_that_cannot_be_weighed_are_refused(scores: Any, feasible: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SquareCB().probabilities(scores, None if feasible is None else np.array(feasible))


def test_parameters_out_of_range_are_refused() -> None:
    for bad in (
        lambda: SquareCB(gamma=-1.0), lambda: SquareCB(exponent=1.5), lambda: SquareCB(scale=0.0),
        lambda: Falcon(delta=0.0), lambda: Falcon(log_size=-1.0), lambda: EpsilonSplit(0.0),
        lambda: ContextualEpsilon(epsilon=0.0), lambda: Softmax(sharpness=math.inf), lambda: RidgeOracle(ridge=0.0),
        lambda: LogisticOracle(strength=-1.0), lambda: BoostingOracle(leaves=1),
        lambda: MLPOracle(width=0), lambda: MLPOracle(layers=0), lambda: MLPOracle(strength=0.0),
        lambda: MLPOracle(steps=0.5), lambda: MLPOracle(seed=-1), lambda: MLPOracle(seed=2**32),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be"):
            bad()


# one request at a time


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_squarecb_on_its_own_equals_a_plain_one(seed: int) -> None:
    rng, k, d = np.random.default_rng(seed), 3, 2
    learner, seen = SquareCB(scale=5.0, ridge=0.5).start(k, d, seed), [([], []) for _ in range(k)]
    for t in range(40):
        x, scores = rng.normal(size=d), np.zeros(k)
        for a, (rows, got) in enumerate(seen):
            if rows:
                gram = 0.5 * np.eye(d) + np.array(rows).T @ np.array(rows)
                scores[a] = x @ np.linalg.solve(gram, np.array(rows).T @ np.array(got))
        choice = learner.decide(x)
        p = inverse_gaps(scores, np.ones(k, dtype=bool), 5.0 * math.sqrt(t))
        assert choice.supported and choice.probability == pytest.approx(p[choice.action], abs=1e-9)
        reward = rng.random()
        seen[choice.action][0].append(x)
        seen[choice.action][1].append(reward)
        learner.update(Reward(choice.token, reward))


def test_falcon_decides_by_the_epoch_before_alone() -> None:
    rng, k, d = np.random.default_rng(0), 3, 2
    learner, log = Falcon(ridge=0.5).start(k, d, 4), []
    for t in range(70):
        begins = [2**m for m in range(8) if 2**m <= t]
        model = np.zeros((k, d))
        if begins:
            rows = log[begins[-1] // 2 : begins[-1]]
            for a in range(k):
                x = np.array([row[0] for row in rows if row[1] == a]).reshape(-1, d)
                y = np.array([row[2] for row in rows if row[1] == a])
                model[a] = np.linalg.solve(0.5 * np.eye(d) + x.T @ x, x.T @ y)
        x = rng.normal(size=d)
        choice = learner.decide(x)
        gamma = Falcon().strength(begins[-1] // 2 if begins else 0, k)
        p = inverse_gaps(model @ x, np.ones(k, dtype=bool), gamma)
        assert choice.probability == pytest.approx(p[choice.action], abs=1e-9)
        log.append((x, choice.action, rng.random()))
        learner.update(Reward(choice.token, log[-1][2]))


# generations


class Recorder(RidgeOracle):
    """Writes down what it is fitted to; a request's number is its feature."""

    fits: list[Any]

    def fit(self, contexts: Any, actions: Any, rewards: Any, number: int) -> Any:
        self.fits.append(np.asarray(contexts)[:, 0].astype(int).tolist())
        return super().fit(contexts, actions, rewards, number)


@pytest.mark.parametrize("window, delay", [(1, 0), (1, 2), (3, 0), (2, 1), (None, 0), (None, 3)])
def test_a_fit_sees_exactly_the_last_released_logs(window: int | None, delay: int) -> None:
    oracle, n = Recorder(), 10
    object.__setattr__(oracle, "fits", [])
    served = Generations(oracle, SquareCB(), 2, 1, window, delay)
    rng = np.random.default_rng(0)
    for g in range(8):
        last = g - 1 - delay
        expected = () if last < 0 else tuple(range(0 if window is None else max(0, last - window + 1), last + 1))
        assert served.trained_on == expected
        log = served.serve(np.arange(g * n, (g + 1) * n, dtype=float)[:, None])
        if not expected:
            assert (log.probabilities == 0.5).all()
        else:
            assert oracle.fits[-1] == [i for e in expected for i in range(e * n, (e + 1) * n)]
        served.close(rng.random(n))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_logged_probabilities_are_those_of_the_policy_that_served(rule: Any) -> None:
    made = Payments(seed=3)
    served = Generations(RidgeOracle(), rule, made.actions, made.features, seed=1)
    for g in range(3):
        asked = made.requests(300, np.random.default_rng(g))
        scores, chances = served.probabilities(asked.contexts, asked.feasible)
        log = served.serve(asked.contexts, asked.feasible)
        assert np.array_equal(log.probabilities, chances) and np.array_equal(log.scores, scores)
        if served.model is not None:
            again = rule.probabilities(served.model.predict(asked.contexts), asked.feasible, served.model.rows)
            assert np.array_equal(again, log.probabilities)
        assert asked.feasible[np.arange(300), log.actions].all() and (log.propensities > 0).all()
        served.close(asked.outcomes[np.arange(300), log.actions])


def test_the_same_seed_gives_the_same_log() -> None:
    made, logs = Payments(seed=1), []
    for _ in range(2):
        served = Generations(LogisticOracle(), SquareCB(), made.actions, made.features, seed=5)
        for g in range(3):
            asked = made.requests(200, np.random.default_rng(g))
            log = served.serve(asked.contexts, asked.feasible)
            log = served.close(asked.outcomes[np.arange(200), log.actions])
        logs.append(log)
    assert np.array_equal(logs[0].actions, logs[1].actions)
    assert np.array_equal(logs[0].probabilities, logs[1].probabilities)


def test_a_split_trains_on_its_random_slice_alone_and_states_both_ways_to_an_action() -> None:
    oracle, n = Recorder(), 4000
    object.__setattr__(oracle, "fits", [])
    served = Generations(oracle, EpsilonSplit(0.25), 4, 1, seed=2)
    for g in range(2):
        log = served.serve(np.arange(g * n, (g + 1) * n, dtype=float)[:, None])
        served.close((log.actions == 1).astype(float))
    assert log.trains.mean() == pytest.approx(0.25, abs=0.03)
    assert oracle.fits[-1][n:] == (np.flatnonzero(log.trains) + n).tolist()
    best = log.probabilities.argmax(axis=1)
    assert set(log.actions[~log.trains]) == set(best[~log.trains])
    assert (log.actions == best).mean() == pytest.approx(0.75 + 0.25 / 4, abs=0.03)
    assert np.unique(log.probabilities.round(9)).tolist() == [0.0625, 0.8125]


def test_a_model_that_is_older_than_its_window_says_so() -> None:
    served = Generations(RidgeOracle(), EpsilonSplit(1e-6), 2, 1, window=1)
    for trained_on, outdated in (((), 0), ((0,), 0), ((0,), 1), ((0,), 2), ((0,), 3), ((4,), 0)):
        assert (served.trained_on, served.outdated) == (trained_on, outdated)
        if outdated == 3:
            served.rule = EpsilonSplit(1.0)  # from now on every row trains
        log = served.serve(np.zeros((20, 1)))
        served.close(0.5 * log.actions)
    late = Generations(RidgeOracle(), SquareCB(), 2, 1, window=1, delay=2)
    for _ in range(2):  # nothing is released yet, which is not to be out of date
        late.serve([[0.0]])
        late.close([1.0])
    assert late.trained_on == () and late.outdated == 0


def test_generations_refuse_what_is_out_of_order_or_range() -> None:
    served = Generations(RidgeOracle(), SquareCB(), 2, 1)
    with pytest.raises(ValueError, match="no generation is open"):
        served.close([])
    for contexts, feasible, message in (
        ([[np.nan]], None, "not in row 0"),
        ([[0.0, 1.0]], None, "must have shape"),
        ([[0.0]], [[False, False]], "no action is feasible in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            served.serve(contexts, None if feasible is None else np.array(feasible))
    served.serve([[0.0], [1.0]])
    with pytest.raises(ValueError, match="generation 0 is open"):
        served.serve([[0.0]])
    for rewards in ([1.0], [0.5, 1.5], [0.5, np.nan]):
        with pytest.raises(ValueError, match=r"rewards: must be 2 numbers in \[0, 1\]"):
            served.close(rewards)
    with pytest.raises(ValueError, match="rewards: must be an array of numbers"):
        served.close(["a", "b"])
    served.close([0.0, 1.0])
    with pytest.raises(ValueError, match="probabilities: there are none"):
        served.serve(np.zeros((0, 1))).entropy()
    for bad in ({"window": 0}, {"delay": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="must be"):
            Generations(RidgeOracle(), SquareCB(), 2, 1, **bad)  # type: ignore[arg-type]


def test_squarecb_learns_to_authorise_and_uniform_does_not() -> None:
    made, regrets = Payments(seed=0), {}
    for name, rule in (("squarecb", SquareCB(gamma=2000.0)), ("uniform", ContextualEpsilon(epsilon=1.0))):
        served = Generations(LogisticOracle(), rule, made.actions, made.features)
        for g in range(4):
            asked = made.requests(1000, np.random.default_rng([9, g]))
            log = served.serve(asked.contexts, asked.feasible)
            regrets[name] = asked.regret(log.actions).mean()
            served.close(asked.outcomes[np.arange(1000), log.actions])
    assert regrets["squarecb"] < 0.04 < 0.15 < regrets["uniform"]


# worlds and diagnostics


def test_payments_have_the_stated_rates_masks_and_common_luck() -> None:
    for rate in (0.5, 0.95):
        asked = Payments(seed=2, nonlinearity=1.0, base_rate=rate).requests(20_000, np.random.default_rng(0))
        assert asked.means.mean() == pytest.approx(rate, abs=0.02)
        assert asked.outcomes.mean() == pytest.approx(rate, abs=0.02)
        order = np.argsort(asked.means[:50], axis=1)
        sorted_outcomes = np.take_along_axis(asked.outcomes[:50], order, axis=1)
        assert (np.diff(sorted_outcomes, axis=1) >= 0).all()
    assert asked.feasible.any(axis=1).all() and asked.feasible.mean() == pytest.approx(0.6 + 0.4 / 8, abs=0.01)
    linear, rng = Payments(seed=2), np.random.default_rng(0)
    x = rng.standard_normal((4, 8))
    logits = np.log(linear.means(x) / (1 - linear.means(x)))
    assert np.linalg.matrix_rank(np.column_stack([logits[:, :3], x, np.ones(4)]), tol=1e-8) == 4
    both = linear.means(np.stack([x[0], x[1], (x[0] + x[1]) / 2]))
    both = np.log(both / (1 - both))
    assert both[2] == pytest.approx((both[0] + both[1]) / 2, abs=1e-9)
    for bad in ({"base_rate": 1.0}, {"feasible": 0.0}, {"actions": 0}, {"nonlinearity": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            Payments(**bad)  # type: ignore[arg-type]
    for rate in ("a", 0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"base_rate={rate!r}: must be a number in"):
            Payments(base_rate=rate)  # type: ignore[arg-type]


def test_digits_reward_the_right_name() -> None:
    asked = Digits().requests(500, np.random.default_rng(0))
    assert asked.contexts.shape == (500, 64) and (asked.outcomes.sum(axis=1) == 1).all()
    assert np.array_equal(asked.means, asked.outcomes) and 0 <= asked.contexts.min() <= asked.contexts.max() <= 1
    assert asked.regret(asked.means.argmax(axis=1)).tolist() == [0.0] * 500


def test_fees_follow_the_rules_of_the_table(data_file: Any) -> None:
    import polars as pl

    from heedful.bandits.fee_payments import FeePayments

    names = ("fees", "merchants", "merchant_acquirers", "acquirer_countries")
    tables = [pl.read_parquet(data_file(f"dabstep-fees/{name}.parquet")) for name in names]
    made = FeePayments(*tables, volumes={})
    fees = tables[0]
    merchant = made.merchants.row(0, named=True)
    found = []
    for rule in fees.iter_rows(named=True):
        if (
            rule["card_scheme"] == "NexPay"
            and (not rule["account_type"] or merchant["account_type"] in rule["account_type"])
            and (rule["capture_delay"] in (None, merchant["capture_delay"]))
            and (
                not rule["merchant_category_code"]
                or merchant["merchant_category_code"] in rule["merchant_category_code"]
            )
            and rule["is_credit"] in (None, True)
            and rule["intracountry"] in (None, False)
            and (not rule["aci"] or "C" in rule["aci"])
        ):
            found.append((rule["fixed_amount"], rule["rate"]))
    assert found
    place = (0, made.schemes.index("NexPay"), 1, 2, 0)
    assert made.rules[place] == pytest.approx(np.mean(found, axis=0))
    asked = made.requests(3000, np.random.default_rng(0))
    assert asked.feasible.sum(axis=1).min() >= 8 and asked.contexts.shape == (3000, made.features)
    assert ((asked.means >= 0) & (asked.means <= 1)).all() and ((asked.outcomes >= 0) & (asked.outcomes <= 1)).all()
    assert np.abs((asked.outcomes - asked.means).mean(axis=0)).max() < 5 * 0.5 / math.sqrt(3000)
    with pytest.raises(ValueError, match="acquirer_countries: no country of"):
        FeePayments(*tables[:3], tables[3].head(2), volumes={})


def test_diagnostics_by_hand() -> None:
    assert oscillation([0.5, 0.2, 0.3, 0.1, 0.4]) == pytest.approx((0 + 0.1 + 0 + 0.3) / 4)
    assert oscillation([0.5]) == 0.0
    assert turning([0.0, 1.0, 0.0, 1.0, 0.0]) == pytest.approx(-0.75)
    assert math.isnan(turning([1.0, 1.0, 1.0, 1.0])) and math.isnan(turning([1.0, 2.0]))
    assert calibration_error([0.2] * 5 + [0.8] * 5, [0.0] * 5 + [1.0] * 5, bins=2) == pytest.approx(0.2)
    log = Generations(RidgeOracle(), SquareCB(), 4, 1).serve([[0.0]])
    assert log.entropy() == pytest.approx(math.log(4))


def test_no_warning_is_raised_by_ordinary_work() -> None:
    made = Payments(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served = Generations(LogisticOracle(), SquareCB(), made.actions, made.features)
        for g in range(2):
            asked = made.requests(400, np.random.default_rng(g))
            log = served.serve(asked.contexts, asked.feasible)
            served.close(asked.outcomes[np.arange(400), log.actions])
