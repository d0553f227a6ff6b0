"""A user's scored people: which threshold earns the most while groups are accepted at rates within a tolerance.

Accepted are those with a score of at least the threshold, the same for all groups. Who was never observed counts in
acceptance rates and not in rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.commands.measuring import Intervals
from heedful.bandits.commands.tables import Floats, Source, check_columns, check_roles, numbers, read_table, texts
from heedful.lab.errors import LabError

GRID = 99
"""Thresholds that are tried: so many quantiles of the scores."""
LEAST_PEOPLE = 50
"""In each part."""


@dataclass(frozen=True, eq=False)
class People:
    """Scored people, in order.

    Attributes:
        scores: float64 ``[n]``.
        groups: int64 ``[n]``, numbers of ``labels``.
        labels: what groups are called, at least two.
        outcomes: float64 ``[n]``: 0 or 1; NaN if it was never observed.
    """

    scores: Floats
    groups: NDArray[np.int64]
    labels: tuple[str, ...]
    outcomes: Floats

    def part(self, start: int, stop: int) -> People:
        """The rows ``[start, stop)``."""
        rows = slice(start, stop)
        return People(self.scores[rows], self.groups[rows], self.labels, self.outcomes[rows])

    def rates(self, threshold: float) -> Floats:
        """float64 ``[groups]``: shares that are accepted."""
        accepted = self.scores >= threshold
        totals = np.bincount(self.groups, minlength=len(self.labels))
        return np.bincount(self.groups, weights=accepted, minlength=len(self.labels)) / totals

    def gap(self, threshold: float) -> float:
        """The largest difference between two groups' rates."""
        return float(np.ptp(self.rates(threshold)))

    def rewards(self, threshold: float, terms: Terms) -> Floats:
        """float64 ``[observed]``: what each person whose outcome is known brings; 0 for the rejected."""
        known = ~np.isnan(self.outcomes)
        paid = np.where(self.outcomes[known] == 1, terms.gain, -terms.loss)
        return np.where(self.scores[known] >= threshold, paid, 0.0)

    def candidates(self, number: int = GRID) -> Floats:
        """Thresholds to try: so many quantiles of the scores, fewer where they tie."""
        return np.unique(np.quantile(self.scores, np.linspace(0, 1, number + 2)[1:-1]))


@dataclass(frozen=True)
class Terms:
    """What is at stake.

    Attributes:
        tolerance: by how much groups' acceptance rates may differ, in [0, 1].
        gain: what an accepted person with outcome 1 brings, at least 0.
        loss: what one with outcome 0 costs, at least 0.
    """

    tolerance: float
    gain: float
    loss: float


def fixed(people: People, terms: Terms) -> float:
    """One half, whoever comes."""
    return 0.5


def unconstrained(people: People, terms: Terms) -> float:
    """The best threshold if rates did not matter."""
    return max(people.candidates(), key=lambda at: people.rewards(at, terms).mean())


def parity(people: People, terms: Terms) -> float:
    """The best threshold of those that keep the tolerance; the one with the smallest gap if there is none."""
    tried = people.candidates()
    fair = [at for at in tried if people.gap(at) <= terms.tolerance]
    if not fair:
        return min(tried, key=people.gap)
    return max(fair, key=lambda at: people.rewards(at, terms).mean())


RULES: dict[str, Callable[[People, Terms], float]] = {
    "fixed-0.5": fixed,
    "unconstrained": unconstrained,
    "parity": parity,
}
"""Ways to a threshold from people whose outcomes are known, by name."""


