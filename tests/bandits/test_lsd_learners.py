"""Learners of last-switch-dependent bandits: what they hope for, how they explore, and late feedback."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from lsd_states import made, payoff, step

from heedful.bandits import BlockUCB, LSDExploreCommit, LSDOptimistic, Payoffs, Reward, Rewards, SlidingWindowUCB
from heedful.bandits.lsd_explore import one_set


def played(method: Any, payoffs: Payoffs, rounds: int, seed: int) -> float:
    """The mean payoff of rounds that go through decide and update."""
    learner, rng, total = method.start(payoffs.arms, payoffs.window, seed), np.random.default_rng(seed), 0.0
    for _ in range(rounds):
        turn = learner.decide()
        if turn.arm >= 0:
            mean = payoff(payoffs, turn.arm, turn.state)
            total += mean
            learner.update(Reward(turn.token, float(rng.random() < mean)))
    return total / rounds


@pytest.mark.parametrize("method", [
    LSDOptimistic(horizon=4000, scale=0.3), LSDExploreCommit(horizon=4000), BlockUCB("comb"), BlockUCB("isi"),
    BlockUCB("calibrated"),
])  # fmt: skip
def test_deciding_and_whole_runs_earn_alike_and_seeds_fix_them(method: Any) -> None:
    payoffs = made("rand", 3, 3, 1)
    first = method.run(payoffs, [2000, 4000], 5)
    assert np.array_equal(first, method.run(payoffs, [2000, 4000], 5)) and 0 < first[0] < first[1]
    several = [method.run(payoffs, [4000], seed)[-1] / 4000 for seed in range(5)]
    one = np.mean([played(method, payoffs, 4000, seed) for seed in range(2)])
    assert abs(np.mean(several) - one) < 0.05


def test_turns_say_the_states_that_their_plays_lead_to() -> None:
    learner, tau = LSDOptimistic(horizon=500, scale=0.2).start(3, 4, seed=2), [4, 4, 4]
    for _ in range(500):
        turn = learner.decide()
        if turn.arm >= 0:
            expected = tau[turn.arm]
            assert turn.state == max(-4, min(4, expected))
            learner.update(Reward(turn.token, 0.5))
        tau = step(tau, turn.arm)


def test_hopes_are_the_written_bounds_and_never_fall() -> None:
    method = LSDOptimistic(horizon=3000)
    learner, rng = method.start(3, 3, seed=0), np.random.default_rng(0)
    for _ in range(800):
        turn = learner.decide()
        learner.update(Reward(turn.token, float(rng.random() < 0.5)))
    counts, sums = learner.state.counts[0], learner.state.sums[0]
    for i in range(3):
        bounds = [
            1.0 if n == 0 else min(1.0, total / n + math.sqrt(2 * math.log(3000) / n))
            for n, total in zip(counts[i], sums[i])
        ]
        assert np.allclose(method.hopes(learner.state).table[i], [min(bounds[q:]) for q in range(6)])


@pytest.mark.parametrize(("shape", "first"), [("monotone", 0), ("half-monotone", 3), ("any", 6)])
def test_learners_put_in_order_only_what_has_one(shape: Any, first: int) -> None:
    optimist, explorer = LSDOptimistic(shape=shape), LSDExploreCommit(shape=shape)
    state, rng = optimist.begin(2, 3, [0]), np.random.default_rng(3)
    state.counts[:], state.sums[:] = 400, 400 * rng.random((1, 2, 6))
    means = state.sums[0] / 400
    width = math.sqrt(2 * math.log(10_000) / 400)
    for i in range(2):
        bounds = np.minimum(1.0, means[i] + width)
        expected = [bounds[q] if q < first else min(bounds[q:]) for q in range(6)]
        assert np.allclose(optimist.hopes(state).table[i], expected)
        fitted = explorer.estimates(state).table[i]
        assert np.allclose(fitted[:first], means[i, :first]) and (np.diff(fitted[first:]) >= 0).all()
        assert fitted[first:].sum() == pytest.approx(means[i, first:].sum())


@pytest.mark.parametrize("late", [1, 30])
def test_exploration_goes_on_until_its_feedback_is_there(late: int) -> None:
    payoffs, method = made("rand", 3, 2, 4), LSDExploreCommit(horizon=400)
    rounds, rng = method.exploration(3, 2), np.random.default_rng(0)
    learner, lanes, waiting, arms = method.start(3, 2, seed=1), method.many(3, 2, seeds=[0, 1]), [], []
    for now in range(400):
        turn, turns = learner.decide(), lanes.decide()
        assert turns.arms[1] == turn.arm  # lane 1 is the learner of seed 1
        arms.append(turn.arm)
        reward = float(rng.random() < payoff(payoffs, turn.arm, turn.state)) if turn.arm >= 0 else 0.0
        waiting.append((Reward(turn.token, reward), Rewards(turns.token, np.array([0.0, reward]))))
        if now >= late:
            one, both = waiting[now - late]
            learner.update(one)
            lanes.update(both)
    laps = np.resize(one_set(3, 2), rounds + late)
    assert arms[: rounds + late] == laps.tolist()
    assert learner.state.clock[0, 1] > rounds  # when the schedule was made
    assert np.mean(np.array(arms[rounds + late :]) >= 0) > 0.5


def test_rewards_that_never_come_make_exploration_longer() -> None:
    method = LSDExploreCommit(horizon=400)
    learner, plays = method.start(3, 2), 0
    while learner.state.clock[0, 1] == 0 and plays < 400:
        turn = learner.decide()
        plays += turn.arm >= 0
        if plays % 2:
            learner.update(Reward(turn.token, 0.5))
    wanted = np.count_nonzero(np.resize(one_set(3, 2), method.exploration(3, 2)) >= 0)
    assert plays == pytest.approx(2 * wanted, abs=2)


def test_a_set_of_exploration_sees_every_state_of_every_arm() -> None:
    arms, window = 3, 4
    seen, tau = set(), [window] * arms
    for arm in np.tile(one_set(arms, window), 2):
        if arm >= 0:
            seen.add((int(arm), max(-window, min(window, tau[arm]))))
        tau = step(tau, int(arm))
    assert len(seen) == arms * 2 * window
    assert len(one_set(arms, window)) == arms * window * (window + 1) * 3 // 2
    method = LSDExploreCommit(horizon=200_000)
    sets = math.ceil(0.05 * (200_000 / 512) ** (2 / 3) * math.log(200_000) ** (1 / 3))
    assert method.exploration(8, 8) == sets * len(one_set(8, 8))
    assert LSDExploreCommit(horizon=600).exploration(8, 8) == 300


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("variant", ["comb", "isi", "calibrated"])
def test_a_block_is_the_best_of_all_sequences(variant: str, length: int) -> None:
    learner, rng = BlockUCB(variant, length=length).start(3, 2, seed=0), np.random.default_rng(1)
    for _ in range(300):
        turn = learner.decide()
        learner.update(Reward(turn.token, float(rng.random() < 0.3 + 0.2 * turn.arm)))
    counts, sums, blocks = learner.state.counts[0], learner.state.sums[0], int(learner.state.clock[0, 2]) + 1
    bounds = np.where(
        counts > 0, sums / np.maximum(1, counts) + np.sqrt(1.5 * np.log(blocks) / np.maximum(1, counts)), 1e9
    )
    now, last, run = 300, learner.state.last[0], learner.state.run[0]
    tau = [-int(run[i]) if last[i] == now - 1 else int(min(2, now - 1 - last[i])) for i in range(3)]
    first = [0, 1, 2] if variant == "calibrated" else []
    for arm in first:
        tau = step(tau, arm)

    def worth(sequence: tuple[int, ...]) -> float:
        states, total, seen = list(tau), 0.0, set()
        for arm in sequence:
            reach = max(-2, min(2, states[arm]))
            if variant != "isi" or arm in seen:
                total += bounds[arm, reach + 2 if reach < 0 else reach + 1]
            states = step(states, arm)
            seen.add(arm)
        return total

    best = max(itertools.product(range(3), repeat=length), key=worth)
    assert [learner.decide().arm for _ in range(len(first) + length)] == [*first, *best]


def test_blocks_of_too_many_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"length=8: .* 12 arms have 12\^8 sequences, .* at most length=5"):
        BlockUCB("comb", length=8).start(12, 3)
    with pytest.raises(ValueError, match="length=7"):
        BlockUCB("comb", length=7).many(10, 3, seeds=range(2))
    BlockUCB("comb", length=6).start(10, 3)
    assert BlockUCB("comb", length=50).start(1, 3).decide().arm == 0


def test_a_sliding_window_counts_only_what_is_in_it() -> None:
    method = SlidingWindowUCB(window=50, xi=0.6)
    learner, rng, past = method.start(4), np.random.default_rng(0), []
    for t in range(400):
        window = past[-50:]
        choice = learner.decide()
        counts = np.array([sum(a == k for a, _ in window) for k in range(4)])
        if (counts > 0).all():
            means = np.array([sum(r for a, r in window if a == k) for k in range(4)]) / counts
            index = means + np.sqrt(0.6 * math.log(min(t, 50)) / counts)
            assert index[choice.action] >= index.max() - 1e-9
        else:
            assert counts[choice.action] == 0
        reward = float(rng.random() < 0.2 * (choice.action + 1))
        past.append((choice.action, reward))
        learner.update(Reward(choice.token, reward))


def test_bad_parameters_are_refused_by_name() -> None:
    for cls, name, bad in (
        (LSDOptimistic, "horizon", 1), (LSDOptimistic, "scale", -1), (LSDOptimistic, "planner", "odd"),
        (LSDOptimistic, "draws", 0), (LSDExploreCommit, "share", 0.0), (LSDExploreCommit, "planner", "odd"),
        (LSDOptimistic, "shape", "odd"), (LSDExploreCommit, "shape", "odd"),
        (BlockUCB, "variant", "odd"), (BlockUCB, "length", 0), (SlidingWindowUCB, "window", 0),
        (SlidingWindowUCB, "xi", -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            cls(**{name: bad})
