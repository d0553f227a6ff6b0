"""Thresholds learned online on a user's own people: what it costs to find one while decisions are already made.

Every round a cohort is drawn with replacement from the measured people, one threshold is played for it, and only what
that threshold brought is told. The population stays as it is, whatever is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.commands.scores import People, Terms
from heedful.bandits.commands.tables import Floats
from heedful.bandits.ofs import OFS
from heedful.bandits.primal_dual import PrimalDualUCB
from heedful.bandits.threshold_baselines import PessimisticSearch, ThresholdUCB
from heedful.bandits.thresholds import Outcomes, ThresholdMethod
from heedful.lab.intervals import t_interval

POINTS, SEEDS = 25, 20
"""Thresholds to choose from, quantiles of the first part's scores; and how many times each method learns anew."""
BEST = "best fixed"
"""What knows everything beforehand."""
_SPREAD = ("reward", "late_reward", "late_gap", "violation")
"""What is measured once per seed."""


def methods(tolerance: float) -> dict[str, ThresholdMethod]:
    """The learners, with their defaults; spreads of a cohort's numbers are estimated by all alike."""
    found: tuple[ThresholdMethod, ...] = (
        OFS(eps=tolerance, scale="auto"), PrimalDualUCB(eps=tolerance, scale="auto"),
        PessimisticSearch(eps=tolerance, scale="auto"), ThresholdUCB(scale="auto"),
    )  # fmt: skip
    return {method.name: method for method in found}


class Worth(NamedTuple):
    """What each threshold does to the people as a whole, float64 ``[K]``.

    Attributes:
        reward: per person whose outcome is known.
        gap: between the acceptance rates of the two groups.
    """

    reward: Floats
    gap: Floats

    @classmethod
    def of(cls, people: People, grid: Floats, terms: Terms) -> Worth:
        """By counting."""
        rewards = [people.rewards(at, terms).mean() for at in grid]
        return cls(np.array(rewards), np.array([people.gap(at) for at in grid]))

    def best(self, tolerance: float) -> int:
        """The point with the largest reward of those within the tolerance; without any, the one with the least gap."""
        fair = self.gap <= tolerance
        return int(np.where(fair, self.reward, -np.inf).argmax() if fair.any() else self.gap.argmin())


@dataclass(frozen=True)
class Plan:
    """How long and in what portions is learned.

    Attributes:
        rounds: how many, at least 1.
        cohort: people per round, at least 1.
        seed: of the cohorts, the same for every method.
    """

    rounds: int
    cohort: int
    seed: int = 0


def learn(people: People, grid: Floats, terms: Terms, plan: Plan, method: ThresholdMethod) -> NDArray[np.int64]:
    """The points that a method plays, int64 ``[rounds, SEEDS]``.

    It is told each cohort's reward per person whose outcome is known, in units of the larger of gain and loss. A cohort
    that lacks a group tells nothing about the gap; one without a known outcome counts as 0.
    """
    rng, unit = np.random.default_rng(plan.seed), max(terms.gain, terms.loss) or 1.0
    known = ~np.isnan(people.outcomes)
    paid = np.where(known, np.where(people.outcomes == 1, terms.gain, -terms.loss), 0.0) / unit
    second = people.groups == 1
    learner = method.many(np.arange(1, len(grid) + 1) / (len(grid) + 1), seeds=range(SEEDS))
    points = np.empty((plan.rounds, SEEDS), dtype=np.int64)
    for t in range(plan.rounds):
        decision = learner.decide()
        points[t] = decision.points
        drawn = rng.integers(len(people.scores), size=(SEEDS, plan.cohort))
        accepted = people.scores[drawn] >= grid[points[t], None]
        reward = (accepted * paid[drawn]).sum(axis=1) / np.maximum(1, known[drawn].sum(axis=1))
        of_second = second[drawn]
        both = np.count_nonzero(accepted, axis=1)
        taken, members = np.count_nonzero(accepted & of_second, axis=1), np.count_nonzero(of_second, axis=1)
        with np.errstate(invalid="ignore"):
            gap = (both - taken) / (plan.cohort - members) - taken / members
        learner.update(Outcomes(decision.token, reward, gap, both / plan.cohort))
    return points


def rows(
    before: People, measured: People, terms: Terms, plan: Plan, progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per method, the best fixed threshold first; and rows of how it went: policy, round, reward, violation.

    Args:
        before: people whose scores give the grid, in two groups.
        measured: people whom cohorts are drawn from.
        terms: what is at stake.
        plan: how long.
        progress: told how many methods are done, of how many.
    """
    grid = before.candidates(POINTS)
    worth = Worth.of(measured, grid, terms)
    over = np.maximum(worth.gap - terms.tolerance, 0.0)
    best = worth.best(terms.tolerance)
    alone = {
        "policy": BEST, "threshold": float(grid[best]), "reward": float(worth.reward[best]),
        "late_reward": float(worth.reward[best]), "late_gap": float(worth.gap[best]), "violation": float(over[best]),
    }  # fmt: skip
    found: list[dict[str, Any]] = [alone | {f"{name}_{end}": None for name in _SPREAD for end in ("low", "high")}]
    course: list[dict[str, Any]] = []
    late = slice(-max(1, plan.rounds // 5), None)
    told = np.unique(np.linspace(1, plan.rounds, 60).astype(np.int64))
    learners = methods(terms.tolerance)
    for done, (name, method) in enumerate(learners.items()):
        progress(done, len(learners))
        points = learn(measured, grid, terms, plan, method)
        per_seed = {
            "reward": worth.reward[points].mean(axis=0), "late_reward": worth.reward[points[late]].mean(axis=0),
            "late_gap": worth.gap[points[late]].mean(axis=0), "violation": over[points].mean(axis=0),
        }  # fmt: skip
        row: dict[str, Any] = {"policy": name, "threshold": float(grid[np.bincount(points[late].ravel()).argmax()])}
        for key, values in per_seed.items():
            row[key] = float(values.mean())
            row[f"{key}_low"], row[f"{key}_high"] = t_interval(values, None)
        found.append(row)
        counts = np.arange(1, plan.rounds + 1)
        reward = worth.reward[points].mean(axis=1).cumsum() / counts
        violation = over[points].mean(axis=1).cumsum()
        course += [
            {"policy": name, "round": int(t), "reward": float(reward[t - 1]), "violation": float(violation[t - 1])}
            for t in told
        ]
    return found, course
