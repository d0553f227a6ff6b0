"""Unpublished yardsticks on the same predictions as SquareCB and FALCON: greedy, epsilon-greedy, softmax, a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.bandits.checks import between
from heedful.bandits.exploring import EPSILON, SOFTMAX, OracleMethod, Rule


@dataclass(frozen=True)
class Greedy(Rule):
    """The action with the best prediction; for batches: on its own it would stay with the first action it tried."""

    way: ClassVar[int] = EPSILON

    def strength(self, rows: int, actions: int) -> float:
        return 0.0


@dataclass(frozen=True)
class ContextualEpsilon(OracleMethod):
    """The action with the best prediction, and with probability epsilon any feasible one.

    Attributes:
        epsilon: in (0, 1].
        ridge: of the regression that it uses on its own, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    name: ClassVar[str] = "contextual-epsilon"
    way: ClassVar[int] = EPSILON
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        between("epsilon", self.epsilon, 0.0, 1.0, open_low=True)

    def strength(self, rows: int, actions: int) -> float:
        return self.epsilon


@dataclass(frozen=True)
class Softmax(OracleMethod):
    """Probabilities in proportion to the exponential of predictions.

    Attributes:
        sharpness: the inverse of the temperature, at least 0.
        ridge: of the regression that it uses on its own, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.
    """

    name: ClassVar[str] = "softmax"
    way: ClassVar[int] = SOFTMAX
    sharpness: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("sharpness", self.sharpness, 0.0)

    def strength(self, rows: int, actions: int) -> float:
        return self.sharpness


@dataclass(frozen=True)
class EpsilonSplit(Rule):
    """Epsilon-greedy in which the random slice alone trains the next model; for batches.

    Attributes:
        epsilon: share of requests in the random slice, in (0, 1].
    """

    way: ClassVar[int] = EPSILON
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        between("epsilon", self.epsilon, 0.0, 1.0, open_low=True)

    def strength(self, rows: int, actions: int) -> float:
        return self.epsilon
