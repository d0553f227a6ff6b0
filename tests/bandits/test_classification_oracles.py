"""Optimisers over classes of rules, and FTPL that knows its rules through them alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits import (
    ClassificationOracle,
    ContextSemiBanditFTPL,
    ExhaustiveOracle,
    Exp2,
    Labels,
    LinearOracle,
    LinearRules,
    Panel,
    StumpOracle,
)
from heedful.bandits.admissions import Applicants, run
from heedful.bandits.context_semi_bandit_ftpl import Costs

ORACLES = ("exhaustive", "stumps", "linear")


def pool(seed: int = 0, people: int = 60) -> Applicants:
    rng = np.random.default_rng(seed)
    features = rng.uniform(size=(people, 3)).round(1)
    return Applicants(features, (rng.uniform(size=people) < 0.2 + 0.6 * features[:, 0]).astype(int))


def oracle_of(name: str, people: np.ndarray) -> ClassificationOracle:
    if name == "exhaustive":
        return ExhaustiveOracle(people, LinearRules.random(people, 10, np.random.default_rng(1)))
    return StumpOracle(people) if name == "stumps" else LinearOracle(people)


def every_stump(people: np.ndarray) -> list[np.ndarray]:
    """What all stumps and constants say of the people, written plainly."""
    said = [np.ones(len(people), dtype=bool), np.zeros(len(people), dtype=bool)]
    for column in people.T:
        for value in column:
            said += [column >= value, column <= value]
    return said


@settings(max_examples=80)
@given(data=st.data(), people=st.integers(1, 12), features=st.integers(1, 3))
def test_stumps_are_exact(data: st.DataObject, people: int, features: int) -> None:
    level = st.integers(0, 4).map(lambda i: i / 4)  # few levels, so that people share values
    x = np.array(data.draw(st.lists(level, min_size=people * features, max_size=people * features)))
    x = x.reshape(people, features)
    w = np.array(data.draw(st.lists(st.integers(-8, 8), min_size=3 * people, max_size=3 * people)), dtype=float)
    w = w.reshape(3, people)
    found = StumpOracle(x).fit(x, w).predict(x)
    for row, said in zip(w, found):
        assert row @ said == min(row[accepted].sum() for accepted in every_stump(x))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_stumps_find_what_looking_through_all_stumps_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.uniform(size=(20, 3)).round(1), rng.normal(size=(5, 20))
    rules = LinearRules.stumps(x)
    says = {tuple(row) for row in rules.predict(x)}
    assert says == {tuple(row.astype(int)) for row in every_stump(x)}
    one, other = StumpOracle(x).fit(x, w), ExhaustiveOracle(x, rules).fit(x, w)
    assert np.array_equal(one.predict(x), other.predict(x))


def test_all_stumps_on_a_separator_with_one_more_person_than_it_knows() -> None:
    x = np.array([[0.0], [1.0]])
    found = StumpOracle(x).fit(x, [1.0, -3.0])
    assert found.predict(np.array([[0.0], [0.4], [1.0], [2.0]])).tolist() == [[0, 0, 1, 1]]
    assert StumpOracle(x).fit(x, [-3.0, 1.0]).predict(np.array([[-1.0], [0.0], [0.4]])).tolist() == [[1, 1, 0]]


def test_of_rules_that_cost_the_same_accepting_all_comes_first() -> None:
    people = pool().features
    for name in ORACLES:
        found = oracle_of(name, people).fit(people, np.zeros(len(people)))
        assert found.predict(people).all(), name


def test_the_linear_surrogate_separates_what_can_be_separated_and_never_loses_to_constants() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(200, 3))
    w = np.where(x @ [1.0, 2.0, -1.0] > 0.9, -1.0, 1.0)
    assert w @ LinearOracle(x, ridge=1e-4).fit(x, w).predict(x)[0] <= -0.97 * (w < 0).sum()
    rows = rng.normal(size=(60, 200))
    costs = (rows * LinearOracle(x).fit(x, rows).predict(x)).sum(axis=1)
    assert (costs <= np.minimum(0.0, rows.sum(axis=1)) + 1e-9).all()
    assert LinearOracle(x).fit(x, np.ones(200)).predict(x).sum() == 0  # nobody is worth accepting


@pytest.mark.parametrize("name", ORACLES)
def test_costs_by_person_are_the_losses_of_rules(name: str) -> None:
    applicants, rng = pool(), np.random.default_rng(3)
    oracle = oracle_of(name, applicants.features[:20])  # the others are unknown at first
    costs, rules = Costs(oracle), LinearRules.stumps(applicants.features)
    losses = np.zeros(len(rules))
    for _ in range(50):
        people, charged = applicants.features[rng.integers(60, size=4)], rng.integers(-2, 3, size=4).astype(float)
        costs.add(people, charged)
        losses += rules.predict(people) @ charged
    assert rules.predict(costs.people) @ costs.costs == pytest.approx(losses, abs=1e-9)
    assert len(np.unique(costs.people[20:], axis=0)) == len(costs.people) - 20  # nobody is kept twice
    if name == "stumps":
        assert costs.leaders(np.zeros((1, 20))).predict(costs.people)[0] @ costs.costs == pytest.approx(losses.min())


def combined(people: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Everybody once, in the order of arrival, with the sum of their costs."""
    _, first, place = np.unique(people, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return people[first[order]], np.bincount(place.ravel(), costs)[order]


@pytest.mark.parametrize("name", ORACLES)
def test_without_noise_ftpl_follows_the_leader_of_every_optimiser(name: str) -> None:
    applicants, rng = pool(), np.random.default_rng(4)
    oracle = oracle_of(name, applicants.features)
    learner = ContextSemiBanditFTPL(noise=0.0, penalty=2.0, draws=3).start(oracle, 3, 0)
    seen, costs = [applicants.features], [np.zeros(60)]
    for t in range(25):
        who = rng.integers(60, size=3)
        people, labels = applicants.features[who], applicants.labels[who].astype(float)
        leader = oracle.fit(*combined(np.concatenate(seen), np.concatenate(costs)))
        decision = learner.decide(people)
        assert np.array_equal(decision.accepted, leader.predict(people)[0] == 1)
        assert np.array_equal(decision.treatment, decision.accepted)
        pair = (0, 2) if t % 4 == 1 else None
        learner.update(Labels(decision.token, np.where(decision.accepted, labels, np.nan), pair))
        seen.append(people)
        costs.append(np.where(decision.accepted, 1 - 2 * labels, 0.0) + (2.0 * np.array([1, 0, -1]) if pair else 0.0))


@pytest.mark.parametrize("name", ORACLES)
def test_geometric_resampling_through_an_optimiser_estimates_the_inverse_within_its_bias(name: str) -> None:
    people = pool().features[:12]
    oracle, rounds = oracle_of(name, people), 1500 if name != "linear" else 40
    for most in (2, 30):
        method = ContextSemiBanditFTPL(noise=2.0, resamples=most, draws=1)
        learner = method.start(oracle, 2, seed=5)
        asked = 4000 if name != "linear" else 300
        says = method._say(learner.state, 0, asked, np.empty((0, 2), np.int8), people[:2])
        found: list[list[float]] = [[], []]
        for _ in range(rounds):
            decision = learner.decide(people[:2])
            _, _, accepted, inverse = learner.ledger.find(decision.token)  # type: ignore[misc]
            for i in np.flatnonzero(accepted[0]):
                found[i].append(inverse[0, i])
        for i in (0, 1):
            q = says[:, i].mean()
            assert 0.1 < q < 0.9
            noise = 4 * np.std(found[i], ddof=1) / np.sqrt(len(found[i]))
            error = noise + 4 * np.sqrt((1 - q) / (q**3 * len(says)))  # of J, and of 1/q for an estimated q
            assert np.mean(found[i]) == pytest.approx((1 - (1 - q) ** most) / q, abs=error)
            assert 1 / q - (1 - q) ** most / q - error <= np.mean(found[i]) <= 1 / q + error


@pytest.mark.parametrize("name", ORACLES)
def test_labels_of_the_rejected_have_no_influence_on_costs(name: str) -> None:
    applicants, rng = pool(), np.random.default_rng(6)
    method = ContextSemiBanditFTPL(rounds=30, noise=1.0, draws=3)
    learner, twin = (method.start(oracle_of(name, applicants.features), 4, 1) for _ in range(2))
    turned, pair = 0, np.array([[0, 1]])
    for _ in range(30):
        who = rng.integers(60, size=4)
        decision, other = learner.decide(applicants.features[who]), twin.decide(applicants.features[who])
        truth = applicants.labels[who].astype(float)
        assert np.array_equal(decision.accepted, other.accepted)
        turned += (~other.accepted).sum()
        known = np.where(other.accepted, truth, 1 - truth)  # more than any learner is handed
        method.learn(learner.state, learner.ledger.find(decision.token), truth[None], pair)  # type: ignore[arg-type]
        method.learn(twin.state, twin.ledger.find(other.token), known[None], pair)  # type: ignore[arg-type]
    assert turned > 0
    for key, array in learner.state_arrays().items():
        assert np.array_equal(array, twin.state_arrays()[key]), key


def test_ftpl_with_stumps_is_ftpl_that_looks_through_all_stumps() -> None:
    applicants, rng = pool(), np.random.default_rng(7)
    panel, rules = Panel.random(3, 3, rng), LinearRules.stumps(applicants.features)
    method = ContextSemiBanditFTPL(rounds=150, noise=3.0, draws=10, penalty=4.0)
    one, other = (
        run(applicants, oracle, panel, method, 150, seed=2)
        for oracle in (StumpOracle(applicants.features), ExhaustiveOracle(applicants.features, rules))
    )
    for name, found, expected in zip(one._fields, one, other):
        assert np.array_equal(found, expected), name
    assert one.violations.any() and 0 < one.accepted.mean() < 1


def test_looking_through_a_list_is_the_optimiser_over_that_list() -> None:
    """The learner that keeps losses of rules, and the one that keeps costs of people, on the same perturbations."""
    applicants, rng = pool(), np.random.default_rng(8)
    rules = LinearRules.random(applicants.features, 12, rng)
    method = ContextSemiBanditFTPL(noise=2.0, draws=5)
    listed = method.start(rules, 3, 0)
    oracle = ExhaustiveOracle(applicants.features, rules)
    asked = method.start(oracle, 3, 0)
    everybody = rules.predict(applicants.features).T.astype(float)
    listed.state = listed.state._replace(separator=everybody[None], points=np.array([len(everybody)]))
    asked.state.rngs[0].bit_generator.state = listed.state.rngs[0].bit_generator.state  # after drawing a separator
    for _ in range(60):
        who = rng.integers(60, size=3)
        one, other = listed.decide(applicants.features[who]), asked.decide(applicants.features[who])
        assert np.array_equal(one.accepted, other.accepted) and np.array_equal(one.treatment, other.treatment)
        for learner, decision in ((listed, one), (asked, other)):
            labels = np.where(decision.accepted, applicants.labels[who].astype(float), np.nan)
            learner.update(Labels(decision.token, labels, (0, 2)))
    assert listed.state.calls == asked.state.calls


@pytest.mark.parametrize("name", ORACLES)
def test_a_loaded_learner_goes_on_as_the_one_saved(name: str, tmp_path: Any) -> None:
    applicants = pool()
    method = ContextSemiBanditFTPL(noise=1.0, draws=3)

    def play(learner: Any, rounds: range) -> list[Any]:
        out = []
        for t in rounds:
            who = np.random.default_rng(t).integers(60, size=2)
            decision = learner.decide(applicants.features[who])
            out.append((decision.accepted.tolist(), decision.treatment.tolist()))
            learner.update(Labels(decision.token, np.where(decision.accepted, applicants.labels[who], np.nan), (0, 1)))
        return out

    learner = method.start(oracle_of(name, applicants.features[:10]), 2, seed=1, max_pending=5)
    play(learner, range(10))
    learner.save(tmp_path / "learner")
    other = method.start(oracle_of(name, applicants.features[:10]), 2, seed=2, max_pending=5)
    other.load(tmp_path / "learner")
    assert play(other, range(10, 25)) == play(learner, range(10, 25))
    with pytest.raises(ValueError, match="was saved by"):
        method.start(oracle_of(name, applicants.features[:9]), 2).load(tmp_path / "learner")
    for bad in ({"people": np.zeros((2, 9))}, {"sizes": np.array([1, 2])}, {"sizes": np.array([3])}):
        with pytest.raises(ValueError, match="people"):
            other.set_state_arrays(learner.state_arrays() | bad)


@pytest.mark.parametrize("name", ORACLES)
def test_lanes_through_an_optimiser_decide_as_learners_of_their_seeds(name: str, tmp_path: Any) -> None:
    applicants, rng = pool(), np.random.default_rng(4)
    method, oracle = ContextSemiBanditFTPL(noise=1.0, draws=3), oracle_of(name, applicants.features[:10])
    lanes, singles = method.many(oracle, 2, seeds=range(3)), [method.start(oracle, 2, seed) for seed in range(3)]
    for t in range(20):
        who = rng.integers(60, size=(3, 2))
        several = lanes.decide(applicants.features[who])
        each = [one.decide(applicants.features[row]) for one, row in zip(singles, who)]
        assert several.accepted.tolist() == [one.accepted.tolist() for one in each]
        assert several.treatment.tolist() == [one.treatment.tolist() for one in each]
        labels, pairs = np.where(several.accepted, applicants.labels[who], np.nan), [(0, 1), None, (1, 0)]
        lanes.update(Labels(several.token, labels, pairs))
        for one, decision, row, pair in zip(singles, each, labels, pairs):
            one.update(Labels(decision.token, row, pair))
        if t == 10:
            lanes.save(tmp_path / "lanes")
            lanes = method.many(oracle, 2, seeds=range(5, 8))
            lanes.load(tmp_path / "lanes")
    assert lanes.state.calls.tolist() == [int(one.state.calls[0]) for one in singles]
    last = lanes.decide(applicants.features[who])
    token, labels = last.token, np.where(last.accepted, 1.0, np.nan)
    for pair in ((0, 1), [None], [None, None, (0, 0)], [None, (0, 2), None]):
        with pytest.raises(ValueError, match="reported"):
            lanes.update(Labels(token, labels, pair))
    with pytest.raises(ValueError, match="labels: must be 3 x 2 numbers"):
        lanes.update(Labels(token, np.ones(2)))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    eta=st.floats(0, 50),
    mix=st.floats(0.01, 1),
    explore=st.sampled_from(["accept-all", "uniform"]),
)
def test_nobody_is_accepted_with_probability_0(seed: int, eta: float, mix: float, explore: Any) -> None:
    rng = np.random.default_rng(seed)
    applicants = pool()
    rules = LinearRules.random(applicants.features, 8, rng)
    learner = Exp2(eta=eta, mix=mix, explore=explore).start(rules, 4, seed, prior=rng.uniform(0, 1e4, len(rules)))
    for _ in range(5):
        people = applicants.features[rng.integers(60, size=4)]
        decision = learner.decide(people)
        share = 1.0 if explore == "accept-all" else rules.predict(people).mean(axis=0)
        assert (decision.treatment >= mix * share * (1 - 1e-12)).all()
        assert (decision.treatment[decision.accepted] > 0).all()
        learner.update(Labels(decision.token, np.where(decision.accepted, 1.0, np.nan)))


