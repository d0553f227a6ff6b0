"""Which rule of a class costs least, when accepting person x_i costs weight_i? Optimisers that find it.

A learner that asks for ``argmin_h sum_i weight_i h(x_i)`` alone never has to go through its class: it needs one of
these and a list of people. Weights have either sign, and minimising them is weighted binary classification, with label
1 where the weight is negative and ``|weight|`` as importance.

Every rule found is linear, ``weights . x >= offset``: stumps are, with a single weight of 1 or -1, and so are the
constants, with weights 0 and an infinite offset. Of rules that cost the same, accepting all comes first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.checks import between, numbers_of
from heedful.bandits.linear_rules import Bits, Floats, LinearRules, accepts


class Hypotheses(NamedTuple):
    """Rules that were found: weights, float64 ``[B, d]``, and offsets, float64 ``[B]``."""

    weights: Floats
    offsets: Floats

    def predict(self, people: Floats) -> Bits:
        """int8 ``[B, k]``: 1 where a rule accepts a person; people: float64 ``[k, d]``."""
        return accepts(self.weights, self.offsets, people)


Solver = Callable[[Floats], Hypotheses]
"""From weights, float64 ``[B, N]``, to the best rule for each row."""


@dataclass(frozen=True, eq=False)
class ClassificationOracle:
    """A class of rules that is known through its optimiser, and a separator of it.

    Attributes:
        separator: float64 ``[D, d]``, finite: people on whom any two rules of the class differ somewhere, such as all
            who will ever arrive (the transductive set); perturbations are put on them.

    Raises ValueError for separators of another shape, and numbers that are not finite.
    """

    separator: Floats

    def __post_init__(self) -> None:
        array = numbers_of("separator", self.separator)
        if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
            raise ValueError("separator: must be finite numbers of shape [D, d], both at least 1")
        object.__setattr__(self, "separator", array)

    @property
    def features(self) -> int:
        """d, by how many numbers a person is described."""
        return self.separator.shape[1]

    def over(self, contexts: Floats) -> Solver:
        """The optimiser for people float64 ``[N, d]``: what depends on them alone is done once."""
        raise NotImplementedError

    def fit(self, contexts: ArrayLike, weights: ArrayLike) -> Hypotheses:
        """For each row of weights a rule with the least ``sum_i weight_i h(x_i)``.

        Args:
            contexts: float64 ``[N, d]``, finite, N at least 1.
            weights: float64 ``[N]`` or ``[B, N]``, finite; of either sign.

        Raises ValueError for other shapes and numbers that are not finite.
        """
        x, w = numbers_of("contexts", contexts), np.atleast_2d(numbers_of("weights", weights))
        if x.ndim != 2 or x.shape[1] != self.features or len(x) == 0 or not np.isfinite(x).all():
            raise ValueError(f"contexts: must be finite numbers of shape [N, {self.features}], N at least 1")
        if w.ndim != 2 or w.shape[1] != len(x) or not np.isfinite(w).all():
            raise ValueError(f"weights: must be finite numbers of shape [{len(x)}] or [B, {len(x)}]")
        return self.over(x)(w)

    def __str__(self) -> str:
        return f"{type(self).__name__} over {len(self.separator)} points {zlib.crc32(self.separator.tobytes()):08x}"


@dataclass(frozen=True, eq=False)
class ExhaustiveOracle(ClassificationOracle):
    """Looks through all rules of a finite class: exact, in H times N steps.

    Attributes:
        separator: see :class:`ClassificationOracle`.
        rules: the class, over as many features.
    """

    rules: LinearRules

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rules.features != self.features:
            raise ValueError(f"rules: must be over {self.features} features like the separator")

    def over(self, contexts: Floats) -> Solver:
        says = self.rules.predict(contexts).T.astype(np.float64)

        def solve(weights: Floats) -> Hypotheses:
            best = (weights @ says).argmin(axis=1)
            return Hypotheses(self.rules.weights[best], self.rules.offsets[best])

        return solve

    def __str__(self) -> str:
        digest = zlib.crc32(self.rules.weights.tobytes() + self.rules.offsets.tobytes())
        return f"{super().__str__()}, {len(self.rules)} rules {digest:08x}"


@numba.njit(cache=True, nogil=True)
def _best_stumps(values, order, weights, slopes, offsets):  # type: ignore[no-untyped-def]
    """Fills in the best stump for each row of weights; ``values``: ``[d, N]``, increasing, of people ``order``."""
    features, people = order.shape
    for b in range(len(weights)):
        row, total = weights[b], 0.0
        for i in range(people):
            total += row[i]
        least, feature, slope, offset = total, 0, 0.0, -np.inf
        if least > 0.0:
            least, offset = 0.0, np.inf
        for f in range(features):
            above = 0.0
            for j in range(people - 1, 0, -1):
                above += row[order[f, j]]
                if values[f, j - 1] < values[f, j]:
                    if above < least:
                        least, feature, slope, offset = above, f, 1.0, values[f, j]
                    if total - above < least:
                        least, feature, slope, offset = total - above, f, -1.0, -values[f, j - 1]
        slopes[b, feature] = slope
        offsets[b] = offset


@dataclass(frozen=True, eq=False)
class StumpOracle(ClassificationOracle):
    """All stumps, ``x_f >= t`` and ``x_f <= t`` for any feature f and number t, and the constants: exact.

    People are sorted by each feature once; for each row of weights sums from the top then give the cost of every stump
    in d times N steps, however many stumps there are. Thresholds are values of the people it is given.

    Attributes:
        separator: see :class:`ClassificationOracle`.
    """

    def over(self, contexts: Floats) -> Solver:
        order = np.ascontiguousarray(np.argsort(contexts, axis=0, kind="stable").T)
        values = np.take_along_axis(contexts.T, order, axis=1)

        def solve(weights: Floats) -> Hypotheses:
            slopes, offsets = np.zeros((len(weights), len(order))), np.empty(len(weights))
            _best_stumps(values, order, weights, slopes, offsets)
            return Hypotheses(slopes, offsets)

        return solve


@dataclass(frozen=True, eq=False)
class LinearOracle(ClassificationOracle):
    """Linear rules by logistic regression: a HEURISTIC, for finding the best one is hard, and no guarantee holds.

    The regression takes the sign of each weight for its label and the modulus for its importance; of the rule that it
    finds and the two constants, the one that costs least is taken.

    Attributes:
        separator: see :class:`ClassificationOracle`.
        ridge: factor of half the squared length of the direction, above 0.
    """

    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("ridge", self.ridge, 0.0, open_low=True)

    def over(self, contexts: Floats) -> Solver:
        def solve(weights: Floats) -> Hypotheses:
            slopes, offsets = np.zeros((len(weights), self.features)), np.full(len(weights), -np.inf)
            for b, row in enumerate(weights):
                least = float(row.sum())
                if least > 0:
                    least, offsets[b] = 0.0, np.inf
                counted = row != 0
                labels = row[counted] < 0
                if not (labels.any() and not labels.all()):
                    continue
                direction, offset = self._regress(contexts[counted], labels, np.abs(row[counted]))
                if row[contexts @ direction >= offset].sum() < least:
                    slopes[b], offsets[b] = direction, offset
            return Hypotheses(slopes, offsets)

        return solve

    def _regress(self, people: Floats, labels: NDArray[np.bool_], importance: Floats) -> tuple[Floats, float]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1 / self.ridge, solver="newton-cholesky")
        model.fit(people, labels, sample_weight=importance)
        return model.coef_[0], -float(model.intercept_[0])

    def __str__(self) -> str:
        return f"{super().__str__()}, ridge {self.ridge}"
