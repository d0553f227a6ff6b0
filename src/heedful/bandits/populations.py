"""People with scores: made from the public tables, for the closed loops of :mod:`~heedful.bandits.lending`.

Scores are out of fold: nobody's own outcome has a part in their score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import between, numbers_of

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]


def _as_numbers(people: Scored | ScoreTable, *names: str) -> None:
    """Makes attributes float64. Raises ValueError, naming one that is no array of numbers."""
    for name in names:
        object.__setattr__(people, name, numbers_of(name, getattr(people, name)))


@dataclass(frozen=True, eq=False)
class Scored:
    """People from whom cohorts are drawn.

    Attributes:
        scores: float64 ``[people]``, in [0, 1], the higher the better.
        groups: int64 ``[people]``, 0 or 1, both present.
        outcomes: int64 ``[people]``, 1 is good, 0 is bad.

    Raises ValueError for other lengths and values, NaN among them.
    """

    scores: Floats
    groups: NDArray[np.int64]
    outcomes: NDArray[np.int64]

    def __post_init__(self) -> None:
        _as_numbers(self, "scores", "groups", "outcomes")
        if not (self.scores.ndim == 1 and self.scores.shape == self.groups.shape == self.outcomes.shape):
            raise ValueError("scores: must be a list, with as many groups and outcomes")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("scores: must be in [0, 1]")
        if set(np.unique(self.groups)) != {0, 1}:
            raise ValueError("groups: must be 0 and 1, both present")
        if not np.isin(self.outcomes, (0, 1)).all():
            raise ValueError("outcomes: must be 0 or 1")
        for name in ("groups", "outcomes"):
            object.__setattr__(self, name, getattr(self, name).astype(np.int64))


def german_credit(table: pl.DataFrame) -> Scored:
    """Credit applicants; group 1 is 25 years old or younger, outcome 1 is a good risk.

    Scores: logistic regression (C = 0.05) on standardised numbers and one-hot codes, 5 folds.
    """
    coded = [name for name, kind in table.schema.items() if not kind.is_numeric()]
    features = table.drop("credit_risk").to_dummies(coded)
    outcomes = (table["credit_risk"] == 1).cast(int).to_numpy()
    return Scored(_scores(features.to_numpy(), outcomes), (table["age_years"] <= 25).cast(int).to_numpy(), outcomes)


def compas(table: pl.DataFrame) -> Scored:
    """Defendants; group 1 is African American, outcome 1 is no new offence within two years.

    Scores: logistic regression (C = 0.05) on priors, two age flags, sex and misdemeanour, not on race; 5 folds.
    """
    columns = ["Number_of_Priors", "Age_Above_FourtyFive", "Age_Below_TwentyFive", "Female", "Misdemeanor"]
    outcomes = 1 - table["Two_yr_Recidivism"].to_numpy()
    return Scored(_scores(table.select(columns).to_numpy(), outcomes), table["African_American"].to_numpy(), outcomes)


def _scores(features: Any, outcomes: NDArray[np.int64]) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(model, features.astype(np.float64), outcomes, cv=folds, method="predict_proba")
    return np.ascontiguousarray(found[:, 1])


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """A credit bureau's scores in two groups.

    Attributes:
        scores: float64 ``[n]``, in [0, 100], increasing.
        shares: float64 ``[2, n]``: of each group's people at each score; rows sum to 1.
        repaid: float64 ``[2, n]``: the chance that somebody with that score repays.
        share: of group 1 among all people, in [0, 1].

    Raises ValueError for other shapes and values, NaN among them.
    """

    scores: Floats
    shares: Floats
    repaid: Floats
    share: float

    def __post_init__(self) -> None:
        _as_numbers(self, "scores", "shares", "repaid")
        if self.scores.ndim != 1 or not self.scores.size or not (np.diff(self.scores) > 0).all():
            raise ValueError("scores: must be a list of increasing numbers")
        if not (self.scores[0] >= 0 and self.scores[-1] <= 100):
            raise ValueError("scores: must be in [0, 100]")
        for name in ("shares", "repaid"):
            array, shape = getattr(self, name), (2, len(self.scores))
            if array.shape != shape or not ((array >= 0) & (array <= 1)).all():
                raise ValueError(f"{name}: must be numbers in [0, 1] of shape {list(shape)}, has {list(array.shape)}")
        if not np.allclose(self.shares.sum(axis=1), 1.0, rtol=0, atol=1e-6):
            raise ValueError("shares: rows must sum to 1")
        between("share", self.share, 0.0, 1.0)


def fico(cdf: pl.DataFrame, performance: pl.DataFrame, totals: pl.DataFrame) -> ScoreTable:
    """TransRisk scores of white (group 0) and black (group 1) people."""
    groups = ["Non- Hispanic white", "Black"]
    cumulative = cdf.select(groups).to_numpy().T / 100.0
    shares = np.clip(np.diff(cumulative, axis=1, prepend=0.0), 0.0, None)
    people = totals.select(groups).to_numpy()[0]
    return ScoreTable(
        cdf["Score"].to_numpy(),
        shares / shares.sum(axis=1, keepdims=True),
        1.0 - np.ascontiguousarray(performance.select(groups).to_numpy().T) / 100.0,
        float(people[1] / people.sum()),
    )
