"""Thresholds learned online on a user's people: the fast loop is the plain one, and what is reported is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heedful.bandits import OFS, Outcome
from heedful.bandits.commands import online, scores

TERMS = scores.Terms(0.1, 1.0, 1.0)


def some(n: int = 600, seed: int = 0) -> scores.People:
    """Two groups, one of lower scores; outcomes follow the score; a tenth was never observed."""
    rng = np.random.default_rng(seed)
    groups = (rng.random(n) < 0.4).astype(np.int64)
    found = 1 / (1 + np.exp(-(np.where(groups, 0.1, 0.6) + rng.normal(size=n))))
    outcomes = np.where(rng.random(n) < 0.1, np.nan, rng.random(n) < found)
    return scores.People(found, groups, ("A", "B"), outcomes)


@pytest.mark.parametrize("cohort", [1, 30])
def test_learning_equals_a_plain_loop(cohort: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "SEEDS", 2)
    people, grid = some(), np.array([0.2, 0.45, 0.7])
    terms, plan = scores.Terms(0.1, 2.0, 4.0), online.Plan(rounds=80, cohort=cohort, seed=3)
    method = OFS(eps=0.1, scale="auto")
    played = online.learn(people, grid, terms, plan, method)
    rng = np.random.default_rng(3)
    drawn = [rng.integers(600, size=(2, cohort)) for _ in range(80)]
    for lane in range(2):
        learner = method.start([0.25, 0.5, 0.75])
        for t in range(80):
            decision = learner.decide()
            assert decision.point == played[t, lane]
            reward, known = 0.0, 0
            accepted, members = [0, 0], [0, 0]
            for i in drawn[t][lane]:
                taken, outcome = people.scores[i] >= grid[decision.point], people.outcomes[i]
                members[people.groups[i]] += 1
                accepted[people.groups[i]] += int(taken)
                known += not np.isnan(outcome)
                if taken and not np.isnan(outcome):
                    reward += 0.5 if outcome == 1 else -1.0
            gap = accepted[0] / members[0] - accepted[1] / members[1] if all(members) else np.nan
            learner.update(Outcome(decision.token, reward / max(1, known), gap, sum(accepted) / cohort))


def test_rewards_in_other_units_change_no_decision() -> None:
    people, grid, plan, method = some(), np.array([0.2, 0.45, 0.7]), online.Plan(60, 20), OFS(eps=0.1, scale="auto")
    first = online.learn(people, grid, TERMS, plan, method)
    assert np.array_equal(first, online.learn(people, grid, replace(TERMS, gain=64.0, loss=64.0), plan, method))


def test_the_best_fixed_threshold_is_the_best_that_keeps_the_tolerance() -> None:
    worth = online.Worth(np.array([0.1, 0.3, 0.2]), np.array([0.0, 0.2, 0.05]))
    assert [worth.best(tolerance) for tolerance in (0.3, 0.1, 0.01)] == [1, 2, 0]
    assert worth._replace(gap=worth.gap + 0.02).best(0.0) == 0


def test_rows_say_what_was_played_in_terms_of_all_people() -> None:
    people, plan = some(), online.Plan(rounds=500, cohort=100)
    found, course = online.rows(people.part(0, 300), people.part(300, 600), TERMS, plan, lambda *_: None)
    rows = {row["policy"]: row for row in found}
    assert list(rows) == ["best fixed", "ofs", "primal-dual-ucb", "pessimistic-search", "threshold-ucb"]
    best, ofs, free = rows["best fixed"], rows["ofs"], rows["threshold-ucb"]
    measured = people.part(300, 600)
    assert best["reward"] == pytest.approx(measured.rewards(best["threshold"], TERMS).mean())
    assert best["late_gap"] == pytest.approx(measured.gap(best["threshold"])) and best["violation"] == 0
    assert ofs["violation"] < 0.5 * free["violation"] and free["late_reward"] > ofs["late_reward"]
    assert ofs["reward_low"] <= ofs["reward"] <= ofs["reward_high"]
    last = {row["policy"]: row for row in course if row["round"] == 500}
    for name in list(rows)[1:]:
        assert last[name]["violation"] == pytest.approx(500 * rows[name]["violation"])
        assert last[name]["reward"] == pytest.approx(rows[name]["reward"])
