"""Dynamical linear bandits: the system, DynLin-UCB and its rivals, against plain ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits import (
    AR2,
    EXP3,
    OFUL,
    UCB1,
    BatchedEXP3,
    DLinUCB,
    DynLinUCB,
    LinearSystem,
    Reward,
    Uniform,
    make,
)
from heedful.bandits.dynamical import budgeted_actions, jump, plain_regret, play, polytope_vertices, regret
from heedful.bandits.experiments import _dynlin_ucb, _dynlin_ucb_rounds

ACTIONS = budgeted_actions(3, 1.5)
SYNTHETIC, REAL = _dynlin_ucb.system_of("synthetic-0.01"), _dynlin_ucb.system_of("real")


def first_best(index: np.ndarray) -> int:
    """The lowest of the actions whose index is largest, rounding apart."""
    return int(np.flatnonzero(index >= index.max() - 1e-12)[0])


def simulate(system: LinearSystem, learner: Any, actions: np.ndarray, noise: np.ndarray) -> list[int]:
    """Round by round, the learner asked and told each time: the plain form of ``play``."""
    state, played = np.zeros(len(system.a)), []
    for added in noise:
        choice = learner.decide()
        reward = system.omega @ state + system.theta @ actions[choice.action] + added
        learner.update(Reward(choice.token, reward))
        state = system.a @ state + system.b @ actions[choice.action]
        played.append(choice.action)
    return played


def plain_dynlin(method: DynLinUCB, actions: np.ndarray, system: LinearSystem, noise: np.ndarray) -> Any:
    """The paper's algorithm, written down; actions, V and b."""
    d, ridge, rounds = actions.shape[1], math.log(method.horizon), len(noise)
    rho, largest = method.rho, np.linalg.norm(actions, axis=1).max()
    c1 = method.theta + method.omega * method.push * method.phi / (1 - rho)
    c2 = largest * method.omega * method.phi * (largest * method.push / (1 - rho) + largest / (1 - rho))
    s2 = method.noise**2 * (1 + method.omega**2 * method.phi**2 / (1 - rho**2))
    v, b, state, played, m = ridge * np.eye(d), np.zeros(d), np.zeros(len(system.a)), [], 0
    while len(played) < rounds:
        m, t = m + 1, len(played)
        beta = c1 * math.sqrt(ridge) + c2 / math.sqrt(ridge) * math.log(math.e * (t + 1))
        beta += math.sqrt(2 * s2 * (math.log(method.horizon) + d / 2 * math.log(1 + t * largest**2 / (d * ridge))))
        inverse = np.linalg.inv(v)
        widths = np.sqrt(np.einsum("kd,de,ke->k", actions, inverse, actions))
        k = first_best(actions @ inverse @ b + method.scale * beta * widths)
        length = 1 if rho < 1e-6 else 1 + math.floor(math.log(m) / math.log(1 / rho))
        for j in range(length):
            if len(played) == rounds:
                return played, v, b
            reward = system.omega @ state + system.theta @ actions[k] + noise[len(played)]
            state = system.a @ state + system.b @ actions[k]
            played.append(k)
            if j == length - 1:
                v, b = v + np.outer(actions[k], actions[k]), b + actions[k] * reward
    return played, v, b


# the system


@pytest.mark.parametrize("system", [SYNTHETIC, REAL])
def test_the_markov_parameter_is_the_simulated_average_of_a_constant_action(system: LinearSystem) -> None:
    for u, value in zip(ACTIONS, system.steady(ACTIONS)):
        state = np.zeros(3)
        for _ in range(int(200 / (1 - system.spectral_radius))):
            state = system.a @ state + system.b @ u
        assert abs(system.omega @ state + system.theta @ u - value) < 1e-9


def test_the_papers_systems_have_its_numbers() -> None:
    assert np.allclose(SYNTHETIC.markov, [0.5625, 0.5, 1 / 9])
    assert SYNTHETIC.steady([[1, 0.5, 0]])[0] == pytest.approx(0.8125)
    assert SYNTHETIC.steady([[0.5, 1, 0]])[0] == pytest.approx(0.78125)
    assert SYNTHETIC.transient == 1.0
    assert abs(REAL.spectral_radius - 0.66689) < 1e-5 and abs(REAL.transient - 2.7812) < 1e-4
    best = REAL.steady(ACTIONS).argmax()
    assert ACTIONS[best].tolist() == [1, 0, 0.5] and REAL.steady(ACTIONS)[best] == pytest.approx(0.3046, abs=5e-5)


