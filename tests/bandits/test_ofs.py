"""Optimistic feasible search, its rivals and its closed loops: properties, each with numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.bandits import OFS, Outcome, Outcomes, PrimalDualUCB, ThresholdUCB, make
from heedful.bandits.lending import CreditBureau, Pool, Synthetic, run, sweep
from heedful.bandits.populations import Scored, ScoreTable, compas, german_credit

GRID = np.array([0.1, 0.23, 0.45, 0.51, 0.77, 0.9])  # no two distances alike, so that sharing makes no ties
numbers = st.tuples(st.floats(-1, 1), st.one_of(st.just(float("nan")), st.floats(-1, 1)), st.floats(0, 1))


class PlainOFS:
    """The method from its definition, with lists; all that was ever told is gone through again each round."""

    def __init__(self, method: OFS, grid: np.ndarray) -> None:
        self.method, self.grid = method, grid
        self.told: list[tuple[int, float, float, float]] = []
        self.plays = [0] * len(grid)
        self.last, self.held, self.count = -1, 0, True

    def means(self) -> list[tuple[float, ...]]:
        m, found = self.method, []
        told = self.told if m.window is None else [row for row in self.told if row[0] >= 0][-m.window :]
        weights = m.discount ** np.arange(len(told) - 1, -1, -1.0)
        for k in range(len(self.grid)):
            rows = [(w, *row[1:]) for w, row in zip(weights, told) if row[0] == k]
            n, with_gap = sum(r[0] for r in rows), sum(r[0] for r in rows if r[2] == r[2])
            reward, rate = (sum(r[0] * r[i] for r in rows) / n if n else 0.0 for i in (1, 3))
            gap = sum(r[0] * r[2] for r in rows if r[2] == r[2]) / with_gap if with_gap else 0.0
            found.append((n, with_gap, reward, gap, rate))
        return found

    def decide(self) -> int:
        m, count = self.method, len(self.grid)
        if self.held:
            self.held -= 1
            self.count = self.held == 0
            return self._play(self.last)
        log = np.log(2 * count * (sum(self.plays) + 1) ** 2 / m.delta)
        upper, residual = [], []
        for n, with_gap, reward, gap, rate in self.means():
            b = m.width * m.scale * np.sqrt(log / (2 * n)) if n else np.inf
            b_gap = m.width * m.scale * np.sqrt(log / (2 * with_gap)) if with_gap else np.inf
            upper.append(reward + b)
            sides = [abs(gap) - m.eps - b_gap]
            sides += [] if m.rho_min is None else [m.rho_min - rate - b]
            sides += [] if m.rho_max is None else [rate - m.rho_max - b]
            residual.append(max(sides))
        if m.lipschitz is not None:
            far = m.lipschitz * np.abs(self.grid[:, None] - self.grid)
            upper = (np.array(upper)[None] + far).min(axis=1).tolist()
            residual = (np.array(residual)[None] - far).max(axis=1).tolist()
        feasible = [k for k in range(count) if residual[k] <= 0]
        if feasible:
            k = min(feasible, key=lambda k: (-upper[k], self.plays[k], k))
        else:
            k = min(range(count), key=lambda k: (residual[k], self.plays[k], k))
        self.count = k == self.last or m.burn_in == 0
        self.held = 0 if k == self.last else m.burn_in
        return self._play(k)

    def _play(self, k: int) -> int:
        self.plays[k] += 1
        self.last = k
        return k

    def learn(self, row: tuple[float, float, float]) -> None:
        self.told.append((self.last if self.count else -1, *row))


@pytest.mark.parametrize(
    "method",
    [
        OFS(), OFS(eps=0.3, rho_min=0.4, rho_max=0.8), OFS(window=7, rho_min=0.5), OFS(discount=0.9, eps=0.2),
        OFS(burn_in=2, eps=0.2), OFS(lipschitz=0.7, eps=0.2), OFS(window=5, burn_in=1), OFS(discount=0.8, burn_in=1),
    ],
    ids=repr,
)  # fmt: skip
@settings(max_examples=25)
@given(rows=st.lists(numbers, min_size=1, max_size=60))
def test_the_fast_version_equals_a_plain_one(method: OFS, rows: list[tuple[float, float, float]]) -> None:
    learner, plain = method.start(GRID), PlainOFS(method, GRID)
    for row in rows:
        decision = learner.decide()
        assert decision.point == plain.decide()
        learner.update(Outcome(decision.token, *row))
        plain.learn(row)


def test_one_grid_point_is_always_played() -> None:
    for spec in ("ofs", "ofs:burn_in=3", "primal-dual-ucb", "threshold-ucb", "pessimistic-search"):
        learner = make(spec).start(1)
        for _ in range(30):
            decision = learner.decide()
            assert decision.point == 0 and decision.threshold == 0.5
            learner.update(Outcome(decision.token, -0.5, 0.9, 0.0))


@settings(max_examples=50)
@given(rows=st.lists(numbers, min_size=1, max_size=60))
def test_without_a_binding_constraint_it_equals_unconstrained_ucb(rows: list[tuple[float, float, float]]) -> None:
    ours, free = OFS(eps=1.0).start(GRID), ThresholdUCB().start(GRID)
    for row in rows:
        decision, other = ours.decide(), free.decide()
        assert decision == other
        ours.update(Outcome(decision.token, *row))
        free.update(Outcome(other.token, *row))


def test_a_burn_in_counts_decisions_and_not_what_has_come_of_them() -> None:
    prompt, untold = OFS(burn_in=2).start(3), OFS(burn_in=2).start(3)
    for point in (0, 0, 0, 1, 1, 1, 2, 2, 2):
        decision = prompt.decide()
        assert decision.point == untold.decide().point == point
        prompt.update(Outcome(decision.token, 0.1, 0.0, 0.5))
    assert prompt.state.sums[0, :, 0].tolist() == [1, 1, 1]  # the last of three outcomes each
    assert untold.counts.pending == 9


def test_what_looks_feasible_is_tried_before_any_repeat_and_the_tail_is_the_oracle() -> None:
    rewards, gaps = np.array([0.1, 0.2, 0.35, 0.3, 0.9, 0.8]), np.array([0.0, 0.01, 0.04, -0.049, 0.2, 0.3])
    learner, points = OFS(eps=0.05).start(GRID), []
    for _ in range(4000):
        decision = learner.decide()
        points.append(decision.point)
        learner.update(Outcome(decision.token, rewards[decision.point], gaps[decision.point], 0.5))
    assert points[:6] == [0, 1, 2, 3, 4, 5]
    assert np.mean(np.array(points[-500:]) == 2) > 0.99
    assert set(points[-50:]) == {2}


def test_swapping_the_groups_changes_no_decision() -> None:
    rng = np.random.default_rng(0)
    for spec in ("ofs", "ofs:scale=auto", "primal-dual-ucb", "pessimistic-search"):
        one, two = make(spec).start(GRID), make(spec).start(GRID)
        for _ in range(200):
            decision, other = one.decide(), two.decide()
            assert decision == other
            reward, gap, rate = rng.normal(), rng.uniform(-0.2, 0.2), rng.uniform()
            one.update(Outcome(decision.token, reward, gap, rate))
            two.update(Outcome(other.token, reward, -gap, rate))


def test_a_confidence_of_nothing_has_no_width() -> None:
    learner = OFS(eps=0.5, delta=1e6).start([0.2, 0.5, 0.8])
    for token, reward in enumerate((0.1, 0.9, 0.2, 0.9, 0.9)):
        decision = learner.decide()
        assert decision.point == (token if token < 3 else 1)
        learner.update(Outcome(decision.token, reward, 0.0, 0.5))


def test_a_cohort_without_a_group_says_nothing_about_gaps() -> None:
    learner = OFS(eps=0.0, scale=0.01).start([0.2, 0.8])
    for token, gap in enumerate((0.5, float("nan"))):
        assert learner.decide().token == token
        learner.update(Outcome(token, 0.1, gap, 0.5))
    assert learner.state.sums[0, :, :2].tolist() == [[1, 1], [1, 0]]
    for _ in range(5):  # the point of unknown gap may be feasible, the other is not
        decision = learner.decide()
        assert decision.point == 1
        learner.update(Outcome(decision.token, -1.0, float("nan"), 0.5))


def test_many_lanes_decide_as_one_learner_each() -> None:
    rng = np.random.default_rng(1)
    for spec in ("ofs:scale=auto", "ofs:window=9", "primal-dual-ucb:residual=mean", "pessimistic-search"):
        lanes, single = make(spec).many(GRID, seeds=range(3)), [make(spec).start(GRID) for _ in range(3)]
        for _ in range(80):
            several, each = lanes.decide(), [learner.decide() for learner in single]
            assert several.points.tolist() == [decision.point for decision in each]
            told = rng.normal(size=3), rng.uniform(-1, 1, 3), rng.uniform(size=3)
            lanes.update(Outcomes(several.token, *told))
            for learner, decision, row in zip(single, each, zip(*told)):
                learner.update(Outcome(decision.token, *map(float, row)))


def test_auto_scale_is_the_pooled_spread_within_points() -> None:
    rng, told = np.random.default_rng(2), {0: [], 1: []}
    auto, known = OFS(scale="auto", eps=0.4).start([0.3, 0.6]), None
    for _ in range(200):
        decision = auto.decide()
        row = rng.normal(0.1 * decision.point, 0.3), 0.0, 0.5
        told[decision.point].append(row[0])
        auto.update(Outcome(decision.token, *row))
    within = sum(((np.array(r) - np.mean(r)) ** 2).sum() for r in told.values())
    known = np.sqrt(within / sum(len(r) - 1 for r in told.values()))
    from heedful.bandits.thresholds import _spread

    assert _spread(auto.state.sums[0], 0, 2) == pytest.approx(known, abs=1e-9)
    assert _spread(auto.state.sums[0], 1, 3) == pytest.approx(0.0, abs=1e-7)


def test_violation_of_a_played_point_is_at_most_two_widths_and_grows_slower_than_t_to_the_0_6() -> None:
    loop, grid, rounds = Synthetic(eta=0.0), np.linspace(0.02, 0.98, 25), 6000
    method = OFS(eps=0.05)
    history = run(loop, method, grid, rounds, range(6))
    violation = history.violation(0.05)
    plays = np.zeros((6, 25))
    for t in range(rounds):
        point = history.points[t]
        n = plays[np.arange(6), point]
        with np.errstate(divide="ignore"):
            b = method.width * method.scale * np.sqrt(np.log(2 * 25 * (t + 1) ** 2) / (2 * n))
        assert (violation[t] <= 2 * b).all()
        plays[np.arange(6), point] += 1
    total = violation.cumsum(axis=0).mean(axis=1)
    exponent = np.log(total[-1] / total[599]) / np.log(10)
    assert exponent < 0.6


def test_the_price_of_primal_dual_is_projected_and_follows_its_residual() -> None:
    learner = PrimalDualUCB(eps=0.1, step=0.5).start(GRID)
    price = 0.0
    for gap in (0.0, 0.5, -0.7, float("nan"), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        decision = learner.decide()
        learner.update(Outcome(decision.token, 0.0, gap, 0.5))
        price = price if gap != gap else max(0.0, price + 0.5 * (abs(gap) - 0.1))
        assert learner.state.price[0] == pytest.approx(price, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_two_starts_converge_under_one_threshold_and_common_noise(threshold: float) -> None:
    loop = Synthetic(eta=0.1)
    one, two = loop.begin(range(5)), loop.begin(range(5))
    two.population[:] = [-1.5, 1.5, 0.8]
    for _ in range(int(20 / loop.eta)):
        loop.step(one, np.full(5, threshold))
        loop.step(two, np.full(5, threshold))
    assert np.abs(one.population - two.population).max() < 1e-3


def people(rng: np.random.Generator, n: int = 400) -> Scored:
    scores = np.round(rng.uniform(size=n), 2)
    return Scored(scores, (rng.uniform(size=n) < 0.3).astype(int), (rng.uniform(size=n) < scores).astype(int))


def table() -> ScoreTable:
    scores, shares = np.linspace(0, 100, 21), np.random.default_rng(4).dirichlet(np.ones(21), 2)
    return ScoreTable(scores, shares, np.stack([scores / 100, scores / 120]), 0.3)


LOOPS = {
    "synthetic": Synthetic(cohort=4000, u_minus=1.5, eta=0.0),
    "pool": Pool(cohort=4000, people=people(np.random.default_rng(3)), u_minus=2.0, eta=0.0),
    "bureau": CreditBureau(cohort=4000, table=table(), eta=0.0),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 0.9])
def test_cohorts_show_what_is_to_be_expected_of_the_population(name: str, threshold: float) -> None:
    loop = LOOPS[name]
    round_ = loop.step(loop.begin(range(60)), np.full(60, threshold))
    for shown, expected in (
        (round_.reward, round_.expected_reward), (round_.rate, round_.expected_rate),
        (round_.rates[:, 0], round_.expected_rates[:, 0]), (round_.rates[:, 1], round_.expected_rates[:, 1]),
    ):  # fmt: skip
        assert np.ptp(expected) < 1e-12
        error = shown.std(ddof=1) / np.sqrt(60)
        assert abs(shown.mean() - expected[0]) <= 4 * error + 1e-9


def test_a_pool_accepts_scores_equal_to_the_threshold_and_counts_exactly() -> None:
    crowd = people(np.random.default_rng(5))
    loop = Pool(people=crowd, u_minus=2.0)
    round_ = loop.step(loop.begin([0]), [0.5])
    for g in (0, 1):
        assert round_.expected_rates[0, g] == pytest.approx((crowd.scores[crowd.groups == g] >= 0.5).mean(), abs=1e-12)
    worth = np.where(crowd.scores >= 0.5, np.where(crowd.outcomes == 1, 1.0, -2.0), 0.0)
    assert round_.expected_reward[0] == pytest.approx(worth.mean(), abs=1e-12)


def test_populations_move_as_defined() -> None:
    loop = Synthetic(harm=0.5)
    state = loop.begin([0])
    round_ = loop.step(state, [0.6])
    a, b = round_.rates[0]
    mu = [m + 0.02 * (m + 0.4 * (r - 0.5) - 0.5 * abs(a - b) - m) for m, r in ((0.6, a), (-0.2, b))]
    assert state.population[0] == pytest.approx([*mu, 0.4 + 0.02 * (0.5 + 0.3 * (b - a) - 0.4)], abs=1e-12)
    crowd = Pool(people=people(np.random.default_rng(6)))
    state = crowd.begin([0])
    share = state.population[0, 2]
    a, b = crowd.step(state, [0.6]).rates[0]
    assert state.population[0, 2] == pytest.approx(share + 0.02 * 0.3 * (b - a), abs=1e-12)
    bureau = CreditBureau(table=table())
    state = bureau.begin([0])
    state.population[0, :2] = 30.0, -30.0
    bureau.step(state, [1.0])  # at most those with the best score are accepted
    assert state.population[0, 0] == pytest.approx(0.98 * 30, abs=75 * 0.02)
    assert state.population[0, 1] == -0.98 * 30


def test_shifted_scores_stay_in_the_table() -> None:
    bureau = CreditBureau(table=table())
    state = bureau.begin([0, 1])
    state.population[:, :2] = [[1e6, 1e6], [-1e6, -1e6]]
    round_ = bureau.step(state, [1.0, 0.01])
    assert round_.rate.tolist() == [1.0, 0.0] and round_.expected_rate == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("name", LOOPS)
def test_cohorts_of_one_work(name: str) -> None:
    from dataclasses import replace

    history = run(replace(LOOPS[name], cohort=1, eta=0.1), OFS(), GRID, 60, [0, 1])
    assert np.isnan(history.gap).all() and np.isfinite(history.reward).all()
    assert np.isfinite(history.expected_gap).all()


def test_a_seed_fixes_a_loop_and_methods_meet_the_same_population() -> None:
    one = run(Synthetic(), OFS(), GRID, 50, [3, 4])
    two = run(Synthetic(), OFS(), GRID, 50, [4])
    assert np.array_equal(one.reward[:, 1], two.reward[:, 0])
    other = run(Synthetic(), make("epsilon-greedy"), GRID, 1, [3])
    assert other.reward[0, 0] == one.reward[0, 0]  # both begin with the lowest threshold


def test_the_sweep_knows_the_best_feasible_point_and_the_least_infeasible_one() -> None:
    loop = Synthetic()
    found = sweep(loop, GRID, range(3), rounds=100)
    for eps, rho_min, rho_max in ((0.05, None, None), (0.1, None, None), (0.3, 0.3, 0.9), (0.0, 0.7, None)):
        violation = np.abs(found.gap) - eps
        violation = violation if rho_min is None else np.maximum(violation, rho_min - found.rate)
        violation = violation if rho_max is None else np.maximum(violation, found.rate - rho_max)
        feasible = [k for k in range(len(GRID)) if violation[k] <= 0]
        best = max(feasible, key=lambda k: found.reward[k]) if feasible else int(violation.argmin())
        assert found.best(eps, rho_min, rho_max) == best
    alone = [sweep(loop, [cut], range(3), rounds=100) for cut in GRID]  # the same start for all
    for name in found._fields:
        assert getattr(found, name).tolist() == [getattr(one, name)[0] for one in alone]


def test_bad_input_is_refused_by_name() -> None:
    for name, bad in (
        ("eps", lambda: OFS(eps=-0.1)), ("rho_min", lambda: OFS(rho_min=0.6, rho_max=0.5)),
        ("rho_max", lambda: OFS(rho_max=1.5)), ("discount", lambda: OFS(discount=0.0)),
        ("window", lambda: OFS(window=0)), ("window", lambda: OFS(window=5, discount=0.9)),
        ("burn_in", lambda: OFS(burn_in=-1)), ("lipschitz", lambda: OFS(lipschitz=-1.0)),
        ("scale", lambda: OFS(scale="wide")), ("residual", lambda: PrimalDualUCB(residual="both")),
        ("threshold", lambda: make("static-threshold:threshold=2")), ("cohort", lambda: Synthetic(cohort=0)),
        ("eta", lambda: Synthetic(eta=1.5)), ("u_minus", lambda: Synthetic(u_minus=-1)),
        ("thresholds", lambda: Synthetic().step(Synthetic().begin([0]), [1.2])),
        ("thresholds", lambda: Synthetic().step(Synthetic().begin([0]), [float("nan")])),
        ("scores", lambda: Scored(np.array([0.5, np.nan]), np.array([0, 1]), np.array([0, 1]))),
        ("groups", lambda: Scored(np.array([0.5, 0.6]), np.array([1, 1]), np.array([0, 1]))),
        ("outcomes", lambda: Scored(np.array([0.5, 0.6]), np.array([0, 1]), np.array([0, 2]))),
        ("rounds", lambda: sweep(Synthetic(), GRID, [0], rounds=1)),
        (r"grid: .* \[0, 1\]", lambda: sweep(Synthetic(), np.array([0.5, 1.2]), [0], rounds=4)),
        ("grid: .* increase", lambda: sweep(Synthetic(), np.array([0.7, 0.5]), [0], rounds=4)),
        ("seeds", lambda: sweep(Synthetic(), GRID, [])), ("seeds", lambda: sweep(Synthetic(), GRID, 3)),
        ("rounds=-1: must be at least 1", lambda: run(Synthetic(), OFS(), GRID, -1, [0])),
        ("base=.*two finite numbers", lambda: Synthetic(base=(0.0, 0.0, 1.0))),
        ("base=1.0", lambda: Synthetic(base=1.0)), ("base: must be", lambda: Synthetic(base=("a", "b"))),
        ("base=", lambda: Synthetic(base=(0.0, np.nan))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            bad()


def test_real_scores_are_out_of_fold(data_file: Any) -> None:
    german = german_credit(pl.read_parquet(data_file("german-credit/german.parquet")))
    assert german.outcomes.mean() == 0.7 and german.groups.sum() == 190
    defendants = compas(pl.read_parquet(data_file("compas-deidentified/compas.parquet")))
    assert defendants.groups.sum() == 3175 and defendants.outcomes.mean() == pytest.approx(1 - 0.4551, abs=1e-4)
    from sklearn.metrics import roc_auc_score

    assert 0.75 < roc_auc_score(german.outcomes, german.scores) < 0.81  # in-sample it is above 0.83
    assert 0.68 < roc_auc_score(defendants.outcomes, defendants.scores) < 0.76
