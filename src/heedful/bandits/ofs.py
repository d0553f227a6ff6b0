"""Optimistic Feasible Search plays, of the thresholds that may still be feasible, the one that may be worth most.

Du, "Optimistic Feasible Search for Closed-Loop Fair Threshold Decision-Making", arXiv 2512.22313, 2025 (its exact
constants are ours). With mean reward R_k, mean signed gap D_k, mean rate S_k and width b_k of threshold k, the
optimistic residual is ``g_k = max(|D_k| - eps, rho_min - S_k, S_k - rho_max) - b_k``; played is
``argmax {R_k + b_k : g_k <= 0}``, and where no g_k is, ``argmin g_k``. Ties: fewest plays, then the lowest threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import between, whole
from heedful.bandits.threshold_averages import Constrained
from heedful.bandits.thresholds import Floats, Seen, look, settle


@numba.njit(cache=True, nogil=True)
def _envelope(values, grid, slope, sign):  # type: ignore[no-untyped-def]
    """``min_j values_j + slope |grid_k - grid_j|`` for sign 1, ``max_j values_j - slope ...`` for -1; in place."""
    for k in range(1, len(grid)):
        step = sign * slope * (grid[k] - grid[k - 1])
        values[k] = sign * min(sign * values[k], sign * (values[k - 1] + step))
    for k in range(len(grid) - 2, -1, -1):
        step = sign * slope * (grid[k + 1] - grid[k])
        values[k] = sign * min(sign * values[k], sign * (values[k + 1] + step))


@numba.njit(cache=True, nogil=True)
def best(upper, residual, plays):  # type: ignore[no-untyped-def]
    """The largest ``upper`` with a residual of at most 0; where there is none, the smallest residual."""
    found = -1
    for k in range(len(upper)):
        if residual[k] <= 0.0 and (
            found < 0 or upper[k] > upper[found] or (upper[k] == upper[found] and plays[k] < plays[found])
        ):
            found = k
    if found >= 0:
        return found
    for k in range(len(upper)):
        if found < 0 or residual[k] < residual[found] or (residual[k] == residual[found] and plays[k] < plays[found]):
            found = k
    return found


@numba.njit(cache=True, nogil=True)
def _choose(sums, plays, clock, grid, widths, limits, slope, burn_in, points, counted):  # type: ignore[no-untyped-def]
    upper, residual = np.empty(len(grid)), np.empty(len(grid))
    for s in range(len(points)):
        if clock[s, 2] > 0:
            clock[s, 2] -= 1
            points[s] = settle(plays[s], clock[s], clock[s, 1])
            counted[s] = clock[s, 2] == 0
            continue
        look(sums[s], clock[s], widths, limits, -1.0, upper, residual)
        if slope >= 0.0:
            _envelope(upper, grid, slope, 1.0)
            _envelope(residual, grid, slope, -1.0)
        k = best(upper, residual, plays[s])
        if k != clock[s, 1]:
            clock[s, 2] = burn_in
            counted[s] = burn_in == 0
        points[s] = settle(plays[s], clock[s], k)


@dataclass(frozen=True)
class OFS(Constrained):
    """Optimistic feasible search.

    Attributes:
        eps: tolerance of the gap between acceptance rates, at least 0.
        rho_min: least total acceptance rate, in [0, 1]; None: none.
        rho_max: largest total acceptance rate, in [0, 1]; None: none.
        width: factor of all widths, at least 0.
        delta: confidence parameter, above 0.
        scale: standard deviation of one cohort's numbers, at least 0 (0.2 does for 200 people), or ``"auto"``.
        discount: what the past weighs after each outcome, in (0, 1]; for slow drift.
        window: only so many outcomes are remembered; None: all; for slow drift.
        burn_in: after a change of threshold the outcomes of so many decisions are left out of the averages, so that
            means speak of the population that has settled. The threshold is kept for these decisions and for one more,
            whose outcome counts. Decisions are counted, whether or not their outcomes have come.
        lipschitz: rewards, gaps and rates differ by at most this times the distance of two thresholds, so that
            neighbours speak for each other; at least 0; None: they do not.
    """

    name: ClassVar[str] = "ofs"
    burn_in: int = 0
    lipschitz: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("burn_in", self.burn_in, least=0)
        if self.lipschitz is not None:
            between("lipschitz", self.lipschitz, 0.0)

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: Any) -> None:
        slope = -1.0 if self.lipschitz is None else float(self.lipschitz)
        sums, plays, clock = seen.sums, seen.plays, seen.clock
        _choose(sums, plays, clock, grid, self.widths, self.limits, slope, self.burn_in, points, counted)
