"""Methods that choose one of K actions, against plain ones and their own formulas; lanes and batches against one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from heedful.bandits import (
    EXP3,
    UCB1,
    BatchedEXP3,
    EpsilonGreedy,
    LinTS,
    LinUCB,
    Outcome,
    Reward,
    Rewards,
    RoundRobin,
    Uniform,
    make,
    names,
)
from heedful.bandits.posteriors import chance_of_largest
from heedful.bandits.streams import beta, gamma, normal, streams, uniform, word

ARMS = [*names("arms"), "linucb:shared=true", "lints:shared=true"]
seeds = st.integers(0, 1000)


def world(seed: int, rounds: int, actions: int) -> tuple[np.ndarray, np.ndarray]:
    """Rewards in [0, 1], [rounds, K], and masks."""
    rng = np.random.default_rng(seed)
    masks = rng.random((rounds, actions)) < 0.7
    masks[np.arange(rounds), rng.integers(0, actions, rounds)] = True
    return rng.random((rounds, actions)) * rng.random(actions), masks


# streams


def test_words_are_those_of_xoshiro256_plus_plus() -> None:
    words = np.array([[1, 2, 3, 4]], dtype=np.uint64)
    assert [int(word(words, 0)) for _ in range(4)] == [41943041, 58720359, 3588806011781223, 3591011842654386]


@pytest.mark.parametrize(
    "draw, law",
    [
        (uniform, stats.uniform()),
        (normal, stats.norm()),
        (lambda w, s: gamma(w, s, 1.0), stats.gamma(1.0)),
        (lambda w, s: gamma(w, s, 7.5), stats.gamma(7.5)),
        (lambda w, s: beta(w, s, 1.0, 4.0), stats.beta(1.0, 4.0)),
    ],
    ids=["uniform", "normal", "gamma-1", "gamma-7.5", "beta"],
)
def test_draws_follow_their_laws(draw: Any, law: Any) -> None:
    words = streams([11])
    drawn = [draw(words, 0) for _ in range(20_000)]
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


def test_normals_keep_to_their_law_far_into_the_tails() -> None:
    from numba import njit

    @njit
    def fill(words: Any, out: Any) -> None:
        for i in range(len(out)):
            out[i] = normal(words, 0)

    drawn, words = np.empty(4_000_000), streams([5])
    fill(words, drawn)
    for low, high in ((3.0, 3.6541528853610088), (3.6541528853610088, 4.2), (4.2, np.inf), (0.0, 0.2)):
        chance = stats.norm.sf(low) - stats.norm.sf(high)
        for sign in (1, -1):
            found = np.count_nonzero((sign * drawn > low) & (sign * drawn <= high))
            assert abs(found - len(drawn) * chance) < 4 * np.sqrt(len(drawn) * chance) + 1
    assert abs(drawn.mean()) < 4 / np.sqrt(len(drawn)) and abs((drawn**2).mean() - 1) < 4 * np.sqrt(2 / len(drawn))


def test_streams_of_different_seeds_differ_and_bad_seeds_are_refused() -> None:
    words = streams(range(200))
    assert len({uniform(words, s) for s in range(200)}) == 200
    for bad in ([], [-1], [1.5], [True]):
        with pytest.raises(ValueError, match="seed"):
            streams(bad)


# one, many and batches


@pytest.mark.parametrize("spec", ARMS)
def test_each_lane_makes_the_decisions_of_a_learner_with_its_seed(spec: str) -> None:
    method, rounds, k, d = make(spec), 60, 4, 3
    shape = (k, d) if method.per_action else (d,)
    rng = np.random.default_rng(0)
    contexts, (rewards, masks) = rng.normal(size=(5, rounds, *shape)), world(1, rounds, k)
    lanes = method.many(k, d, seeds=range(5))
    alone = [method.start(k, d, seed) for seed in range(5)]
    for t in range(rounds):
        choices = lanes.decide(contexts[:, t], masks[t])
        ones = [learner.decide(contexts[s, t], masks[t]) for s, learner in enumerate(alone)]
        assert choices.actions.tolist() == [one.action for one in ones]
        if t % 10 == 0:
            assert choices.probability == pytest.approx([one.probability for one in ones], abs=1e-12, nan_ok=True)
        if t % 4 == 3:
            continue  # never told
        lanes.update(Rewards(choices.token, rewards[t][choices.actions]))
        for one, learner in zip(ones, alone):
            learner.update(Reward(one.token, rewards[t][one.action]))
    for name, part in lanes.state._asdict().items():
        assert np.array_equal(part, np.concatenate([getattr(learner.state, name) for learner in alone])), name


@pytest.mark.parametrize("spec", ARMS)
def test_a_batch_is_decided_as_its_rows_one_after_the_other(spec: str) -> None:
    method, rows, k, d = make(spec), 40, 4, 3
    shape = (k, d) if method.per_action else (d,)
    contexts = np.random.default_rng(3).normal(size=(rows, *shape))
    rewards, masks = world(2, rows, k)
    one, two = method.start(k, d, seed=1), method.start(k, d, seed=1)
    for _ in range(2):
        batch = one.decide_batch(rows, contexts, masks)
        singles = [two.decide(contexts[i], masks[i]) for i in range(rows)]
        assert batch.actions.tolist() == [single.action for single in singles]
        assert list(batch.tokens) == [single.token for single in singles]
        assert batch.probability == pytest.approx([s.probability for s in singles], abs=1e-12, nan_ok=True)
        told = [Reward(token, rewards[i][a]) for i, (token, a) in enumerate(zip(batch.tokens, batch.actions.tolist()))]
        one.update(told)
        two.update(told)
    with pytest.raises(ValueError, match="row"):
        one.decide_batch(2, contexts[:2], np.array([[True] * k, [False] * k]))


def test_propensities_of_batches_hold_when_the_actions_that_are_there_change() -> None:
    """``E[1{a} / p] = 1`` for every action that is there, in every round, whatever came before."""
    lanes, n = BatchedEXP3(batch=3, gamma=0.4).many(4, seeds=range(40_000)), 40_000
    masks = np.random.default_rng(0).random((9, 4)) < 0.6
    masks[:, 1] = True
    for mask in masks:
        choices = lanes.decide(feasible=mask)
        assert choices.supported and (choices.probability <= 1).all()
        for action in np.flatnonzero(mask):
            weights = np.where(choices.actions == action, 1 / choices.probability, 0.0)
            assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(n) + 1e-12, (mask, action)
        lanes.update(Rewards(choices.token, np.where(choices.actions == 2, 0.9, 0.1)))


@pytest.mark.parametrize("token", [True, 1.0, "1", None])
def test_feedback_of_another_kind_is_refused(token: Any) -> None:
    learner = UCB1().start(3)
    first = learner.decide()
    learner.decide()
    for bad in (Reward(token, 0.5), Reward(first.token, "0.5"), Outcome(first.token, 0.5, 0.0, 0.5)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"token|must be a Reward"):
            learner.update(bad)  # type: ignore[arg-type]
    assert learner.counts.pending == 2


def test_lanes_refuse_rewards_of_another_shape_or_range() -> None:
    lanes = EXP3().many(3, seeds=range(2))
    token = lanes.decide().token
    for bad in (np.zeros(3), np.array([0.0, np.nan]), np.array([0.0, 1.5]), None, np.array(["a", "b"])):
        with pytest.raises(ValueError, match="rewards"):
            lanes.update(Rewards(token, bad))
    with pytest.raises(ValueError, match="in row 1"):
        LinUCB().many(2, 1, seeds=range(2)).decide(np.array([[0.0], [np.nan]]))


# against plain ones


@settings(max_examples=25)
@given(seed=seeds, scale=st.sampled_from([0.0, 0.5, 1.0]))
def test_ucb1_equals_a_plain_one(seed: int, scale: float) -> None:
    rewards, masks = world(seed, 80, 4)
    learner, got = UCB1(scale).start(4), [[] for _ in range(4)]
    for t in range(80):
        arms = [k for k in range(4) if masks[t][k]]
        new = [k for k in arms if not got[k]]
        index = {k: np.mean(got[k]) + scale * math.sqrt(2 * math.log(t) / len(got[k])) for k in arms if got[k]}
        choice = learner.decide(feasible=masks[t])
        if new:
            assert choice.action == new[0]
        else:
            assert index[choice.action] >= max(index.values()) - 1e-12
        assert (choice.probability, choice.supported) == (1.0, False)
        got[choice.action].append(rewards[t][choice.action])
        learner.update(Reward(choice.token, rewards[t][choice.action]))


def test_untold_actions_are_spread_while_feedback_is_late() -> None:
    for method in (UCB1(), EpsilonGreedy(0.0)):
        learner = method.start(3)
        assert [learner.decide().action for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_takes_turns_and_skips_what_is_not_feasible() -> None:
    learner = RoundRobin().start(3)
    masks = [[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert [learner.decide(feasible=np.array(mask, dtype=bool)).action for mask in masks] == [0, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("method", [Uniform(), EpsilonGreedy(0.4), EXP3(0.3), make("thompson")], ids=str)
def test_stated_probabilities_are_the_frequencies(method: Any) -> None:
    learner, mask = method.start(4, seed=5), np.array([True, False, True, True])
    for k, reward in ((0, 0.2), (2, 0.9), (3, 0.4)):
        only = np.arange(4) == k
        for _ in range(6):
            learner.update(Reward(learner.decide(feasible=only).token, reward))
    n = 40_000
    batch = learner.decide_batch(n, feasible=mask)
    counts = np.bincount(batch.actions, minlength=4)
    if callable(batch.chances):  # an integral per row: one row of each action is enough
        family, draws = batch.chances.args[:2]
        stated = dict(zip((0, 2, 3), chance_of_largest(family, draws[:, :3], mask[None], [0, 2, 3])))
    else:
        stated = dict(zip(batch.actions.tolist(), batch.probability.tolist()))
    assert set(stated) == {0, 2, 3} and sum(stated.values()) == pytest.approx(1, abs=1e-9)
    for action, chance in stated.items():
        assert abs(counts[action] / n - chance) < 4 * math.sqrt(chance * (1 - chance) / n)


@settings(max_examples=40)
@given(data=st.data(), k=st.integers(1, 6), family=st.sampled_from(["normal", "beta"]))
def test_chances_of_being_the_largest_sum_to_one(data: Any, k: int, family: Any) -> None:
    low, high = (-3.0, 3.0) if family == "normal" else (1.0, 3000.0)
    first = data.draw(st.lists(st.floats(low, high), min_size=k, max_size=k))
    second = data.draw(st.lists(st.floats(0.001 if family == "normal" else 1.0, high), min_size=k, max_size=k))
    draws = np.tile(np.array([first, second])[:, None], (1, k, 1))
    chances = chance_of_largest(family, draws, np.ones((1, k), dtype=bool), np.arange(k))
    assert ((chances >= 0) & (chances <= 1)).all()
    assert chances.sum() == pytest.approx(1.0, abs=1e-8)


def test_the_larger_of_two_normals_and_of_two_betas_by_their_closed_forms() -> None:
    both, two = np.ones((1, 2), dtype=bool), np.array([[[0.3, 0.1]], [[0.2, 0.5]]])
    known = stats.norm.cdf(0.2 / math.hypot(0.2, 0.5))
    assert chance_of_largest("normal", two, both, 0)[0] == pytest.approx(known, abs=1e-10)
    two = np.array([[[1.0, 3.0]], [[1.0, 1.0]]])  # a uniform number against the largest of three: 1/4
    assert chance_of_largest("beta", two, both, 0)[0] == pytest.approx(0.25, abs=1e-10)


@settings(max_examples=20)
@given(seed=seeds, shared=st.booleans())
def test_linucb_equals_a_plain_one(seed: int, shared: bool) -> None:
    rng, k, d = np.random.default_rng(seed), 3, 4
    learner = LinUCB(alpha=0.7, ridge=0.5, shared=shared).start(k, d)
    models = 1 if shared else k
    gram, total = np.stack([0.5 * np.eye(d)] * models), np.zeros((models, d))
    for _ in range(40):
        context = rng.normal(size=(k, d) if shared else d)
        index = []
        for arm in range(k):
            m, x = (0, context[arm]) if shared else (arm, context)
            index.append(x @ np.linalg.solve(gram[m], total[m]) + 0.7 * math.sqrt(x @ np.linalg.solve(gram[m], x)))
        choice = learner.decide(context)
        assert index[choice.action] >= max(index) - 1e-9
        reward = rng.normal()
        m, x = (0, context[choice.action]) if shared else (choice.action, context)
        gram[m] += np.outer(x, x)
        total[m] += reward * x
        learner.update(Reward(choice.token, reward))


@pytest.mark.parametrize("spec", ["linucb", "lints", "linucb:shared=true"])
def test_contexts_too_large_to_be_squared_are_refused_and_not_taken_for_certain(spec: str) -> None:
    method = make(spec)
    learner = method.start(2, 2)
    context = np.full((2, 2) if method.per_action else 2, 1e160)
    with pytest.raises(ValueError, match="too large to be summed"):
        learner.decide(context)
    assert learner.counts.decided == 0


def test_an_action_set_of_another_size_is_chosen_from_every_round() -> None:
    for method in (LinUCB(shared=True), LinTS(shared=True)):
        learner = method.start(2, 3)
        for k in (5, 1, 2, 9):
            choice = learner.decide(np.eye(9)[:k, :3] + 1.0)
            assert 0 <= choice.action < k
            learner.update(Reward(choice.token, 1.0))


@pytest.mark.parametrize("d", [2, 6])
def test_shared_lints_draws_from_its_posterior(d: int, square: Any) -> None:
    learner = LinTS(scale=0.8, shared=True).start(2, d, seed=3)
    rows = np.zeros((2, d))
    rows[:, :2], rows[1, d - 1] = [[1.0, 0.0], [0.4, 0.3]], 0.3
    for reward in (0.3, 0.1, 0.6):
        learner.update(Reward(learner.decide(rows).token, reward))
    gap = rows[0] - rows[1]
    inverse, estimate = square(learner.state.inverse[0, 0])[:d, :d], learner.state.estimate[0, 0, :d]
    chance = stats.norm.cdf(gap @ estimate / (0.8 * math.sqrt(gap @ inverse @ gap)))
    n = 20_000
    batch = learner.decide_batch(n, np.broadcast_to(rows, (n, 2, d)))
    assert abs((batch.actions == 0).mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / n)
    assert not batch.supported


def test_exp3_keeps_its_regret_bound_against_the_best_action() -> None:
    rounds, k = 2000, 4
    gamma_ = min(1.0, math.sqrt(k * math.log(k) / ((math.e - 1) * rounds)))
    rewards = (np.random.default_rng(0).random((rounds, k)) < [0.3, 0.5, 0.4, 0.7]).astype(float)
    lanes = EXP3(gamma_).many(k, seeds=range(20))
    got = np.zeros(20)
    for t in range(rounds):
        choices = lanes.decide()
        got += rewards[t][choices.actions]
        lanes.update(Rewards(choices.token, rewards[t][choices.actions]))
    best = rewards.sum(axis=0).max()
    assert best - got.mean() <= 2.63 * math.sqrt(rounds * k * math.log(k))


# what others decided

OWN = {
    "ar2": {"triggered"},  # whose turn comes is worked out while deciding
    "batched-exp3": {"held", "drawn"},  # a batch of its own, which what others decided does not touch
    "round-robin": {"following"},  # a fixed order, whatever others did
}
"""Parts of a state that a log says nothing about, beside random streams."""


@pytest.mark.parametrize("spec", ARMS)
def test_learning_from_a_log_leaves_the_state_of_having_decided_it(spec: str) -> None:
    method, rounds, k, d = make(spec), 60, 4, 3
    shape = (k, d) if method.per_action else (d,)
    rng = np.random.default_rng(7)
    contexts, rewards, actions = rng.normal(size=(rounds, *shape)), rng.random(rounds), rng.integers(0, k, rounds)
    own, told = method.start(k, d, seed=1), method.start(k, d, seed=1)
    chance = 0.3 if not method.randomised else 1.0  # own learns from a probability of 1: nothing else is feasible
    for t in range(rounds):
        choice = own.decide(contexts[t], np.arange(k) == actions[t])  # nothing else is feasible
        own.update(Reward(choice.token, rewards[t]))
        told.learn_logged(actions[t], rewards[t], chance, contexts[t])
    parts = set(told.state._fields) - {"words"} - OWN.get(method.name, set())
    assert parts or method.name in ("uniform", "round-robin")
    for name in parts:
        assert np.array_equal(getattr(told.state, name), getattr(own.state, name)), name
    masks = world(3, rounds, k)[1]
    for t in range(rounds):
        choice = told.decide(contexts[t], masks[t])
        assert 0 <= choice.action < k and masks[t][choice.action]
        assert method.randomised or choice.probability == 1.0
        told.update(Reward(choice.token, rewards[t]))
    batch = told.decide_batch(rounds, contexts, masks)
    assert masks[np.arange(rounds), batch.actions].all()


def test_ucb1_counts_what_others_decided_among_the_plays() -> None:
    learner, k = UCB1().start(3), 3
    got: list[list[float]] = [[] for _ in range(k)]
    rewards = (np.random.default_rng(0).random((300, k)) < [0.5, 0.45, 0.55]).astype(float)
    for t in range(150):
        action = (0, 0, 0, 1, 2)[t % 5]
        learner.learn_logged(action, rewards[t, action])
        got[action].append(rewards[t, action])
    for t in range(150, 300):
        index = [np.mean(got[a]) + math.sqrt(2 * math.log(t) / len(got[a])) for a in range(k)]
        choice = learner.decide()
        assert index[choice.action] >= max(index) - 1e-12
        got[choice.action].append(rewards[t, choice.action])
        learner.update(Reward(choice.token, rewards[t, choice.action]))
    assert min(map(len, got)) > 40


@pytest.mark.parametrize("spec", ["ucb1", "sliding-window-ucb", "gaussian-thompson"])
def test_no_action_is_made_up_where_no_index_is_a_number(spec: str) -> None:
    learner = make(spec).start(2)
    for action in (0, 1):
        learner.update(Reward(learner.decide(feasible=np.arange(2) == action).token, 1e308))
    for sums in learner.state:
        if sums.dtype == np.float64:
            sums[...] = np.nan  # as infinity less infinity is
    before = learner.state.plays.copy() if hasattr(learner.state, "plays") else None
    with pytest.raises(ValueError, match="too large to be summed"):
        learner.decide()
    with pytest.raises(ValueError, match="in row 0"):
        learner.decide_batch(3)
    assert before is None or np.array_equal(before, learner.state.plays)


# names and parameters


@pytest.mark.parametrize(
    "spec, message",
    [
        ("ucb2", "did you mean 'ucb1'"),
        ("linucb:beta=1", "no parameter 'beta'; it has: alpha, ridge, shared"),
        ("linucb:alpha=x", "alpha=x: must be a number"),
        ("linucb:alpha=1,alpha=2", "once"),
        ("linucb:shared=1", "must be true or false"),
        ("linucb:alpha", "give alpha once"),
        ("linucb:ridge=0", r"ridge=0.0: must be a number in \(0, inf\)"),
        ("linucb:alpha=nan", "alpha=nan"),
        ("epsilon-greedy:epsilon=1.5", r"epsilon=1.5: must be a number in \[0, 1\]"),
        ("exp3:gamma=0", r"gamma=0.0: must be a number in \(0, 1\]"),
        ("ucb1:scale=-1", "scale=-1"),
        ("thompson:a=1", "it has: none"),
        ("exp2:explore=foo", r"explore=foo: must be accept-all, uniform or john"),
        ("ofs:scale=foo", r"scale=foo: must be a number"),
        ("dynlin-ucb:rho=1", r"rho=1.0: must be a number in \[0, 1\)"),
        ("d-linucb:gamma=1", r"gamma=1.0: must be a number in \(0, 1\)"),
    ],
)
def test_bad_descriptions_are_refused_in_the_users_words(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)


def test_numbers_of_actions_and_features_are_checked() -> None:
    for call in (lambda: UCB1().start(0), lambda: LinUCB().start(2), lambda: UCB1().start(2.0)):
        with pytest.raises(ValueError, match=r"actions|features"):
            call()
