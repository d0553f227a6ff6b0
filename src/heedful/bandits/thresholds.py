"""Learners that choose a score threshold for a cohort of people and are told what that threshold brought.

Everybody whose score is at least the threshold is accepted. What is told is the cohort's mean reward, the SIGNED gap
between the acceptance rates of two groups, and the rate of all; nothing is told about other thresholds. Rules here are
deterministic. Signed gaps are averaged, and the modulus is taken after: the modulus of one cohort's gap is too large by
about 0.8 of its standard deviation, so that averages of it make a fair threshold look unfair.

One learner and many seeds together run by the same compiled step.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.bandits.base import Kept, Learner, Method
from heedful.bandits.checks import numbers_of, whole
from heedful.bandits.streams import streams

Floats = NDArray[np.float64]
_ABSENT = 2.0
"""Stands for a missing gap, which is at most 1, where states must be finite."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold of the grid.

    Attributes:
        token: by which feedback refers to it.
        point: its place in the grid, 0..K-1.
        threshold: in [0, 1].
    """

    token: int
    point: int
    threshold: float
    probability: ClassVar[float] = 1.0
    supported: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """A threshold in every lane: ``points`` int64 ``[lanes]``, ``thresholds`` float64 ``[lanes]``."""

    token: int
    points: NDArray[np.int64]
    thresholds: Floats
    probability: ClassVar[float] = 1.0
    supported: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a threshold brought.

    Attributes:
        token: of the decision.
        reward: mean over the cohort, rejected people counting 0; any finite number.
        gap: acceptance rate of group 0 less that of group 1, in [-1, 1]; NaN if a group was absent, and then nothing is
            learned about gaps.
        rate: share of the cohort that was accepted, in [0, 1].
    """

    token: int
    reward: float
    gap: float
    rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What the thresholds of all lanes brought: as :class:`Outcome`, float64 ``[lanes]`` each."""

    token: int
    reward: Floats
    gap: Floats
    rate: Floats


class Seen(NamedTuple):
    """What is known of each point.

    Attributes:
        sums: float64 ``[lanes, K, 8]``: number of outcomes, of outcomes with a gap; sums of rewards, gaps, rates, and
            of their squares. Discounted, or over a window, where the method says so.
        plays: int64 ``[lanes, K]``: how often it was decided.
        clock: int64 ``[lanes, 4]``: decisions so far; the last point, -1 at first; decisions for which it is held; the
            next place in ``recent``.
        recent: float64 ``[lanes, window, 4]``: the last outcomes: point (-1: none), reward, gap (2: absent), rate.
        price: float64 ``[lanes]``: the multiplier of methods that have one.
    """

    sums: Floats
    plays: NDArray[np.int64]
    clock: NDArray[np.int64]
    recent: Floats
    price: Floats


@numba.njit(cache=True, nogil=True)
def _add(cell, reward, gap, rate, sign):  # type: ignore[no-untyped-def]
    cell[0] += sign
    cell[2] += sign * reward
    cell[4] += sign * rate
    cell[5] += sign * reward * reward
    cell[7] += sign * rate * rate
    if gap == gap:
        cell[1] += sign
        cell[3] += sign * gap
        cell[6] += sign * gap * gap


@numba.njit(cache=True, nogil=True)
def _learn(sums, clock, recent, points, counted, told, discount):  # type: ignore[no-untyped-def]
    size = recent.shape[1]
    for s in range(len(points)):
        if discount < 1.0:
            sums[s] *= discount
        if not counted[s]:
            continue
        reward, gap, rate = told[s, 0], told[s, 1], told[s, 2]
        _add(sums[s, points[s]], reward, gap, rate, 1.0)
        if size > 0:
            place = clock[s, 3]
            old = recent[s, place]
            if old[0] >= 0.0:
                cell = sums[s, np.int64(old[0])]
                _add(cell, old[1], old[2] if old[2] < _ABSENT else np.nan, old[3], -1.0)
                if cell[0] < 0.5:  # nothing of it is left but rounding
                    cell[:] = 0.0
            old[0], old[1], old[2], old[3] = points[s], reward, gap if gap == gap else _ABSENT, rate
            clock[s, 3] = (place + 1) % size


@numba.njit(cache=True, nogil=True)
def _spread(sums, number, which):  # type: ignore[no-untyped-def]
    """Pooled standard deviation of one cohort's number around its point's mean; 0.5 before any point has two."""
    squares, freedom = 0.0, 0.0
    for k in range(len(sums)):
        n = sums[k, number]
        if n > 1.0:
            squares += sums[k, which + 3] - sums[k, which] ** 2 / n
            freedom += n - 1.0
    return np.sqrt(max(0.0, squares) / freedom) if freedom > 0.0 else 0.5


@numba.njit(cache=True, nogil=True)
def look(sums, clock, widths, limits, side, upper, residual):  # type: ignore[no-untyped-def]
    """What each point may be worth, and how far it may be from feasible.

    Args:
        widths: of :attr:`~heedful.bandits.threshold_averages.Averages.widths`.
        limits: of :attr:`~heedful.bandits.threshold_averages.Constrained.limits`.
        side: -1 for optimistic residuals (least that is plausible), 1 for pessimistic ones.
        upper: float64 ``[K]``, filled in: mean reward plus width; infinite where nothing is known.
        residual: float64 ``[K]``, filled in: the largest of |gap| - eps, low - rate and rate - high, with widths.
    """
    points = len(sums)
    width, delta, scale = widths
    eps, low, high = limits
    log = max(0.0, np.log(2.0 * points * (clock[0] + 1.0) ** 2 / delta))
    unit = width * np.sqrt(0.5 * log)
    if scale >= 0.0:
        of_reward = of_gap = of_rate = scale * unit
    else:
        of_reward = _spread(sums, 0, 2) * unit
        of_gap = _spread(sums, 1, 3) * unit
        of_rate = _spread(sums, 0, 4) * unit
    for k in range(points):
        n, with_gap = sums[k, 0], sums[k, 1]
        if n <= 1e-9:
            upper[k], residual[k] = np.inf, side * np.inf
            continue
        upper[k] = sums[k, 2] / n + of_reward / np.sqrt(n)
        rate, b = sums[k, 4] / n, side * of_rate / np.sqrt(n)
        worst = max(low - rate + b, rate - high + b)
        if with_gap > 1e-9:
            residual[k] = max(worst, abs(sums[k, 3] / with_gap) - eps + side * of_gap / np.sqrt(with_gap))
        else:
            residual[k] = max(worst, side * np.inf)
    return 0


@numba.njit(cache=True, nogil=True)
def settle(plays, clock, k):  # type: ignore[no-untyped-def]
    """Notes that point k is played."""
    plays[k] += 1
    clock[0] += 1
    clock[1] = k
    return k


@dataclass(frozen=True)
class ThresholdMethod(Method):
    """A method that chooses one threshold of a grid for a whole cohort."""

    kind: ClassVar[str] = "thresholds"

    @property
    def memory(self) -> tuple[float, int]:
        """Discount per outcome in (0, 1], and how many outcomes are remembered at most, 0 for all."""
        return 1.0, 0

    def choose(self, seen: Seen, grid: Floats, points: NDArray[np.int64], counted: NDArray[np.bool_]) -> None:
        """Decides in every lane: fills in the points, and whether their outcomes will enter the averages (all True).

        Args:
            seen: changes in place.
            grid: float64 ``[K]``.
            points: int64 ``[lanes]``.
            counted: bool ``[lanes]``.
        """
        raise NotImplementedError

    def priced(self, seen: Seen, told: Floats) -> None:
        """Moves multipliers after outcomes: float64 ``[lanes, 3]``, rewards, gaps and rates."""

    def start(
        self, grid: ArrayLike | int = 25, seed: int = 0, max_pending: int | None = None, expire_after: int | None = None
    ) -> ThresholdLearner:
        """A learner on its own.

        Args:
            grid: increasing thresholds in [0, 1], or how many, equally spaced in [0.02, 0.98].
            seed: these rules draw nothing: taken so that all methods of the room are started alike.
            max_pending, expire_after: see :class:`~heedful.bandits.base.Ledger`.

        Raises ValueError for an empty, unsorted or otherwise wrong grid, and for a negative seed.
        """
        return ThresholdLearner(self, grid, [seed], max_pending, expire_after)

    def many(
        self, grid: ArrayLike | int = 25, seeds: Sequence[int] = (0,),
        max_pending: int | None = None, expire_after: int | None = None,
    ) -> ThresholdLanes:  # fmt: skip
        """A lane per seed, each deciding as ``start(grid)`` would on its outcomes. Raises as :meth:`start`."""
        return ThresholdLanes(self, grid, seeds, max_pending, expire_after)


def thresholds_of(grid: ArrayLike | int) -> Floats:
    """The grid as float64 ``[K]``. Raises ValueError for one that is empty, not increasing or outside [0, 1]."""
    if isinstance(grid, int | np.integer) and not isinstance(grid, bool):
        return np.linspace(0.02, 0.98, whole("grid", grid)) if grid != 1 else np.array([0.5])
    array = numbers_of("grid", grid).copy()
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"grid: must be a list of at least one threshold, has shape {list(array.shape)}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError("grid: thresholds must be in [0, 1]")
    if (np.diff(array) <= 0).any():
        raise ValueError("grid: thresholds must increase")
    return array


class _Thresholds(Learner[Any]):
    """What a learner on its own and many together have in common."""

    method: ThresholdMethod

    def __init__(
        self, method: ThresholdMethod, grid: ArrayLike | int, seeds: Sequence[int],
        max_pending: int | None, expire_after: int | None,
    ) -> None:  # fmt: skip
        self.grid, lanes = thresholds_of(grid), len(streams(seeds))
        self._discount, window = method.memory
        clock, recent = np.zeros((lanes, 4), dtype=np.int64), np.zeros((lanes, window, 4))
        clock[:, 1] = recent[:, :, 0] = -1
        plays = np.zeros((lanes, len(self.grid)), dtype=np.int64)
        seen = Seen(np.zeros((*plays.shape, 8)), plays, clock, recent, np.zeros(lanes))
        super().__init__(method, seen, lanes, max_pending, expire_after)

    def _decide(self) -> tuple[int, NDArray[np.int64]]:
        points, counted = np.empty(self.lanes, dtype=np.int64), np.ones(self.lanes, dtype=np.bool_)
        self.method.choose(self.state, self.grid, points, counted)
        return self.ledger.issue((points, counted)), points

    def check_feedback(self, kept: Kept, feedback: Any) -> None:
        if not isinstance(feedback, Outcomes if self._shape else Outcome):
            raise ValueError(f"feedback={feedback!r}: must be {'Outcomes' if self._shape else 'an Outcome'}")
        for name, low, high in (("reward", -np.inf, np.inf), ("gap", -1.0, 1.0), ("rate", 0.0, 1.0)):
            values = np.asarray(getattr(feedback, name, None))
            if values.shape != self._shape or values.dtype.kind not in "fiub":
                form = f"{self.lanes} numbers" if self._shape else "a number"
                raise ValueError(f"{name}: must be {form}, is {values.dtype} of shape {list(values.shape)}")
            missing = np.isnan(values)
            if not (((values >= low) & (values <= high)) | (missing & (name == "gap"))).all() or np.isinf(values).any():
                raise ValueError(f"{name}: must be {'finite' if high > 1 else f'in [{low:g}, {high:g}]'}")

    @property
    def _shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def learn(self, kept: Kept, feedback: Any) -> None:
        told = np.empty((self.lanes, 3))
        told[:, 0], told[:, 1], told[:, 2] = feedback.reward, feedback.gap, feedback.rate
        seen = self.state
        _learn(seen.sums, seen.clock, seen.recent, kept[0], kept[1], told, self._discount)
        self.method.priced(seen, told)

    def _about(self) -> str:
        return f"{super()._about()}, {len(self.grid)} thresholds {zlib.crc32(self.grid.tobytes()):08x}"


class ThresholdLearner(_Thresholds):
    """One learner: ``decide()``, ``update(Outcome)``.

    >>> from heedful.bandits import OFS, Outcome
    >>> learner = OFS(eps=0.1).start(grid=[0.3, 0.5, 0.7])
    >>> decision = learner.decide()
    >>> learner.update(Outcome(decision.token, reward=0.2, gap=0.04, rate=0.6))
    >>> decision.threshold, learner.decide().threshold
    (0.3, 0.5)
    """

    _shape = ()

    def decide(self) -> Threshold:
        """The threshold for the next cohort."""
        token, points = self._decide()
        point = int(points[0])
        return Threshold(token, point, float(self.grid[point]))


class ThresholdLanes(_Thresholds):
    """Many seeds together: ``decide()``, ``update(Outcomes)``, with a leading axis of lanes."""

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.lanes,)

    def decide(self) -> Thresholds:
        """A threshold in every lane for its next cohort."""
        token, points = self._decide()
        return Thresholds(token, points.copy(), self.grid[points])
