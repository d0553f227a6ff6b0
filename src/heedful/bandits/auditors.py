"""Auditors who say which of two similar people is treated too well.

Bechavod, Jung, Wu, "Metric-Free Individual Fairness in Online Learning", NeurIPS 2020, arXiv 2002.05474; panels:
Bechavod, Roth, arXiv 2206.04475. Auditor j has a distance d_j of people in [0, 1], and sees the ordered pair (x, x')
violated if ``pi(x) - pi(x') > d_j(x, x') + alpha``. A panel of m sees it if at least a fraction gamma of its members
do, which is ``pi(x) - pi(x') > q + alpha`` with q the ``ceil(gamma m)``-th smallest of the distances.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike

from heedful.bandits.checks import between, numbers_of, whole
from heedful.bandits.linear_rules import Floats


@numba.njit(cache=True, nogil=True)
def _tolerances(people, weights, slack, scale, rank):  # type: ignore[no-untyped-def]
    k, m = len(people), len(weights)
    out, found = np.zeros((k, k)), np.empty(m)
    for a in range(k):
        for b in range(a):
            for j in range(m):
                total = 0.0
                for f in range(people.shape[1]):
                    total += weights[j, f] * abs(people[a, f] - people[b, f])
                found[j] = min(1.0, scale * total + slack[j])
            found.sort()
            out[a, b] = out[b, a] = found[rank]
    return out


@numba.njit(cache=True, nogil=True)
def _largest(treatment, tolerances, alpha):  # type: ignore[no-untyped-def]
    """The pair that exceeds what is tolerated by most, and by how much; -1, -1, 0 if none does."""
    first, second, most = -1, -1, 0.0
    for a in range(len(treatment)):
        for b in range(len(treatment)):
            excess = treatment[a] - treatment[b] - tolerances[a, b] - alpha
            if a != b and excess > most:
                first, second, most = a, b, excess
    return first, second, most


def rank_of(gamma: float, members: int) -> int:
    """Which of the sorted distances, from 0, decides for the panel: ``ceil(gamma m) - 1``."""
    return max(1, int(np.ceil(gamma * members - 1e-9))) - 1


def most_unfair(treatment: Floats, tolerances: Floats, alpha: float) -> tuple[int, int] | None:
    """The ordered pair that violates ``treatment_a - treatment_b <= tolerance + alpha`` by most, or None.

    Args:
        treatment: float64 ``[k]``.
        tolerances: float64 ``[k, k]``.
        alpha: what is tolerated beyond.
    """
    a, b, _ = _largest(treatment, tolerances, alpha)
    return (a, b) if a >= 0 else None


def _checked(distances: ArrayLike, axes: int) -> Floats:
    """float64 ``[..., m, k, k]`` of at least so many axes. Raises ValueError, and warns, as :func:`pooled`."""
    array = numbers_of("distances", distances)
    if array.ndim < axes or array.shape[-3] == 0 or array.shape[-2] != array.shape[-1] or not array.shape[-1]:
        shape = "[T, m, k, k]" if axes == 4 else "[m, k, k]"
        raise ValueError(f"distances: must have shape {shape}, with at least one auditor, has {list(array.shape)}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("distances: must be in [0, 1]")
    if not np.allclose(array, np.swapaxes(array, -1, -2)):
        warnings.warn("distances: are not symmetric", stacklevel=3)
    return array


def pooled(distances: ArrayLike, gamma: float) -> Floats:
    """The distance that decides for the panel: float64 ``[..., k, k]`` from distances ``[..., m, k, k]``.

    Raises ValueError for other shapes, an empty panel, distances outside [0, 1] and gamma outside (0, 1]; warns if
    distances are not symmetric.
    """
    array, gamma = _checked(distances, 3), between("gamma", gamma, 0.0, 1.0, open_low=True)
    return np.sort(array, axis=-3)[..., rank_of(gamma, array.shape[-3]), :, :]


def frontier(treatments: ArrayLike, distances: ArrayLike, alphas: ArrayLike, gammas: ArrayLike) -> Floats:
    """In which share of logged rounds auditors would have reported a pair, had they been asked otherwise.

    Their distances are all that it takes, whoever they were and whether or not they were the same in every round; of a
    :class:`Panel` see :meth:`Panel.frontier`.

    Args:
        treatments: float64 ``[T, k]``, in [0, 1]: the logged policies, T of at least 1.
        distances: float64 ``[T, m, k, k]``, in [0, 1]: the logged distances.
        alphas: float64 ``[A]``, or a number, in [0, 1]: what would be tolerated beyond distances.
        gammas: float64 ``[G]``, or a number, in (0, 1]: the share of auditors that would have to see a violation.

    Returns:
        float64 ``[A, G]``, in [0, 1].

    Raises ValueError for other shapes, an empty log or panel, and numbers out of range; warns if distances are not
    symmetric.
    """
    policies, sorted_ = numbers_of("treatments", treatments), np.sort(_checked(distances, 4), axis=1)
    if policies.ndim != 2 or not policies.size:
        raise ValueError(f"treatments: must have shape [T, k], both at least 1, has {list(policies.shape)}")
    if not ((policies >= 0) & (policies <= 1)).all():
        raise ValueError("treatments: must be in [0, 1]")
    (rounds, k), members = policies.shape, sorted_.shape[1]
    if sorted_.shape != (rounds, members, k, k):
        raise ValueError(f"distances: must have shape [{rounds}, m, {k}, {k}], has {list(sorted_.shape)}")
    allowed, shares = np.atleast_1d(numbers_of("alphas", alphas)), np.atleast_1d(numbers_of("gammas", gammas))
    for name, values in (("alphas", allowed), ("gammas", shares)):
        if values.ndim != 1:
            raise ValueError(f"{name}: must be a list of numbers, has shape {list(values.shape)}")
        for value in values.tolist():
            between(name, value, 0.0, 1.0, open_low=name == "gammas")
    gaps = policies[:, :, None] - policies[:, None, :]
    gaps[:, np.eye(k, dtype=np.bool_)] = -np.inf
    found = np.empty((len(allowed), len(shares)))
    for j, gamma in enumerate(shares):
        worst = (gaps - sorted_[:, rank_of(gamma, members)]).max(axis=(1, 2))
        found[:, j] = (worst > allowed[:, None]).mean(axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Panel:
    """Auditors with distances ``min(1, scale * sum_f weight_f |x_f - x'_f| + slack)``, 0 for one and the same person.

    Attributes:
        weights: float64 ``[m, d]``, at least 0: how much each auditor cares for each feature.
        slack: float64 ``[m]``, in [0, 1]: what each finds negligible.
        alpha: what the panel tolerates beyond distances, in [0, 1].
        gamma: share of members that must see a violation, in (0, 1].
        scale: of distances, above 0.

    Raises ValueError for an empty panel and numbers out of range.
    """

    weights: Floats
    slack: Floats
    alpha: float = 0.1
    gamma: float = 0.5
    scale: float = 2.0

    def __post_init__(self) -> None:
        for name in ("weights", "slack"):
            object.__setattr__(self, name, numbers_of(name, getattr(self, name)))
        if self.weights.ndim != 2 or len(self.weights) == 0 or self.slack.shape != (len(self.weights),):
            raise ValueError("weights: must have shape [m, d] with at least one auditor, and slack [m]")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise ValueError("weights: must be at least 0")
        if not ((self.slack >= 0) & (self.slack <= 1)).all():
            raise ValueError("slack: must be in [0, 1]")
        between("alpha", self.alpha, 0.0, 1.0)
        between("gamma", self.gamma, 0.0, 1.0, open_low=True)
        between("scale", self.scale, 0.0, open_low=True)

    @classmethod
    def random(
        cls, features: int, members: int, rng: np.random.Generator, alpha: float = 0.1, gamma: float = 0.5,
        slack: tuple[float, float] = (0.05, 0.15), group: float = 0.0,
    ) -> Panel:  # fmt: skip
        """Dirichlet weights on all features but the last, which says to which group somebody belongs.

        Args:
            features: d, at least 2.
            members: m, at least 1.
            rng: for weights and slack.
            alpha, gamma: of the panel.
            slack: the range that each one's is drawn from.
            group: everybody's weight of the last feature; with 1/2 or more people of different groups are as far apart
                as can be, and no difference between them is ever reported.

        Raises ValueError for numbers out of range.
        """
        weights = np.zeros((whole("members", members), whole("features", features, least=2)))
        weights[:, :-1] = rng.dirichlet(np.ones(features - 1), members)
        weights[:, -1] = group
        return cls(weights, rng.uniform(*slack, members), alpha, gamma)

    def _people(self, people: ArrayLike) -> Floats:
        """float64 ``[k, d]``. Raises ValueError for another shape, or numbers that are not finite."""
        array = numbers_of("people", people)
        if array.ndim != 2 or array.shape[1] != self.weights.shape[1]:
            raise ValueError(f"people: must have shape [k, {self.weights.shape[1]}], has {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError("people: must be finite")
        return array

    def tolerances(self, people: ArrayLike) -> Floats:
        """float64 ``[k, k]``: the distance that decides for the panel; people: float64 ``[k, d]``, finite.

        Raises ValueError for people of another shape, or not finite.
        """
        rank = rank_of(self.gamma, len(self.weights))
        return _tolerances(self._people(people), self.weights, self.slack, float(self.scale), rank)

    def distances(self, people: ArrayLike) -> Floats:
        """float64 ``[m, k, k]``: everybody's distances. Raises as :meth:`tolerances`."""
        who, scale = self._people(people), float(self.scale)
        return np.stack([_tolerances(who, w[None], s[None], scale, 0) for w, s in zip(self.weights, self.slack)])

    def report(self, people: ArrayLike, treatment: ArrayLike) -> tuple[int, int] | None:
        """The pair (a, b) of which a is treated too well by most, or None.

        Args:
            people: float64 ``[k, d]``, finite.
            treatment: float64 ``[k]``, in [0, 1]: the probability with which the policy accepts each.

        Raises ValueError for other shapes, or numbers out of range.
        """
        tolerances, policy = self.tolerances(people), numbers_of("treatment", treatment)
        if policy.shape != tolerances.shape[:1] or not ((policy >= 0) & (policy <= 1)).all():
            raise ValueError(f"treatment: must be {len(tolerances)} numbers in [0, 1], one for each person")
        return most_unfair(policy, tolerances, float(self.alpha))

    def frontier(self, people: ArrayLike, treatments: ArrayLike, alphas: ArrayLike, gammas: ArrayLike) -> Floats:
        """In which share of logged rounds its members would have reported a pair, had they been asked otherwise.

        Args:
            people: float64 ``[T, k, d]``, finite: who arrived, T of at least 1.
            treatments: float64 ``[T, k]``, in [0, 1]: the probability with which the policy accepted each.
            alphas: float64 ``[A]``, or a number, in [0, 1]: in place of ``alpha``.
            gammas: float64 ``[G]``, or a number, in (0, 1]: in place of ``gamma``.

        Returns:
            float64 ``[A, G]``, in [0, 1].

        Raises ValueError for other shapes, an empty log, and numbers out of range.
        """
        rounds, policies = numbers_of("people", people), numbers_of("treatments", treatments)
        if rounds.ndim != 3 or not len(rounds):
            raise ValueError(f"people: must have shape [T, k, d], with at least one round, has {list(rounds.shape)}")
        if policies.shape != rounds.shape[:2]:
            raise ValueError(f"treatments: must have shape {list(rounds.shape[:2])}, has {list(policies.shape)}")
        return frontier(policies, np.stack([self.distances(each) for each in rounds]), alphas, gammas)