def test_complex_eigenvalues_count_with_their_modulus() -> None:
    turn = LinearSystem([[0.0, 0.8], [-0.8, 0.0]], np.eye(2), [1.0, 0.0], [0.0, 0.0])
    assert turn.spectral_radius == pytest.approx(0.8) and turn.transient == pytest.approx(1.0)


def test_a_jump_equals_steps_and_noise_adds_what_it_would_round_by_round() -> None:
    noise = REAL.noise(500, seed=3)
    rng = np.random.default_rng(3)
    direct, shocks = rng.standard_normal(500) * math.sqrt(3), rng.standard_normal((500, 3))
    state = np.zeros(3)
    for t in range(500):
        assert abs(0.01 * (direct[t] + REAL.omega @ state) - noise[t]) < 1e-12
        state = REAL.a @ state + shocks[t]
    for longest in (1, 7, 40):
        world, x = REAL.world(ACTIONS, noise, longest), np.array([0.3, -0.2, 0.1])
        y = x.copy()
        jump(world, x, 4, 23)
        for _ in range(23):
            y = REAL.a @ y + REAL.b @ ACTIONS[4]
        assert np.abs(x - y).max() < 1e-12


def test_budgeted_actions_fill_channels_in_every_order() -> None:
    assert {tuple(u) for u in ACTIONS.tolist()} == {
        (1, 0.5, 0), (1, 0, 0.5), (0.5, 1, 0), (0.5, 0, 1), (0, 1, 0.5), (0, 0.5, 1),
    }  # fmt: skip
    assert budgeted_actions(4, 2.0).shape == (6, 4) and budgeted_actions(2, 5.0).tolist() == [[1, 1]]


