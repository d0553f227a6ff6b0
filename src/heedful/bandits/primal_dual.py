"""Primal-dual UCB plays the threshold that is worth most after a price on its optimistic residual.

The optimistic primal-dual method of Efroni, Mannor, Pirotta, "Exploration-Exploitation in Constrained MDPs", arXiv
2003.02189, 2020, with one state: ``argmax R_k + b_k - price (max residual_k - b_k)`` and, after each outcome,
``price = max(0, price + rate * residual)``. The residual is the one of the cohort that was seen (``observed``), whose
modulus is too large in small cohorts, or that of the means of the point that was played (``mean``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import between
from heedful.bandits.threshold_averages import Constrained
from heedful.bandits.thresholds import Floats, Seen, look, settle


@numba.njit(cache=True, nogil=True)
def _choose(sums, plays, clock, price, widths, limits, points):  # type: ignore[no-untyped-def]
    count = sums.shape[1]
    upper, residual = np.empty(count), np.empty(count)
    for s in range(len(points)):
        look(sums[s], clock[s], widths, limits, -1.0, upper, residual)
        found, top = -1, -np.inf
        for k in range(count):
            index = upper[k]  # infinite where nothing is known, and stays so
            if price[s] > 0.0 and index < np.inf:
                index -= price[s] * residual[k]
            if found < 0 or index > top or (index == top and plays[s, k] < plays[s, found]):
                found, top = k, index
        points[s] = settle(plays[s], clock[s], found)


@numba.njit(cache=True, nogil=True)
def _raise(sums, clock, price, told, limits, step, observed):  # type: ignore[no-untyped-def]
    eps, low, high = limits
    for s in range(len(price)):
        gap, rate = told[s, 1], told[s, 2]
        if not observed:
            cell = sums[s, clock[s, 1]]
            gap = cell[3] / cell[1] if cell[1] > 0.0 else np.nan
            rate = cell[4] / cell[0] if cell[0] > 0.0 else np.nan
        if gap == gap:
            price[s] = max(0.0, price[s] + step * max(abs(gap) - eps, max(low - rate, rate - high)))


@dataclass(frozen=True)
class PrimalDualUCB(Constrained):
    """UCB with a price on infeasibility.

    Attributes:
        eps: tolerance of the gap between acceptance rates, at least 0.
        rho_min: least total acceptance rate, in [0, 1]; None: none.
        rho_max: largest total acceptance rate, in [0, 1]; None: none.
        width: factor of all widths, at least 0.
        delta: confidence parameter, above 0.
        scale: standard deviation of one cohort's numbers, at least 0 (0.2 does for 200 people), or ``"auto"``.
        discount: what the past weighs after each outcome, in (0, 1].
        window: only so many outcomes are remembered; None: all.
        step: how far the price moves per unit of residual, above 0.
        residual: ``"observed"``: of the last cohort; ``"mean"``: of the means of the point that was played last.
    """

    name: ClassVar[str] = "primal-dual-ucb"
    step: float = 0.05
    residual: Literal["observed", "mean"] = "observed"

    def __post_init__(self) -> None:
        super().__post_init__()
        between("step", self.step, 0.0, open_low=True)
        if self.residual not in ("observed", "mean"):
            raise ValueError(f"residual={self.residual!r}: must be observed or mean")

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: Any) -> None:
        _choose(seen.sums, seen.plays, seen.clock, seen.price, self.widths, self.limits, points)

    def priced(self, seen: Seen, told: Floats) -> None:
        _raise(seen.sums, seen.clock, seen.price, told, self.limits, float(self.step), self.residual == "observed")
