"""People who arrive in small groups, labels that only acceptance reveals, and a panel that watches: the whole loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.auditors import Panel, most_unfair
from heedful.bandits.checks import between, numbers_of, whole
from heedful.bandits.classification_oracles import ClassificationOracle
from heedful.bandits.linear_rules import LinearRules
from heedful.bandits.one_sided import Labels, OneSidedLearner, OneSidedMethod

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Applicants:
    """A pool from which people are drawn with replacement.

    Attributes:
        features: float64 ``[N, d]``, in [0, 1], N at least 1; the last says who belongs to the group that biased rules
            favour.
        labels: int64 ``[N]``, 1 good, 0 bad.
        good_rate: share of good people among those who arrive, in [0, 1]; None: as in the pool.

    Raises ValueError for other shapes, numbers out of range, labels that are not 0 or 1, and a good rate for a pool
    that lacks good or bad people.
    """

    features: Floats
    labels: NDArray[np.int64]
    good_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("features", "labels"):
            object.__setattr__(self, name, numbers_of(name, getattr(self, name)))
        if self.features.ndim != 2 or self.labels.shape != (len(self.features),) or not len(self.labels):
            raise ValueError("features: must have shape [N, d] with at least one person, and labels [N]")
        if not ((self.features >= 0) & (self.features <= 1)).all():
            raise ValueError("features: must be in [0, 1]")
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError("labels: must be 0 or 1")
        object.__setattr__(self, "labels", self.labels.astype(np.int64))
        if self.good_rate is not None:
            between("good_rate", self.good_rate, 0.0, 1.0)
            if self.labels.min() == self.labels.max():
                raise ValueError(f"good_rate={self.good_rate}: must be None for a pool that lacks good or bad people")

    def draw(self, rounds: int, people: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """int64 ``[rounds, people]``: who arrives."""
        if self.good_rate is None:
            return rng.integers(len(self.labels), size=(rounds, people))
        good, bad = np.flatnonzero(self.labels == 1), np.flatnonzero(self.labels == 0)
        luck = rng.random((rounds, people)) < self.good_rate
        return np.where(luck, rng.choice(good, luck.shape), rng.choice(bad, luck.shape))


def german_applicants(table: pl.DataFrame, good_rate: float | None = None) -> Applicants:
    """German Credit: checking account, savings, employment (the better, the higher), short duration, small amount, age;
    the favoured are men."""
    import polars as pl

    order = {
        "checking_status": ["A11", "A12", "A13", "A14"],
        "savings": ["A61", "A62", "A63", "A64", "A65"],
        "employment_since": ["A71", "A72", "A73", "A74", "A75"],
    }
    columns = []
    for name, codes in order.items():
        places = {code: i / (len(codes) - 1) for i, code in enumerate(codes)}
        columns.append(pl.col(name).replace_strict(places, return_dtype=pl.Float64))
    for name, sign in (("duration_months", -1), ("credit_amount", -1), ("age_years", 1)):
        value = pl.col(name) * sign
        columns.append((value - value.min()) / (value.max() - value.min()))
    men = (~pl.col("personal_status_sex").is_in(["A92", "A95"])).cast(pl.Float64)
    features = table.select(*columns, men.alias("men")).to_numpy()
    return Applicants(np.ascontiguousarray(features), (table["credit_risk"] == 1).cast(int).to_numpy(), good_rate)


def compas_applicants(table: pl.DataFrame, good_rate: float | None = None) -> Applicants:
    """COMPAS: few priors (15 and more count alike), two age flags, sex, misdemeanour, low score; good is no new
    offence; the favoured are those who are not African American."""
    import polars as pl

    features = table.select(
        -(pl.col("Number_of_Priors").clip(0, 15) / 15) + 1,
        pl.col("Age_Above_FourtyFive").cast(pl.Float64),
        (pl.col("Age_Below_TwentyFive") == 0).cast(pl.Float64),
        pl.col("Female").cast(pl.Float64),
        pl.col("Misdemeanor").cast(pl.Float64),
        (pl.col("score_factor") == 0).cast(pl.Float64),
        (pl.col("African_American") == 0).cast(pl.Float64),
    ).to_numpy()
    return Applicants(np.ascontiguousarray(features), 1 - table["Two_yr_Recidivism"].to_numpy(), good_rate)


class History(NamedTuple):
    """A run.

    Attributes:
        arrivals: int64 ``[T, k]``: who arrived.
        treatment: float64 ``[T, k]``: with which probability the policy accepted each.
        accepted: bool ``[T, k]``.
        reported: int64 ``[T, 2]``: places of the reported pair; -1 where there was none.
        tolerances: float64 ``[T, k, k]``: the distances that decided for the panel.
        errors: float64 ``[T]``: expected errors of the policy in a round, rejected people included.
    """

    arrivals: NDArray[np.int64]
    treatment: Floats
    accepted: NDArray[np.bool_]
    reported: NDArray[np.int64]
    tolerances: Floats
    errors: Floats

    @property
    def violations(self) -> NDArray[np.bool_]:
        """bool ``[T]``: where a pair was reported."""
        return self.reported[:, 0] >= 0


def run(
    pool: Applicants, rules: LinearRules | ClassificationOracle, panel: Panel | Callable[[int], Panel],
    method: OneSidedMethod, rounds: int, seed: int, people: int = 4, prior: Floats | None = None,
) -> History:  # fmt: skip
    """A method among applicants under a panel, told of every round at once.

    Args:
        pool: who may arrive.
        rules: among which it chooses; an optimiser over them for FTPL.
        panel: who watches; or a function of the round, for panels that change.
        method: the learner.
        rounds: how many.
        seed: of arrivals and of the learner; arrivals are the same for all methods.
        people: k, how many arrive in a round.
        prior: losses to begin with, float64 ``[H]``; None: 0, and for methods that take none.

    Raises ValueError as the parts do.
    """
    arrivals = arrivals_of(pool, rounds, people, seed)
    return play(method.start(rules, people, seed, prior), pool, panel, arrivals)


def arrivals_of(pool: Applicants, rounds: int, people: int, seed: int) -> NDArray[np.int64]:
    """int64 ``[rounds, people]``: who arrives in a run with this seed."""
    return pool.draw(whole("rounds", rounds), people, np.random.default_rng([seed, 1]))


def play(
    learner: OneSidedLearner, pool: Applicants, panel: Panel | Callable[[int], Panel], arrivals: NDArray[np.int64]
) -> History:
    """The rounds of :func:`run` with a learner that has been started, for arrivals int64 ``[T, k]``."""
    treatment, accepted = np.empty(arrivals.shape), np.empty(arrivals.shape, dtype=np.bool_)
    reported, tolerances = np.full((len(arrivals), 2), -1), np.empty((*arrivals.shape, arrivals.shape[1]))
    truth = pool.labels[arrivals].astype(np.float64)
    for t in range(len(arrivals)):
        arrived = pool.features[arrivals[t]]
        decision = learner.decide(arrived)
        watching = panel(t) if callable(panel) else panel
        treatment[t], accepted[t] = decision.treatment, decision.accepted
        tolerances[t] = watching.tolerances(arrived)
        pair = most_unfair(decision.treatment, tolerances[t], watching.alpha)
        if pair is not None:
            reported[t] = pair
        labels = truth[t] if learner.method.sees_all else np.where(decision.accepted, truth[t], np.nan)
        learner.update(Labels(decision.token, labels, pair))
    errors = np.where(truth == 1, 1.0 - treatment, treatment).sum(axis=1)
    return History(arrivals, treatment, accepted, reported, tolerances, errors)