def test_vertices_of_a_budget_are_all_that_an_index_needs() -> None:
    rows = np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3))])
    vertices = polytope_vertices(rows, [1, 1, 1, 0, 0, 0, 1.5])
    assert {tuple(u) for u in ACTIONS} <= {tuple(u) for u in vertices.tolist()}
    inside = np.random.default_rng(0).dirichlet(np.ones(len(vertices)), 300) @ vertices
    h, inverse = np.array([0.3, -0.2, 0.1]), np.diag([1.0, 2.0, 0.5])
    index = [u @ h + math.sqrt(u @ inverse @ u) for u in vertices]
    assert max(u @ h + math.sqrt(u @ inverse @ u) for u in inside) <= max(index)
    for bad in ([[1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):
        with pytest.raises(ValueError, match="bounded polytope"):
            polytope_vertices(bad, [0.0] * len(bad))


def test_bad_systems_are_refused_by_name() -> None:
    good = {"a": [[0.5]], "b": [[1.0, 0.0]], "omega": [1.0], "theta": [0.0, 1.0]}
    for name, bad in {
        "a": [[1.0]], "b": [[1.0]], "omega": [np.nan], "theta": [np.inf, 0.0], "sigma": -1.0, "outputs": 0,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            LinearSystem(**{**good, name: bad})
    with pytest.raises(ValueError, match="a: must have a spectral radius below 1"):
        LinearSystem(**{**good, "a": [[-1.2]]})
    with pytest.raises(ValueError, match="actions"):
        REAL.steady(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="actions"):
        REAL.steady([[1.0, 0.0]])
    with pytest.raises(ValueError, match="linucb"):
        play(REAL, ACTIONS, make("linucb"), np.zeros((1, 5)), [0])


# DynLin-UCB


@pytest.mark.parametrize("scale", [1.0, 0.05])
@pytest.mark.parametrize("system", [SYNTHETIC, REAL])
def test_dynlin_ucb_equals_the_paper_written_down(system: LinearSystem, scale: float, square: Any) -> None:
    method, noise = DynLinUCB.knowing(system, 1500, scale=scale), system.noise(1500, seed=2)
    plain, v, b = plain_dynlin(method, ACTIONS, system, noise)
    learner = method.start(ACTIONS)
    assert simulate(system, learner, ACTIONS, noise) == plain
    assert play(system, ACTIONS, method, noise[None], [0])[0].tolist() == plain
    assert np.abs(square(learner.state.inverse[0])[:3, :3] - np.linalg.inv(v)).max() < 1e-10
    assert np.abs(learner.state.estimate[0, :3] - np.linalg.solve(v, b)).max() < 1e-10


def test_epochs_grow_and_cover_the_rounds_exactly_once() -> None:
    learner, lengths, length = DynLinUCB(rho=0.5).start(ACTIONS), [], 0
    for _ in range(3000):
        choice, length = learner.decide(), length + 1
        if learner.ledger.find(choice.token)[1]:
            lengths.append(length)
            length = 0
        learner.update(Reward(choice.token, 0.0))
    assert lengths[:8] == [1, 2, 2, 3, 3, 3, 3, 4]
    assert lengths == sorted(lengths) and sum(lengths) + length == 3000
    assert _dynlin_ucb.epochs(1 / math.log(2), 3000) == len(lengths) + (length > 0)


def test_only_the_last_round_of_an_epoch_changes_the_regression(square: Any) -> None:
    method = DynLinUCB.knowing(REAL, 1000)
    learner, total = method.start(ACTIONS), 0.0
    for _ in range(1000):
        choice = learner.decide()
        if learner.ledger.find(choice.token)[1]:
            total += float(ACTIONS[choice.action] @ ACTIONS[choice.action])
        learner.update(Reward(choice.token, 1.0))
    trace = np.trace(np.linalg.inv(square(learner.state.inverse[0])[:3, :3]))
    assert trace == pytest.approx(3 * math.log(1000) + total, rel=1e-9)


@given(st.integers(0, 100), st.sampled_from([1.0, 0.1]))
@settings(max_examples=10)
def test_without_memory_it_is_oful_action_by_action(seed: int, scale: float) -> None:
    one = DynLinUCB(rho=0.0, omega=0.0, theta=2.0, noise=0.3, horizon=400, scale=scale)
    other = OFUL(size=2.0, noise=0.3, horizon=400, scale=scale)
    noise = SYNTHETIC.noise(400, seed)[None]
    assert np.array_equal(*(play(SYNTHETIC, ACTIONS, method, noise, [0]) for method in (one, other)))


def test_without_noise_it_settles_on_the_best_action_of_a_static_world() -> None:
    static = LinearSystem(np.zeros((3, 3)), REAL.b, np.zeros(3), REAL.markov, 0.0)
    chosen = play(static, ACTIONS, DynLinUCB(rho=0, omega=0, noise=0, scale=0.2), np.zeros((1, 20_000)), [0])[0]
    assert np.mean(chosen[-10_000:] == static.steady(ACTIONS).argmax()) > 0.999


TRAP = LinearSystem([[0.5]], [[0.4, 0.0]], [1.0], [0.0, 0.6], sigma=0.0)
"""Action 1 pays 0.6 at once and always, action 0 0.8 in the long run; they share no coordinate."""


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_radius_too_small_for_the_rewards_never_leaves_the_worse_action(order: list[int]) -> None:
    """What an untried action hopes for is at most ``beta_T / sqrt(lam)``, less than 0.6 or more."""
    actions, rounds = np.eye(2)[order], 20_000

    def play_at(scale: float) -> np.ndarray:
        return play(TRAP, actions, DynLinUCB.knowing(TRAP, rounds, scale=scale), np.zeros((1, rounds)), [0])[0]

    known, log = DynLinUCB.knowing(TRAP, rounds), math.log(rounds)
    limit = 0.6 / (known.size + (0.4 + 1.0) / 0.5 * (1 + log) / log)
    assert 0.13 < limit < 0.14
    best = order.index(0)
    assert np.count_nonzero(play_at(0.95 * limit) == best) <= 1
    assert np.mean(play_at(0.3) == best) > 0.9


def test_on_the_pages_trap_the_same_bounds_lead_lin_ucb_astray_and_dynlin_ucb_home() -> None:
    system = LinearSystem([[0.8, 0.0], [0.0, 0.5]], [[0.3, 0.0], [0.0, 0.1]], [0.5, 0.2], [0.0, 0.4], sigma=0.05)
    actions, rounds = budgeted_actions(2, 1.5), 20_000
    best = int(system.steady(actions).argmax())
    known, noise = DynLinUCB.knowing(system, rounds, scale=0.1), system.noise(rounds, 1)[None]
    shares = [
        np.mean(play(system, actions, method, noise, [1])[0] == best)
        for method in (known, OFUL(known.size, known.deviation, rounds, scale=0.1))
    ]
    assert shares[0] > 0.95 and shares[1] < 0.01


def test_a_system_that_forgets_after_some_rounds_needs_a_rate() -> None:
    nilpotent = LinearSystem([[0.0, 2.0], [0.0, 0.0]], np.eye(2), [1.0, 0.0], [0.0, 1.0])
    for rho in (None, 0.0):
        with pytest.raises(ValueError, match=r"^system: its a is nilpotent.* give rho"):
            DynLinUCB.knowing(nilpotent, 100, rho=rho)
    assert DynLinUCB.knowing(nilpotent, 100, rho=0.5).phi == pytest.approx(4.0)  # ||A|| / rho


def test_the_radius_never_shrinks() -> None:
    from heedful.bandits.dynlin_ucb import beta

    numbers = DynLinUCB.knowing(REAL, 10_000).begin(ACTIONS).radius[0]
    radii = [beta(numbers, t) for t in range(0, 10_000, 37)]
    assert (np.diff(radii) > 0).all()


@pytest.mark.parametrize("factor", [0.01, 8.0])
def test_units_of_the_reward_do_not_matter_without_a_hidden_state(factor: float) -> None:
    method = DynLinUCB(rho=0.5, omega=0.0, theta=1.5, noise=0.2, horizon=2000)
    scaled = DynLinUCB(rho=0.5, omega=0.0, theta=1.5 * factor, noise=0.2 * factor, horizon=2000)
    static = LinearSystem(np.zeros((3, 3)), REAL.b, np.zeros(3), SYNTHETIC.markov, 0.2)
    larger = LinearSystem(np.zeros((3, 3)), REAL.b, np.zeros(3), SYNTHETIC.markov * factor, 0.2)
    noise = static.noise(2000, seed=5)[None]
    first = play(static, ACTIONS, method, noise, [0])
    assert np.array_equal(first, play(larger, ACTIONS, scaled, noise * factor, [0]))


def test_the_updated_inverse_stays_that_of_the_sum(square: Any) -> None:
    method, noise = OFUL(horizon=10_000), REAL.noise(10_000, seed=1)[None]
    state = method.begin(ACTIONS)
    chosen = np.empty(10_000, dtype=np.int16)
    method.run(state, REAL.world(ACTIONS, noise[0]), chosen)
    v = math.log(10_000) * np.eye(3) + ACTIONS[chosen].T @ ACTIONS[chosen]
    assert np.abs(square(state.inverse[0])[:3, :3] - np.linalg.inv(v)).max() < 1e-8


def test_bad_parameters_are_refused_by_name() -> None:
    for name, bad in {
        "rho": 1.0, "phi": 0.5, "theta": -1.0, "omega": math.nan, "push": -1, "noise": -0.1, "horizon": 1,
        "ridge": 0.0, "scale": -1.0,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            DynLinUCB(**{name: bad})
    for cls, name, bad in (
        (OFUL, "size", -1.0), (OFUL, "ridge", -1.0), (DLinUCB, "gamma", 1.0), (DLinUCB, "ridge", 0.0),
        (BatchedEXP3, "batch", 0), (BatchedEXP3, "gamma", 0.0), (AR2, "alpha", 1.0), (AR2, "noise", 0.0),
        (AR2, "epoch", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            cls(**{name: bad})


# rivals


def test_d_linucb_equals_the_sums_written_down() -> None:
    method, noise = DLinUCB(gamma=0.98, size=0.5, noise=0.05, horizon=400, scale=0.3), REAL.noise(400, seed=4)
    gamma, ridge, state, played, rewards = 0.98, math.log(400), np.zeros(3), [], []
    for t in range(400):
        ages = np.arange(t - 1, -1, -1.0)
        past = ACTIONS[played].reshape(t, 3)
        v = (past.T * gamma**ages) @ past + ridge * np.eye(3)
        w = (past.T * gamma ** (2 * ages)) @ past + ridge * np.eye(3)
        inverse = np.linalg.inv(v)
        spread = 1.25 * (1 - gamma ** (2 * t)) / (ridge * 3 * (1 - gamma**2))
        beta = 0.3 * (math.sqrt(ridge) * 0.5 + 0.05 * math.sqrt(2 * math.log(400) + 3 * math.log(1 + spread)))
        widths = np.sqrt(np.einsum("kd,de,ke->k", ACTIONS, inverse @ w @ inverse, ACTIONS))
        k = first_best(ACTIONS @ inverse @ ((past.T * gamma**ages) @ np.array(rewards)) + beta * widths)
        played.append(k)
        rewards.append(REAL.omega @ state + REAL.theta @ ACTIONS[k] + noise[t])
        state = REAL.a @ state + REAL.b @ ACTIONS[k]
    assert play(REAL, ACTIONS, method, noise[None], [0])[0].tolist() == played
    assert simulate(REAL, method.start(ACTIONS), ACTIONS, noise) == played


def test_batches_of_one_are_exp3_and_batches_hold() -> None:
    one, plain = BatchedEXP3(batch=1, gamma=0.2).start(6, seed=3), EXP3(gamma=0.2).start(6, seed=3)
    for t in range(300):
        first, second = one.decide(), plain.decide()
        assert (first.action, first.probability) == (second.action, second.probability)
        for learner, choice in ((one, first), (plain, second)):
            learner.update(Reward(choice.token, (choice.action + t) % 6 / 6))
    held = BatchedEXP3(batch=5, gamma=0.2).start(6, seed=3)
    actions = held.decide_batch(50).actions.reshape(10, 5)
    assert (actions == actions[:, :1]).all() and len(set(actions[:, 0])) > 1


def test_a_batch_is_learned_as_its_mean() -> None:
    learner = BatchedEXP3(batch=4, gamma=0.3).start(3, seed=1)
    choices = [learner.decide() for _ in range(4)]
    for choice, reward in zip(choices, (0.0, 1.0, 0.5, 0.7)):
        learner.update(Reward(choice.token, reward))
    assert learner.state.logs[0, choices[0].action] == pytest.approx(0.3 * 0.55 / (1 / 3 * 3))


def test_ar2_takes_turns_and_forgets_each_epoch() -> None:
    learner, played = AR2(alpha=0.9, noise=0.0001, epoch=20).start(3), []
    for _ in range(40):
        choice = learner.decide()
        learner.update(Reward(choice.token, (0.1, 0.9, 0.2)[choice.action]))
        played.append(choice.action)
    assert played[:3] == [0, 1, 2] and played[20:23] == [0, 1, 2]
    assert played[3:20].count(1) >= 12


@pytest.mark.parametrize("method", [UCB1(0.3), BatchedEXP3(7, 0.1), BatchedEXP3(1, 0.1), AR2(0.6, 0.01)])
def test_compiled_rounds_equal_play(method: Any) -> None:
    noise = REAL.noise(2000, seed=6)
    chosen = np.empty(2000, dtype=np.int16)
    _dynlin_ucb_rounds.run(method, REAL.world(ACTIONS, noise), 6, chosen, -5.0, 5.0)
    if isinstance(method, UCB1):  # which is told rewards as they are, here told them in [0, 1]
        system = LinearSystem(REAL.a, REAL.b, REAL.omega / 10, REAL.theta / 10, 0.01)
        assert np.mean(play(system, ACTIONS, method, noise[None] / 10, [6])[0] == chosen) > 0.99
    else:
        assert np.array_equal(play(REAL, ACTIONS, method, noise[None], [6], -5.0, 5.0)[0], chosen)


def test_a_run_is_fixed_by_its_seeds_and_noise_is_shared() -> None:
    noise = np.stack([SYNTHETIC.noise(300, seed) for seed in (1, 2)])
    first = play(SYNTHETIC, ACTIONS, Uniform(), noise, [1, 2])
    assert np.array_equal(first, play(SYNTHETIC, ACTIONS, Uniform(), noise, [1, 2]))
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(noise[0], SYNTHETIC.noise(300, 1))


def test_regrets_of_constant_actions() -> None:
    values = REAL.steady(ACTIONS)
    chosen = np.full((1, 1000), 3, dtype=np.int16)
    assert regret(REAL, ACTIONS, chosen)[0, -1] == pytest.approx(1000 * (values.max() - values[3]))
    best = np.full(1000, values.argmax(), dtype=np.int16)
    # What a run owes to its start: sum over t of <omega, A^t x> of the state that is reached.
    reached = np.linalg.solve(np.eye(3) - REAL.a, REAL.b @ ACTIONS[values.argmax()])
    owed = REAL.omega @ np.linalg.solve(np.eye(3) - REAL.a, reached)
    assert plain_regret(REAL, ACTIONS, best) == pytest.approx(owed, abs=1e-9)


def test_the_experts_split_spends_the_budget_within_limits() -> None:
    split = _dynlin_ucb.expert_split()
    assert split.sum() == pytest.approx(1.5) and split.max() == pytest.approx(1.0)
    assert split[1] / split[0] == pytest.approx(259591273 / 1641952)
