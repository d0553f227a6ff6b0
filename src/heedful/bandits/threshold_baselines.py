"""Yardsticks for choosing thresholds: no constraint at all, only what is proven safe, and one threshold for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numba
import numpy as np
from numpy.typing import NDArray

from heedful.bandits.checks import between
from heedful.bandits.ofs import best
from heedful.bandits.threshold_averages import Averages, Constrained
from heedful.bandits.thresholds import Floats, Seen, ThresholdMethod, look, settle


@numba.njit(cache=True, nogil=True)
def _largest(sums, plays, clock, widths, points):  # type: ignore[no-untyped-def]
    count = sums.shape[1]
    upper, residual = np.empty(count), np.empty(count)
    for s in range(len(points)):
        look(sums[s], clock[s], widths, (0.0, -np.inf, np.inf), -1.0, upper, residual)
        residual[:] = 0.0
        points[s] = settle(plays[s], clock[s], best(upper, residual, plays[s]))


@numba.njit(cache=True, nogil=True)
def _proven(sums, plays, clock, widths, limits, points):  # type: ignore[no-untyped-def]
    count = sums.shape[1]
    upper, residual, hope = np.empty(count), np.empty(count), np.empty(count)
    for s in range(len(points)):
        look(sums[s], clock[s], widths, limits, -1.0, upper, hope)
        look(sums[s], clock[s], widths, limits, 1.0, upper, residual)
        residual[0] = 0.0  # where it starts counts as safe
        for k in range(1, count):
            if residual[k] > 0.0:  # the next one above what is proven may be tried until it is refuted
                if hope[k] <= 0.0:
                    residual[k] = 0.0
                break
        points[s] = settle(plays[s], clock[s], best(upper, residual, plays[s]))


@dataclass(frozen=True)
class ThresholdUCB(Averages):
    """The largest mean reward plus width, whatever it does to groups.

    Attributes:
        width: factor of all widths, at least 0.
        delta: confidence parameter, above 0.
        scale: standard deviation of one cohort's numbers, at least 0 (0.2 does for 200 people), or ``"auto"``.
        discount: what the past weighs after each outcome, in (0, 1].
        window: only so many outcomes are remembered; None: all.
    """

    name: ClassVar[str] = "threshold-ucb"

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: Any) -> None:
        _largest(seen.sums, seen.plays, seen.clock, self.widths, points)


@dataclass(frozen=True)
class PessimisticSearch(Constrained):
    """Only thresholds whose residual plus width is at most 0, from the lowest (most permissive) one upwards.

    The lowest counts as safe. The next one above those that are proven may be tried until it is refuted.

    Attributes:
        eps: tolerance of the gap between acceptance rates, at least 0.
        rho_min: least total acceptance rate, in [0, 1]; None: none.
        rho_max: largest total acceptance rate, in [0, 1]; None: none.
        width: factor of all widths, at least 0.
        delta: confidence parameter, above 0.
        scale: standard deviation of one cohort's numbers, at least 0 (0.2 does for 200 people), or ``"auto"``.
        discount: what the past weighs after each outcome, in (0, 1].
        window: only so many outcomes are remembered; None: all.
    """

    name: ClassVar[str] = "pessimistic-search"

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: Any) -> None:
        _proven(seen.sums, seen.plays, seen.clock, self.widths, self.limits, points)


@dataclass(frozen=True)
class StaticThreshold(ThresholdMethod):
    """Always the point of the grid that is closest to one threshold; of two, the lower.

    Attributes:
        threshold: in [0, 1].
    """

    name: ClassVar[str] = "static-threshold"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        between("threshold", self.threshold, 0.0, 1.0)

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: Any) -> None:
        points[:] = np.abs(grid - self.threshold).argmin()
        seen.plays[:, points[0]] += 1
        seen.clock[:, 0] += 1