def read_people(path: Path, score: str, group: str, outcome: str, wanted: Sequence[str] | None) -> People:
    """Scored people from a CSV or Parquet file; ``wanted``: the groups that are meant, None for all that appear.

    Raises LabError for missing columns, one column for two things, scores that are no numbers, outcomes other than 0, 1
    and null, none at all, fewer than two groups, and a group that never appears. NaN is a missing outcome.
    """
    source = Source("--scores", path)
    table = read_table(source)
    check_columns(table, (score, group, outcome), source)
    check_roles((("--score", score), ("--group", group), ("--outcome", outcome)), source)
    names = texts(table, group, source)
    labels = tuple(sorted(set(names))) if wanted is None else tuple(dict.fromkeys(wanted))
    for label in labels:
        if label not in names:
            raise LabError(f"{source}: group {label!r} never appears in {group!r}; there are: {_some(names)}")
    if len(labels) < 2:
        held = f"{group!r} holds" if wanted is None else "--groups names"
        raise LabError(f"{source}: {held} one group, {labels[0]!r}; rates of one cannot differ")
    kept = np.array([name in labels for name in names])
    scores = numbers(table, score, source)[kept]
    outcomes = numbers(table, outcome, source, missing=True)
    odd = ~np.isnan(outcomes) & ~np.isin(outcomes, (0.0, 1.0))
    if odd.any():
        row = int(odd.argmax())
        raise LabError(f"{source}: {outcome!r} must be 0, 1 or missing, is {outcomes[row]:g} in {source.place(row)}")
    if np.isnan(outcomes).all():
        raise LabError(f"{source}: no outcome was observed: {outcome!r} is missing in every row")
    groups = np.array([labels.index(name) for name in names if name in labels])
    return People(scores, groups, labels, outcomes[kept])


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(set(names))[:10])


def check_parts(people: People, cut: int) -> tuple[People, People]:
    """The people that thresholds are found on, and those that they are measured on.

    Raises LabError if one of the parts lacks a group, or outcomes, or has fewer than 50 people.
    """
    parts = people.part(0, cut), people.part(cut, len(people.scores))
    for part, what in zip(parts, ("that thresholds are found on", "that is measured")):
        for place, label in enumerate(people.labels):
            if not (part.groups == place).any():
                raise LabError(f"--split: group {label!r} does not appear in the part {what}")
        if np.isnan(part.outcomes).all():
            raise LabError(f"--split: no outcome was observed in the part {what}")
        if len(part.scores) < LEAST_PEOPLE:
            raise LabError(f"--split: the part {what} has {len(part.scores)} people; it needs {LEAST_PEOPLE}")
    return parts


def rows(before: People, measured: People, terms: Terms) -> list[dict[str, Any]]:
    """A row per rule: its threshold, found on the first part, and what it does on the second."""
    found = []
    n = len(measured.scores)
    known = ~np.isnan(measured.outcomes)
    for name, rule in RULES.items():
        if rule is fixed and not ((before.scores >= 0) & (before.scores <= 1)).all():
            continue  # one half says nothing of scores on another scale
        threshold = float(rule(before, terms))
        rates, accepted = measured.rates(threshold), measured.scores >= threshold
        rewards = np.zeros(n)
        rewards[known] = measured.rewards(threshold, terms)
        intervals = Intervals(None, n)
        low, high = intervals(rewards, known.astype(np.float64))
        high_group, low_group = int(rates.argmax()), int(rates.argmin())
        gap = float(rates[high_group] - rates[low_group])
        residuals = np.full(n, gap)
        for group, sign in ((high_group, 1.0), (low_group, -1.0)):
            inside = measured.groups == group
            residuals[inside] += sign * (accepted[inside] - rates[group]) / inside.mean()
        gap_low, gap_high = intervals(residuals, np.ones(n))
        found.append(
            {
                "policy": name,
                "threshold": threshold,
                "reward": float(rewards.sum() / known.sum()),
                "reward_low": low,
                "reward_high": high,
                "gap": gap,
                "gap_low": gap_low,
                "gap_high": gap_high,
                "kept": gap <= terms.tolerance,
                "accepted": float(accepted.mean()),
                **{f"accepted {label}": float(rates[place]) for place, label in enumerate(measured.labels)},
                "unobserved": float((~known[accepted]).mean()) if accepted.any() else 0.0,
            }
        )
    return found
