"""Individually fair learning with one-sided feedback: identities, estimates, bounds with their constants, auditors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits import (
    ContextSemiBanditFTPL,
    Exp2,
    ExploreFirst,
    FullInformation,
    Labels,
    LinearRules,
    NaiveWeights,
    Panel,
    make,
)
from heedful.bandits.admissions import Applicants, run
from heedful.bandits.auditors import most_unfair, pooled
from heedful.bandits.fair_comparator import best_fair
from heedful.bandits.john import johns


def small_rules(rng: np.random.Generator, rules: int = 6, features: int = 3) -> LinearRules:
    return LinearRules.random(rng.uniform(size=(50, features)), rules, rng)


def pool(seed: int = 0, people: int = 200) -> Applicants:
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(people, 4))
    features[:, -1] = features[:, -1] < 0.5
    return Applicants(features, (rng.uniform(size=people) < 0.2 + 0.6 * features[:, 0]).astype(int))


def test_half_of_an_error_difference_is_the_semi_bandit_loss_difference() -> None:
    for k in range(1, 5):
        for labels in itertools.product((0, 1), repeat=k):
            y = np.array(labels)
            coordinates = np.concatenate([1 - y, np.full(k, 0.5)])
            losses, errors = [], []
            for rule in itertools.product((0, 1), repeat=k):
                h = np.array(rule)
                losses.append(np.concatenate([h, 1 - h]) @ coordinates)
                errors.append((h != y).sum())
            half = (np.array(errors)[:, None] - errors) / 2
            assert np.array_equal(half, np.array(losses)[:, None] - losses)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), penalty=st.floats(0, 10))
def test_semi_bandit_losses_with_half_the_penalty_give_the_same_weights_with_eta_doubled(
    seed: int, penalty: float
) -> None:
    rng = np.random.default_rng(seed)
    rules, k, eta = small_rules(rng), 3, 0.07
    learner = Exp2(penalty=penalty, eta=eta, mix=0.2).start(rules, k, seed)
    semi = np.zeros(len(rules))
    for _ in range(12):
        people = rng.uniform(size=(k, 3))
        decision = learner.decide(people)
        y = rng.integers(0, 2, k)
        pair = (0, 2) if rng.random() < 0.5 else None
        bits = rules.predict(people)
        # accepting costs 1 - y, known only after acceptance; rejecting costs 1/2, known always
        seen = np.where(decision.accepted, ((1 - y) - 0.5) / decision.treatment, 0.0)
        semi += (bits * seen + 0.5).sum(axis=1)
        if pair:
            semi += penalty / 2 * (bits[:, 0] - bits[:, 2])
        learner.update(Labels(decision.token, np.where(decision.accepted, y, np.nan), pair))
    ours = np.exp(-eta * (learner.state.losses[0] - learner.state.losses[0].min()))
    theirs = np.exp(-2 * eta * (semi - semi.min()))
    assert ours / ours.sum() == pytest.approx(theirs / theirs.sum(), rel=1e-9)


def mu_of(explore: str, bits: np.ndarray) -> np.ndarray:
    """What explores, float64 ``[H]``, for what rules say, int8 ``[H, k]``."""
    if explore == "john":
        return johns(bits[None])[0]
    return np.full(len(bits), 1 / len(bits)) if explore == "uniform" else np.eye(len(bits))[0]


def test_the_fast_version_equals_exponential_weights_written_plainly() -> None:
    rng = np.random.default_rng(4)
    rules, k = small_rules(rng), 4
    for explore in ("accept-all", "uniform", "john"):
        method = Exp2(rounds=100, penalty=3.0, eta=0.05, mix=0.1, explore=explore)
        learner, losses = method.start(rules, k, seed=9), np.zeros(len(rules))
        for t in range(100):
            people, y = rng.uniform(size=(k, 3)), rng.integers(0, 2, k)
            decision, bits = learner.decide(people), rules.predict(people)
            weights = np.exp(-0.05 * losses)
            weights /= weights.sum()
            mu = mu_of(explore, bits)
            policy = 0.9 * weights + 0.1 * mu
            assert decision.treatment == pytest.approx(policy @ bits, abs=1e-12)
            assert any(np.array_equal(decision.accepted, row == 1) for row in bits)
            pair = (1, 3) if t % 3 == 0 else None
            for h in range(len(rules)):
                for i in np.flatnonzero(decision.accepted):
                    losses[h] += bits[h, i] * (1 - 2 * y[i]) / (policy @ bits)[i]
                losses[h] += 3.0 * (int(bits[h, 1]) - int(bits[h, 3])) if pair else 0.0
            learner.update(Labels(decision.token, np.where(decision.accepted, y, np.nan), pair))
            assert learner.state.losses[0] == pytest.approx(losses, abs=1e-9)


@pytest.mark.parametrize("explore", ["accept-all", "uniform", "john"])
def test_estimates_are_unbiased(explore: Any) -> None:
    rng = np.random.default_rng(1)
    rules, people, y = small_rules(rng), rng.uniform(size=(3, 3)), np.array([1.0, 0.0, 1.0])
    bits, method = rules.predict(people), Exp2(penalty=0.0, eta=0.0, mix=0.3, explore=explore)
    expected = bits @ (1 - 2 * y)
    policy = np.full(len(rules), 0.7 / len(rules)) + 0.3 * mu_of(explore, bits)
    q = policy @ bits
    exact = sum(p * bits @ np.where(bits[h] == 1, (1 - 2 * y) / q, 0.0) for h, p in enumerate(policy))
    assert exact == pytest.approx(expected, abs=1e-12)
    learner, rows = method.start(rules, 3, seed=2), []
    for _ in range(4000):
        before = learner.state.losses[0].copy()
        decision = learner.decide(people)
        learner.update(Labels(decision.token, np.where(decision.accepted, y, np.nan)))
        rows.append(learner.state.losses[0] - before)
    error = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    assert (np.abs(np.mean(rows, axis=0) - expected) <= 4 * error + 1e-12).all()


def test_geometric_resampling_estimates_the_inverse_within_its_bias() -> None:
    rng = np.random.default_rng(3)
    rules, people = small_rules(rng), rng.uniform(size=(2, 3))
    for most in (2, 200):
        learner = ContextSemiBanditFTPL(noise=2.0, resamples=most, draws=1).start(rules, 2, seed=5)
        says = rules.predict(people)[learner.method._leaders(learner.state, 0, 20_000)]
        found: list[list[float]] = [[], []]
        for _ in range(3000):
            decision = learner.decide(people)
            _, _, accepted, inverse = learner.ledger.find(decision.token)
            for i in np.flatnonzero(accepted[0]):
                found[i].append(inverse[0, i])
        for i in (0, 1):
            q = says[:, i].mean()
            if q > 0.05:
                mean, error = np.mean(found[i]), 4 * np.std(found[i], ddof=1) / np.sqrt(len(found[i])) + 0.02 / q
                assert 1 / q - (1 - q) ** most / q - error <= mean <= 1 / q + error
                assert mean == pytest.approx((1 - (1 - q) ** most) / q, abs=error)


def test_without_noise_ftpl_follows_the_leader() -> None:
    rng = np.random.default_rng(6)
    rules = small_rules(rng)
    learner = ContextSemiBanditFTPL(noise=0.0).start(rules, 3, 0)
    for _ in range(40):
        people, leader = rng.uniform(size=(3, 3)), learner.state.losses[0].argmin()
        decision = learner.decide(people)
        assert np.array_equal(decision.accepted, rules.predict(people)[leader] == 1)
        assert np.array_equal(decision.treatment, decision.accepted)
        learner.update(Labels(decision.token, np.where(decision.accepted, rng.integers(0, 2, 3), np.nan)))


def test_ftpl_counts_its_optimiser_calls() -> None:
    rng = np.random.default_rng(7)
    learner = ContextSemiBanditFTPL(rounds=100, draws=20).start(small_rules(rng), 3, 0)
    for _ in range(10):
        learner.decide(rng.uniform(size=(3, 3)))
    assert 10 * 21 <= learner.state.calls[0] <= 10 * (21 + 10)


def test_exp2_without_learning_is_uniform_and_exploration() -> None:
    rng = np.random.default_rng(8)
    rules = small_rules(rng)
    learner, people = Exp2(eta=0.0, mix=0.25).start(rules, 3, 0), rng.uniform(size=(3, 3))
    for _ in range(5):
        decision = learner.decide(people)
        bits = rules.predict(people)
        assert decision.treatment == pytest.approx(0.75 * bits.mean(axis=0) + 0.25, abs=1e-12)
        learner.update(Labels(decision.token, np.where(decision.accepted, 1.0, np.nan)))


@pytest.mark.parametrize("spec", ["exp2:eta=0.1,mix=0.1", "context-semi-bandit-ftpl", "naive-weights", "bank-rule"])
def test_labels_of_the_rejected_have_no_influence(spec: str) -> None:
    """Neither through the learner, which refuses them, nor in the method, whatever it is handed."""
    applicants, rng = pool(), np.random.default_rng(9)
    rules = LinearRules.random(applicants.features, 20, rng)
    learner, twin = make(spec).start(rules, 4, 1), make(spec).start(rules, 4, 1)
    none, rejected = np.array([[-1, -1]]), 0
    for _ in range(120):
        who = rng.integers(200, size=4)
        decision, other = learner.decide(applicants.features[who]), twin.decide(applicants.features[who])
        assert np.array_equal(decision.accepted, other.accepted)
        truth = applicants.labels[who].astype(float)
        rejected += np.count_nonzero(~decision.accepted)
        if not decision.accepted.all():
            with pytest.raises(ValueError, match="rejected"):
                learner.update(Labels(decision.token, truth))
        turned = np.where(other.accepted, truth, 1 - truth)
        learner.method.learn(learner.state, learner.ledger.find(decision.token), truth[None], none)
        twin.method.learn(twin.state, twin.ledger.find(other.token), turned[None], none)
    assert rejected > 20
    for name, array in learner.state_arrays().items():
        assert np.array_equal(array, twin.state_arrays()[name]), name


def test_probabilities_of_rounds_in_which_nothing_is_random_are_not_supported() -> None:
    people, rng = pool().features[:4], np.random.default_rng(2)
    rules = LinearRules.random(people, 10, rng)
    assert not make("explore-first:rounds=100").start(rules, 4).decide(people).supported
    assert make("exp2:mix=0.5").start(rules, 4).decide(people).supported


def test_without_a_price_auditors_are_ignored() -> None:
    applicants, rng = pool(), np.random.default_rng(10)
    rules = LinearRules.random(applicants.features, 20, rng)
    strict, blind = Panel.random(4, 5, rng, alpha=0.0), Panel.random(4, 5, rng, alpha=1.0)
    one = run(applicants, rules, strict, Exp2(penalty=0.0, eta=0.05), 200, seed=3)
    two = run(applicants, rules, blind, Exp2(penalty=0.0, eta=0.05), 200, seed=3)
    assert np.array_equal(one.treatment, two.treatment)
    assert one.violations.sum() > 0 and two.violations.sum() == 0


def test_the_comparator_is_the_optimum_of_the_whole_program() -> None:
    from scipy.optimize import linprog

    applicants, rng = pool(people=40), np.random.default_rng(14)
    rules, panel = LinearRules.random(applicants.features, 20, rng), Panel.random(4, 5, rng)
    arrivals = applicants.draw(60, 4, rng)
    limits = np.stack([panel.tolerances(applicants.features[row]) for row in arrivals]) + 0.05
    bits = rules.predict(applicants.features)
    found = best_fair(bits, applicants.labels, arrivals, limits, together=7)
    rows, bounds = [], []
    for t, (a, b) in itertools.product(range(60), itertools.permutations(range(4), 2)):
        rows.append((bits[:, arrivals[t, a]] - bits[:, arrivals[t, b]]).astype(float))
        bounds.append(limits[t, a, b])
    errors = np.mean([(bits[:, row] != applicants.labels[row]).mean(axis=1) for row in arrivals], axis=0)
    whole = linprog(errors, A_ub=rows, b_ub=bounds, A_eq=np.ones((1, len(errors))), b_eq=[1.0], bounds=(0, 1))
    assert found.error == pytest.approx(whole.fun, abs=1e-6)
    assert (np.array(rows) @ found.policy <= np.array(bounds) + 2e-6).all()
    assert found.error > errors.min() and found.constraints < len(rows)


def lagrangian_regret(history: Any, applicants: Applicants, bits: Any, policy: Any, price: float) -> np.ndarray:
    """Per round, of the policies that were played against one that is fixed."""
    fixed = (policy @ bits)[history.arrivals]
    truth = applicants.labels[history.arrivals]
    regret = history.errors - np.where(truth == 1, 1 - fixed, fixed).sum(axis=1)
    for t in np.flatnonzero(history.violations):
        a, b = history.reported[t]
        ours = history.treatment[t, a] - history.treatment[t, b]
        regret[t] += price * (ours - fixed[t, a] + fixed[t, b])
    return regret


@pytest.mark.parametrize("penalty", [1.0, 4.0, 16.0])
def test_violations_are_bounded_by_lagrangian_regret(penalty: float) -> None:
    applicants, rng = pool(), np.random.default_rng(15)
    rules, panel, slack, rounds = LinearRules.random(applicants.features, 30, rng), Panel.random(4, 5, rng), 0.05, 400
    bits = rules.predict(applicants.features)
    for method in (Exp2(rounds=rounds, penalty=penalty, eta=0.02), FullInformation(rounds=rounds, penalty=penalty)):
        history = run(applicants, rules, panel, method, rounds, seed=1)
        best = best_fair(bits, applicants.labels, history.arrivals, history.tolerances + panel.alpha - slack)
        regret = lagrangian_regret(history, applicants, bits, best.policy, penalty).sum()
        accuracy = history.errors.sum() - best.error * history.arrivals.size
        count = history.violations.sum()
        assert accuracy + penalty * (slack - 1e-6) * count <= regret + 1e-6
        assert count <= (regret + 4 * rounds) / (penalty * slack) + 1e-6


def test_exp2_stays_within_its_finite_time_bound() -> None:
    applicants, rng = pool(), np.random.default_rng(16)
    rules, panel = LinearRules.random(applicants.features, 30, rng), Panel.random(4, 5, rng, alpha=0.05)
    bits = rules.predict(applicants.features)
    for rounds, penalty in ((100, None), (400, None), (400, 8.0), (1500, None)):
        method = Exp2(rounds=rounds, penalty=penalty)
        bound = method.bound(len(rules), 4)
        assert bound < np.inf
        found = []
        for seed in range(4):
            history = run(applicants, rules, panel, method, rounds, seed)
            price = method.price
            each = [lagrangian_regret(history, applicants, bits, one, price).sum() for one in np.eye(len(rules))]
            found.append(max(each))  # more than the regret against the best in expectation
        assert np.mean(found) <= bound


def test_its_bound_is_infinite_where_no_theorem_speaks() -> None:
    others = Exp2(eta=5.0), Exp2(mix=0.0), Exp2(eta=0.0), Exp2(explore="uniform"), Exp2(explore="john"), NaiveWeights()
    for method in others:
        assert method.bound(100, 4) == np.inf
    eta, mix, k, penalty, rounds = 0.001, 0.1, 4, 2.0, 1000
    expected = np.log(50) / eta + 2 * eta * rounds * (k**2 / 0.9 + penalty**2) + mix * rounds * (k + 2 * penalty)
    assert Exp2(rounds=rounds, penalty=penalty, eta=eta, mix=mix).bound(50, k) == pytest.approx(expected)


def test_people_may_be_changed_while_their_labels_are_awaited() -> None:
    rng = np.random.default_rng(21)
    people = rng.uniform(size=(3, 3))
    learner = make("bank-rule").start(small_rules(rng), 3)
    decision, before = learner.decide(people), people.copy()
    people[...] = 0.0
    assert np.array_equal(learner.ledger.find(decision.token)[0][0], before)


def test_a_prior_is_where_learning_begins() -> None:
    rng = np.random.default_rng(17)
    rules = small_rules(rng)
    prior = np.where(np.arange(len(rules)) == 1, 0.0, 1e6)
    decision = Exp2(eta=1.0, mix=0.0).start(rules, 3, 0, prior=prior).decide(rng.uniform(size=(3, 3)))
    assert decision.treatment.tolist() == [0, 0, 0] and not decision.accepted.any()
    for method in (make("bank-rule"), make("accept-all")):  # which have nothing to begin with
        assert not method.takes_prior
        for begin in (method.start, method.many):
            with pytest.raises(ValueError, match=f"prior: must be None for {method.name}"):
                begin(rules, 3, prior=prior)


def test_exploring_first_is_all_or_nothing_and_has_no_share_of_it() -> None:
    rng = np.random.default_rng(20)
    rules, method = small_rules(rng), ExploreFirst(rounds=30, penalty=2.0)
    assert method.first == 10 and method.rate(len(rules), 3) == pytest.approx(np.sqrt(0.8 * np.log(len(rules))) / 3)
    learner, losses = method.start(rules, 3, seed=2), np.zeros(len(rules))
    for t in range(30):
        people, y = rng.uniform(size=(3, 3)), rng.integers(0, 2, 3)
        decision, bits = learner.decide(people), rules.predict(people).astype(float)
        weights = np.exp(-method.rate(len(rules), 3) * losses)
        wanted = np.ones(3) if t < 10 else weights @ bits / weights.sum()
        assert decision.treatment == pytest.approx(wanted, abs=1e-12)
        learner.update(Labels(decision.token, np.where(decision.accepted, y, np.nan), (2, 1) if t % 4 == 0 else None))
        losses += bits @ (1 - 2 * y) if t < 10 else 0.0
        losses += 2.0 * (bits[:, 2] - bits[:, 1]) if t % 4 == 0 else 0.0
    for name in ("mix=0.1", "explore=john"):
        with pytest.raises(ValueError, match="explore-first has no parameter"):
            make(f"explore-first:{name}")


def test_arrivals_have_the_wanted_good_rate() -> None:
    base = pool(people=500)
    drawn = Applicants(base.features, base.labels, good_rate=0.3).draw(5000, 4, np.random.default_rng(0))
    assert base.labels[drawn].mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 20_000))
    for rate in (0, 1):  # nobody else arrives
        only = Applicants(base.features, base.labels, good_rate=rate).draw(500, 4, np.random.default_rng(0))
        assert (base.labels[only] == rate).all()


def test_a_pool_may_be_lists_and_must_hold_whom_its_good_rate_asks_for() -> None:
    lists = Applicants([[0, 0.5], [1, 0.25]], [True, 0])  # type: ignore[arg-type, list-item]
    assert lists.features.dtype == np.float64 and lists.labels.dtype == np.int64
    for features, labels, rate, message in (
        ([[0.5], [0.5]], [1, 1], 0.5, "good_rate=0.5: must be None for a pool that lacks good or bad people"),
        ([[0.5], [0.5]], [0, 1], 1.5, r"good_rate=1.5: must be a number in \[0, 1\]"),
        ([["a"]], [1], None, "features: must be an array of numbers"),
        ([[0.5]], [None], None, "labels: must be an array of numbers"),
        ([[0.5]], ["good"], None, "labels: must be an array of numbers"),
        (np.empty((0, 2)), [], None, r"features: must have shape \[N, d\] with at least one person"),
        ([0.5], [1], None, "features: must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            Applicants(features, labels, rate)  # type: ignore[arg-type]


def test_bad_input_is_refused_by_name() -> None:
    rng = np.random.default_rng(18)
    rules, ones, accept = small_rules(rng), np.ones((1, 2, 2)), np.ones((2, 3), dtype=np.int8)
    for name, bad in (
        ("offsets", lambda: LinearRules(rules.weights, np.zeros(len(rules)))),
        ("weights", lambda: LinearRules(rules.weights[:, 0], rules.offsets)),
        ("weights", lambda: Panel(np.zeros((0, 3)), np.zeros(0))),
        ("slack", lambda: Panel(np.ones((1, 2)), np.array([2.0]))),
        ("gamma", lambda: Panel(np.ones((1, 2)), np.zeros(1), gamma=0.0)),
        ("alpha", lambda: Panel(np.ones((1, 2)), np.zeros(1), alpha=-0.1)),
        ("distances", lambda: pooled(2 * ones, 0.5)), ("distances", lambda: pooled(ones[:0], 0.5)),
        ("labels", lambda: Applicants(np.zeros((2, 2)), np.array([0, 2]))),
        ("features", lambda: Applicants(np.full((2, 2), 1.5), np.array([0, 1]))),
        ("penalty", lambda: Exp2(penalty=-1.0)), ("mix", lambda: Exp2(mix=1.5)), ("eta", lambda: Exp2(eta=-0.1)),
        ("explore", lambda: Exp2(explore="everything")), ("rounds", lambda: Exp2(rounds=0)),
        ("noise", lambda: ContextSemiBanditFTPL(noise=-1.0)), ("separator", lambda: ContextSemiBanditFTPL(separator=0)),
        ("every", lambda: make("bank-rule:every=0")), ("memory", lambda: make("bank-rule:memory=1")),
        ("limits", lambda: best_fair(accept, np.ones(3, dtype=int), np.array([[0, 1]]), -np.ones((1, 2, 2)))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            bad()
    lopsided = np.zeros((1, 2, 2))
    lopsided[0, 0, 1] = 0.5
    with pytest.warns(UserWarning, match="symmetric"):
        pooled(lopsided, 0.5)
    assert most_unfair(np.array([0.5]), np.zeros((1, 1)), 0.0) is None


def test_real_applicants(data_file: Any) -> None:
    import polars as pl

    from heedful.bandits.admissions import compas_applicants, german_applicants

    german = german_applicants(pl.read_parquet(data_file("german-credit/german.parquet")))
    assert german.features.shape == (1000, 7) and german.labels.mean() == 0.7
    assert german.features[:, -1].mean() == pytest.approx(0.69, abs=0.005)  # men
    defendants = compas_applicants(pl.read_parquet(data_file("compas-deidentified/compas.parquet")))
    assert defendants.features.shape == (6172, 7) and (1 - defendants.features[:, -1]).sum() == 3175
    for people in (german, defendants):
        worth = [np.corrcoef(column, people.labels)[0, 1] for column in people.features[:, [0, -2]].T]
        assert min(worth) > 0  # features are turned so that more is better
