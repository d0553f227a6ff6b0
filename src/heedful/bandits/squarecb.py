"""SquareCB plays an action with a probability that is the inverse of how much worse it is predicted to be.

Foster, Rakhlin, "Beyond UCB: Optimal and Efficient Contextual Bandits with Regression Oracles", ICML 2020 (arXiv
2002.04926), section 3. With K feasible actions, predictions f and the best of them b,
``p(a) = 1 / (K + gamma (f(b) - f(a)))`` for the others, and b has the rest, which is at least 1/K. ``gamma`` grows with
what the model has seen, ``gamma = scale n^exponent`` as in VowpalWabbit; the theorem's is
``sqrt(K T / (Reg_sq + log(2 / delta)))`` for T rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from heedful.bandits.checks import between
from heedful.bandits.exploring import INVERSE_GAP, OracleMethod


@dataclass(frozen=True)
class SquareCB(OracleMethod):
    """Inverse-gap weighting; rewards in [0, 1].

    In batches n is the number of rows that the model was trained on, not all that were ever seen: what a short window
    supports is what counts. On its own it is the number of rewards learned.

    Attributes:
        scale: of gamma, above 0.
        exponent: of n, in [0, 1].
        gamma: a fixed gamma instead, at least 0; None: ``scale n^exponent``.
        ridge: of the regression that it uses on its own, above 0.
        shared: one regression for all actions; contexts are float64 ``[K, d]``, as many actions as there are rows.

    >>> SquareCB(gamma=10.0).probabilities([[0.9, 0.5, 0.1]]).round(6).tolist()
    [[0.766234, 0.142857, 0.090909]]
    """

    name: ClassVar[str] = "squarecb"
    way: ClassVar[int] = INVERSE_GAP
    unit_rewards: ClassVar[bool] = True
    scale: float = 10.0
    exponent: float = 0.5
    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        between("scale", self.scale, 0.0, open_low=True)
        between("exponent", self.exponent, 0.0, 1.0)
        if self.gamma is not None:
            between("gamma", self.gamma, 0.0)

    def strength(self, rows: int, actions: int) -> float:
        return self.scale * rows**self.exponent if self.gamma is None else self.gamma
