"""Closed loops: every threshold changes who applies next.

In each round a cohort comes from the population as it is now, everybody with a score of at least the threshold is
accepted, and the acceptance rates and outcomes of that cohort move the population. Many lanes (seeds) run together in
one compiled step. Beside what the cohort showed, each round says what was to be expected of the population: its mean
reward and acceptance rates, exact for the state in which the cohort was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from heedful.bandits.arms import ArmMethod, Rewards
from heedful.bandits.checks import between, numbers_of, whole
from heedful.bandits.lending_rounds import fico_round, pool_round, synthetic_round
from heedful.bandits.populations import Floats, Scored, ScoreTable
from heedful.bandits.streams import streams
from heedful.bandits.thresholds import Outcomes, thresholds_of

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


class Loop(NamedTuple):
    """Where a population stands.

    Attributes:
        population: float64 ``[lanes, 3]``: two numbers about the groups (mean logits, or shifts of scores in points, as
            the environment says) and the share of group 1.
        words: uint64 ``[lanes, 4]``: random streams.
    """

    population: Floats
    words: NDArray[np.uint64]


class Round(NamedTuple):
    """What a round showed, and what was to be expected; float64 ``[lanes]`` each.

    Attributes:
        reward: mean over the cohort.
        rates: ``[lanes, 2]``: acceptance rates of the groups; NaN where a group was absent.
        rate: acceptance rate of all.
        expected_reward: of the population.
        expected_rates: ``[lanes, 2]``, of the population.
        expected_rate: of the population.
    """

    reward: Floats
    rates: Floats
    rate: Floats
    expected_reward: Floats
    expected_rates: Floats
    expected_rate: Floats


@dataclass(frozen=True)
class ClosedLoop:
    """A population that answers thresholds.

    Attributes:
        cohort: people per round, at least 1.
        eta: how fast the population answers, in [0, 1]; 0: not at all.
        u_plus: what an accepted person with a good outcome brings.
        u_minus: what one with a bad outcome costs.
    """

    cohort: int = 200
    eta: float = 0.02
    u_plus: float = 1.0
    u_minus: float = 1.0

    def __post_init__(self) -> None:
        whole("cohort", self.cohort)
        between("eta", self.eta, 0.0, 1.0)
        for name in ("u_plus", "u_minus"):
            between(name, getattr(self, name), 0.0)

    @property
    def at_first(self) -> tuple[float, float, float]:
        """The population at the start: see :class:`Loop`."""
        raise NotImplementedError

    def begin(self, seeds: Sequence[int]) -> Loop:
        """A lane per seed. Raises ValueError for seeds that are no whole numbers of at least 0."""
        words = streams(seeds)
        return Loop(np.tile(np.array(self.at_first), (len(words), 1)), words)

    def step(self, loop: Loop, thresholds: ArrayLike) -> Round:
        """One round in every lane.

        Args:
            loop: changes in place.
            thresholds: float64 ``[lanes]``, in [0, 1].

        Raises ValueError for other thresholds.
        """
        cuts = np.array(thresholds, dtype=np.float64)
        if cuts.shape != (len(loop.words),) or not ((cuts >= 0) & (cuts <= 1)).all():
            raise ValueError(f"thresholds: must be {len(loop.words)} numbers in [0, 1]")
        out = np.empty((len(cuts), 8))
        self.play(loop, cuts, out)
        return Round(out[:, 0], out[:, 1:3], out[:, 3], out[:, 4], out[:, 5:7], out[:, 7])

    def play(self, loop: Loop, cuts: Floats, out: Floats) -> None:
        """Fills in float64 ``[lanes, 8]`` in the order of :class:`Round`, and moves the population."""
        raise NotImplementedError


@dataclass(frozen=True)
class Synthetic(ClosedLoop):
    """Two groups with normal logits, whose means follow their acceptance rates.

    Score ``sigmoid(mu_g + N(0, 1))``, outcome good with the score as its chance; after a round with rates a_0, a_1,
    ``mu_g += eta (base_g + beta (a_g - 1/2) - harm |a_0 - a_1| - mu_g)`` and
    ``q += eta (1/2 + 0.3 (a_1 - a_0) - q)`` for the share q of group 1, kept within [0.05, 0.95]. Under a fixed
    threshold it contracts if ``0.399 beta < 1`` (without harm). A round that lacks a group moves nothing.

    Attributes:
        cohort, eta, u_plus, u_minus: see :class:`ClosedLoop`.
        beta: how strongly mean logits follow acceptance, any number.
        harm: how much inequality lowers both, at least 0.
        base: mean logits of the two groups at rest, where they start; two finite numbers.
        share: of group 1 at first, in [0.05, 0.95].

    Raises ValueError for numbers out of range, and for a base that is not of two groups.
    """

    beta: float = 0.4
    harm: float = 0.0
    base: tuple[float, float] = (0.6, -0.2)
    share: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        between("beta", self.beta, -np.inf)
        between("harm", self.harm, 0.0)
        between("share", self.share, 0.05, 0.95)
        base = numbers_of("base", self.base)
        if base.shape != (2,) or not np.isfinite(base).all():
            raise ValueError(f"base={self.base!r}: must be two finite numbers, the mean logits of the groups")
        object.__setattr__(self, "base", tuple(base.tolist()))

    @property
    def at_first(self) -> tuple[float, float, float]:
        return (*self.base, self.share)

    def play(self, loop: Loop, cuts: Floats, out: Floats) -> None:
        synthetic_round(
            loop.population, loop.words, logit(cuts), self.cohort, self.eta, self.beta, self.harm, self.base,
            self.u_plus, self.u_minus, _NODES, _WEIGHTS, out,
        )  # fmt: skip


@dataclass(frozen=True)
class Pool(ClosedLoop):
    """Cohorts drawn with replacement from real people, of whom only the mixture of groups answers.

    After a round ``q += eta (q0 + kappa (a_1 - a_0) - q)``, kept within [0.05, 0.95]; q0 is the share of group 1 among
    the people, where q starts. A round that lacks a group moves nothing.

    Attributes:
        cohort, eta, u_plus, u_minus: see :class:`ClosedLoop`.
        people: who they are.
        kappa: how strongly the mixture answers, any number.
    """

    people: Scored = field(kw_only=True)
    kappa: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        between("kappa", self.kappa, -np.inf)
        people, order = self.people, np.lexsort((self.people.scores, self.people.groups))
        good, first = people.outcomes[order].astype(np.bool_), int((people.groups == 0).sum())
        start = np.array([0, first, len(order)])
        after = np.concatenate([np.append(np.cumsum(part[::-1])[::-1], 0) for part in (good[:first], good[first:])])
        object.__setattr__(self, "_sorted", (people.scores[order], good, start, after))

    @property
    def at_first(self) -> tuple[float, float, float]:
        return (0.0, 0.0, float(self.people.groups.mean()))

    def play(self, loop: Loop, cuts: Floats, out: Floats) -> None:
        scores, good, start, after = self._sorted  # type: ignore[attr-defined]
        pool_round(
            loop.population, loop.words, cuts, self.cohort, self.eta, self.kappa, self.at_first[2],
            self.u_plus, self.u_minus, scores, good, start, after, out,
        )  # fmt: skip


@dataclass(frozen=True)
class CreditBureau(ClosedLoop):
    """Scores of a credit bureau, which rise with repayment and fall with default.

    As in Liu, Dean, Rolf, Simchowitz, Hardt, "Delayed Impact of Fair Machine Learning", ICML 2018: +75 points for
    repayment and -150 for default on the scale ``300 + 5.5 x TransRisk``, rejected people 0. Each group has one mean
    shift, in points, that moves by eta times the mean over its applicants, and decays by eta; shifted scores stay
    within the table. Score ``TransRisk / 100``. The mixture of groups stays.

    Attributes:
        cohort, eta, u_plus, u_minus: see :class:`ClosedLoop`.
        table: scores and chances of repayment.
    """

    table: ScoreTable = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = np.linspace(0.0, 100.0, 2001)
        repaid = np.stack([np.interp(fine, self.table.scores, row) for row in self.table.repaid])
        object.__setattr__(self, "_fine", (np.cumsum(self.table.shares, axis=1), repaid))

    @property
    def at_first(self) -> tuple[float, float, float]:
        return (0.0, 0.0, self.table.share)

    def play(self, loop: Loop, cuts: Floats, out: Floats) -> None:
        ends, repaid = self._fine  # type: ignore[attr-defined]
        fico_round(
            loop.population, loop.words, cuts, self.cohort, self.eta, self.u_plus, self.u_minus,
            self.table.scores, self.table.shares, ends, repaid, out,
        )  # fmt: skip


class History(NamedTuple):
    """A run: int64 and float64 ``[rounds, lanes]``.

    Attributes:
        points: of the grid.
        reward, gap, rate: what cohorts showed; gaps are signed, NaN where a group was absent.
        expected_reward, expected_gap, expected_rate: of the population at that round.
    """

    points: NDArray[np.int64]
    reward: Floats
    gap: Floats
    rate: Floats
    expected_reward: Floats
    expected_gap: Floats
    expected_rate: Floats

    def violation(self, eps: float, rho_min: float | None = None, rho_max: float | None = None) -> Floats:
        """float64 ``[rounds, lanes]``: how far the population, not the noisy cohort, is from what is allowed."""
        found = np.maximum(np.abs(self.expected_gap) - eps, 0.0)
        if rho_min is not None:
            found = np.maximum(found, rho_min - self.expected_rate)
        return found if rho_max is None else np.maximum(found, self.expected_rate - rho_max)


def run(loop: ClosedLoop, method: Any, grid: ArrayLike, rounds: int, seeds: Sequence[int]) -> History:
    """A method in a closed loop, a lane per seed, told of every cohort at once.

    Args:
        loop: where.
        method: of kind ``thresholds``, or ``arms`` without context, for which each threshold is an arm and the reward,
            mapped from [-u_minus, u_plus] to [0, 1], is all that it is told.
        grid: float64 ``[K]``, increasing, in [0, 1].
        rounds: how many, at least 1.
        seeds: of cohorts and of random methods, each at least 0; at least one.

    Raises ValueError for a grid that is empty, not increasing or outside [0, 1], and for other rounds and seeds.
    """
    grid, rounds, arms = thresholds_of(grid), whole("rounds", rounds), isinstance(method, ArmMethod)
    state = loop.begin(seeds)
    learner = method.many(len(grid), seeds=seeds) if arms else method.many(grid, seeds=seeds)
    span = loop.u_plus + loop.u_minus
    points, out = np.empty((rounds, len(seeds)), dtype=np.int64), np.empty((rounds, len(seeds), 8))
    for t in range(rounds):
        decision = learner.decide()
        points[t] = decision.actions if arms else decision.points
        loop.play(state, grid[points[t]], out[t])
        if arms:
            learner.update(Rewards(decision.token, (out[t, :, 0] + loop.u_minus) / span))
        else:
            learner.update(Outcomes(decision.token, out[t, :, 0], out[t, :, 1] - out[t, :, 2], out[t, :, 3]))
    gaps = out[..., [1, 5]] - out[..., [2, 6]]
    return History(points, out[..., 0], gaps[..., 0], out[..., 3], out[..., 4], gaps[..., 1], out[..., 7])


class Sweep(NamedTuple):
    """What each threshold brings when it is played for ever: float64 ``[K]``, of the population.

    Attributes:
        reward, gap, rate: means over the second half of the rounds, and over seeds; gaps are signed.
    """

    reward: Floats
    gap: Floats
    rate: Floats

    def best(self, eps: float, rho_min: float | None = None, rho_max: float | None = None) -> int:
        """The feasible point with the largest reward; where none is feasible, the one closest to it."""
        violation = np.maximum(np.abs(self.gap) - eps, 0.0)
        if rho_min is not None:
            violation = np.maximum(violation, rho_min - self.rate)
        if rho_max is not None:
            violation = np.maximum(violation, self.rate - rho_max)
        if (violation <= 0).any():
            return int(np.where(violation <= 0, self.reward, -np.inf).argmax())
        return int(violation.argmin())


def sweep(loop: ClosedLoop, grid: ArrayLike, seeds: Sequence[int], rounds: int = 500) -> Sweep:
    """Every threshold of the grid alone in the same loop from the same start, for every seed.

    Args:
        loop: where.
        grid: float64 ``[K]``, increasing, in [0, 1].
        seeds: of cohorts, each at least 0; at least one.
        rounds: how many each threshold is played, at least 2; the first half is left out of the means.

    Returns:
        float64 ``[K]`` each.

    Raises ValueError for a grid that is empty, not increasing or outside [0, 1], and for other rounds and seeds.
    """
    grid, rounds = thresholds_of(grid), whole("rounds", rounds, least=2)
    start = loop.begin(seeds)
    state = Loop(np.repeat(start.population, len(grid), axis=0), np.repeat(start.words, len(grid), axis=0))
    cuts = np.tile(grid, len(seeds))
    out, total = np.empty((len(cuts), 8)), np.zeros((len(cuts), 8))
    for t in range(rounds):
        loop.play(state, cuts, out)
        if t >= rounds // 2:
            total += out
    means = total.reshape(len(seeds), len(grid), 8).mean(axis=0) / (rounds - rounds // 2)
    return Sweep(means[:, 4], means[:, 5] - means[:, 6], means[:, 7])