def test_a_method_that_accepts_with_probability_0_is_stopped() -> None:
    class Careless(Exp2):
        def act(self, state: Any, bits: Any, people: Any) -> Any:
            treatment, accepted, inverse = super().act(state, bits, people)
            return np.where(np.arange(treatment.shape[1]) == 1, 0.0, treatment), accepted, inverse

    people = pool().features[:3]
    learner = Careless(mix=1.0).start(LinearRules.random(people, 4, np.random.default_rng(0)), 3)
    with pytest.raises(ValueError, match=r"treatment.*above 0"):
        learner.decide(people)
    assert learner.counts.decided == 0


def test_bad_input_is_refused_by_name() -> None:
    people = pool().features
    stumps, rules = StumpOracle(people), LinearRules.stumps(people)
    for name, bad in (
        ("separator", lambda: StumpOracle(people[0])), ("separator", lambda: StumpOracle(people[:0])),
        ("separator", lambda: StumpOracle(np.full((2, 2), np.nan))), ("ridge", lambda: LinearOracle(people, ridge=0.0)),
        ("rules", lambda: ExhaustiveOracle(people[:, :2], rules)),
        ("separator: must be an array", lambda: StumpOracle([[0.0], [0.0, 1.0]])),  # type: ignore[arg-type]
        ("contexts: must be an array", lambda: stumps.fit([[0.0], [0.0, 1.0]], [0.0])),
        ("weights: must be an array", lambda: stumps.fit(people[:1], ["a"])),
        ("contexts", lambda: stumps.fit(people[:, :2], np.zeros(60))), ("contexts", lambda: stumps.fit(people[:0], [])),
        ("contexts", lambda: stumps.fit(np.full((1, 3), np.inf), [0.0])),
        ("weights", lambda: stumps.fit(people, np.zeros(59))), ("weights", lambda: stumps.fit(people[:1], [np.nan])),
        ("rules", lambda: Exp2().start(stumps, 3)),
        ("prior", lambda: ContextSemiBanditFTPL().start(stumps, 3, prior=[0.0])),
        ("people", lambda: ContextSemiBanditFTPL().start(stumps, 0)),
        ("seed", lambda: ContextSemiBanditFTPL().start(stumps, 3, seed=-1)),
        ("people", lambda: ContextSemiBanditFTPL().start(stumps, 3).decide(people[:3, :2])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            bad()


def test_brute_force_agrees_on_every_labelling_of_four_people() -> None:
    x = np.array([[0.0, 1.0], [0.5, 0.5], [0.5, 0.0], [1.0, 0.5]])
    weights = np.array(list(itertools.product((-1.0, 1.0), repeat=4)))
    found = (weights * StumpOracle(x).fit(x, weights).predict(x)).sum(axis=1)
    assert found.tolist() == [min(row[accepted].sum() for accepted in every_stump(x)) for row in weights]
