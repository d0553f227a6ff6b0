"""Rules that accept people by a linear score, which learners with one-sided feedback choose among."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import numbers_of

Floats = NDArray[np.float64]
Bits = NDArray[np.int8]


def accepts(weights: Floats, offsets: Floats, people: Floats) -> Bits:
    """int8 ``[H, k]``: 1 where ``weights . x >= offset``; float64 ``[H, d]``, ``[H]`` and people ``[k, d]``."""
    return (weights @ people.T >= offsets[:, None]).view(np.int8)


@dataclass(frozen=True, eq=False)
class LinearRules:
    """Rules ``weights . x >= offset``, which contain the two constants: rule 0 accepts all, rule 1 rejects all.

    Attributes:
        weights: float64 ``[H, d]``, finite.
        offsets: float64 ``[H]``; of rule 0 minus infinity, of rule 1 infinity.

    Raises ValueError for other shapes and numbers, and if a constant is missing.
    """

    weights: Floats
    offsets: Floats

    def __post_init__(self) -> None:
        for name in ("weights", "offsets"):
            object.__setattr__(self, name, numbers_of(name, getattr(self, name)))
        if self.weights.ndim != 2 or self.offsets.shape != (len(self.weights),) or len(self.weights) < 2:
            raise ValueError("weights: must have shape [H, d] with H of at least 2, and offsets [H]")
        if not np.isfinite(self.weights).all() or np.isnan(self.offsets).any():
            raise ValueError("weights: must be finite, and offsets numbers")
        if self.offsets[0] != -np.inf or self.offsets[1] != np.inf:
            raise ValueError("offsets: rule 0 must accept all (-inf) and rule 1 reject all (inf)")

    @classmethod
    def random(cls, people: Floats, rules: int, rng: np.random.Generator, bonus: float = 0.3) -> LinearRules:
        """The constants, ``rules`` random directions, and copies of half of them that favour a group.

        Args:
            people: float64 ``[N, d]``, the last feature 1 for the favoured group, else 0.
            rules: how many; each cuts the people at a quantile drawn from [0.05, 0.95].
            rng: for directions (normal, 0 on the last feature) and quantiles.
            bonus: what the copies add to the score of the favoured.
        """
        weights = np.zeros((rules, people.shape[1]))
        weights[:, :-1] = rng.normal(size=(rules, people.shape[1] - 1))
        scores = people @ weights.T
        offsets = np.array([np.quantile(s, p) for s, p in zip(scores.T, rng.uniform(0.05, 0.95, rules))])
        favouring = weights[: rules // 2].copy()
        favouring[:, -1] = bonus
        constant = np.zeros((2, people.shape[1]))
        return cls(
            np.concatenate([constant, weights, favouring]),
            np.concatenate([[-np.inf, np.inf], offsets, offsets[: rules // 2]]),
        )

    @classmethod
    def stumps(cls, people: Floats) -> LinearRules:
        """The constants, and every ``x_f >= t`` and ``x_f <= t`` that tells some of the people apart.

        Args:
            people: float64 ``[N, d]``; thresholds are their values.
        """
        weights, offsets = [np.zeros((2, people.shape[1]))], [np.array([-np.inf, np.inf])]
        for direction, column in zip(np.eye(people.shape[1]), people.T):
            values = np.unique(column)
            weights += [np.tile(sign * direction, (len(values) - 1, 1)) for sign in (1.0, -1.0)]
            offsets += [values[1:], -values[:-1]]
        return cls(np.concatenate(weights), np.concatenate(offsets))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def features(self) -> int:
        """d, by how many numbers a person is described."""
        return self.weights.shape[1]

    def __str__(self) -> str:
        return f"{len(self)} rules {zlib.crc32(self.weights.tobytes() + self.offsets.tobytes()):08x}"

    def predict(self, people: Floats) -> Bits:
        """int8 ``[H, k]``: 1 where a rule accepts a person; people: float64 ``[k, d]``."""
        return accepts(self.weights, self.offsets, people)
